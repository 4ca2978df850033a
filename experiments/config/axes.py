"""What a sweep may go over.

Apart from ``experiments.config.schema``, so that arguments are read before JAX is imported.
"""

SHORT_AXES = {
    "horizon": "horizon",
    "num_models": "env.num_models",
    "target": "env.target",
    "budget_per_task": "env.budget_per_task",
}
SWEPT_GROUPS = ("policy", "demand", "forecaster", "env")
