"""``simulate``, ``run_study`` and ``load_study``: from a few words to results."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import jax

from envs import files
from envs.errors import InputError
from experiments import interrupt
from experiments.api import policies as own_policies
from experiments.api import settings
from experiments.api.policies import Policy
from experiments.api.results import Results
from experiments.api.settings import DEFAULT, Default
from experiments.cli import display, variables
from experiments.config import cells, rule_errors, sizes, sources
from experiments.config.cells import Cell
from experiments.config.study import StudyConfig, study_from
from experiments.engine import compiler, program_cache
from experiments.jobs import runner, simulator
from experiments.jobs.runner import Outcome
from experiments.report import publish, published
from experiments.results import layout, study_folder

_LOCK = RLock()  # registries and JAX's settings belong to the whole process
_SETTINGS = (  # of JAX, which a study sets
    *("jax_enable_x64", "jax_compilation_cache_dir"),
    *("jax_persistent_cache_min_compile_time_secs", "jax_persistent_cache_min_entry_size_bytes"),
)


class FailedCellsError(RuntimeError):
    """Some cells failed: one sentence for each policy, and the results of the others."""

    def __init__(self, failed: Mapping[str, str], results: Results) -> None:
        """``failed`` is policy -> sentence."""
        super().__init__("; ".join(f"{policy}: {sentence}" for policy, sentence in failed.items()))
        self.failed, self.results = dict(failed), results


def simulate(
    *,
    catalogue: str | Path | Default = DEFAULT,
    policies: Sequence[Policy] | Default = DEFAULT,
    horizon: int | Sequence[int] | Default = DEFAULT,
    budget_per_task: float | Sequence[float | None] | Default | None = DEFAULT,
    target: float | Sequence[float | None] | Default | None = DEFAULT,
    num_models: int | Sequence[int | None] | Default | None = DEFAULT,
    seeds: int | Default = DEFAULT,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = False,
    **keys: Any,
) -> Results:
    """Simulate a study in memory: no folder, no files but the cache of compiled programs.

    What is not given is as in ``conf/config.yaml``. Every key of the configuration may be given: ``demand="mmpp"`` (a
    file of ``conf/demand``), ``eval_rounds=64``, ``env={"latency_slo_s": 4.0}``, or dotted in ``overrides``. A list is
    an axis of the sweep, of which all combinations are simulated. Results are those of the command line, to the bit.

    Args:
        catalogue: a shipped catalogue's name, or the path of a CSV file.
        policies: rules' names, mappings as in the YAML, and instances of rules of your own, as ``MyRule(eps=0.1)`` or,
            with a name, ``("patient", MyRule(eps=0.1))``. A class need not be registered: it is a frozen dataclass that
            derives from ``bandits.routing.RoutingRule``.
        horizon: rounds.
        budget_per_task: USD a task of expected demand, never exceeded; None for no money budget.
        target: share of tasks wanted within the latency target, in [0, 1]; None for none.
        num_models: the first n models of the catalogue; None for all.
        seeds: independent runs a cell.
        overrides: dotted keys, e.g. ``{"env.cloud_rtt_s": 0.2, "policy.ucb1.width": [0.5, 1.0]}``.
        progress: show how far it is.
        keys: any other key of the configuration.

    Raises:
        InputError: something is wrong with what was given; one sentence.
        FailedCellsError: cells failed while they were simulated; it holds the results of the others.

    """
    keywords = {"catalogue": catalogue, "horizon": horizon, "budget_per_task": budget_per_task, "target": target}
    keywords |= {"num_models": num_models, "seeds": seeds, **keys}
    given = settings.collected(keywords, {} if overrides is None else overrides)
    with _alone(), own_policies.lent([] if policies is DEFAULT else policies) as listed:
        plain = settings.configuration(given if policies is DEFAULT else {**given, "policies": listed})
        study, planned = _understood(plain)
        outcome = _simulated(study, planned, progress=progress)
    results = Results(
        cells=tuple(published.annotated(outcome.cells, plain["published"])),
        configuration=study.plain,
        versions=sources.versions(),
        planned=len(planned),
        folder=None,
    )
    return _whole(results, _by_policy(outcome.failed, {cell.id: cell.config.policy.name for cell in planned}))


def run_study(study: str = "default", *, out: str | Path | None = None, overrides: Sequence[str] = ()) -> Results:
    """What ``scripts/run study=STUDY out=OUT OVERRIDE ...`` does: a study with a folder, shown as it runs.

    What is there already is read back, so an interrupted call goes on when it is repeated.

    Args:
        study: a file of ``conf/study``.
        out: the results folder; None makes results/<name>-<hash of the configuration>.
        overrides: arguments of the command line, e.g. ``["sweep.horizon=[1000,10000]", "seeds=16"]``.

    Raises:
        InputError: the command line would exit with code 2; one sentence.
        FailedCellsError: it would exit with code 1; holds the results of the cells that did not fail.

    """
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        raise InputError(f"overrides is {overrides!r}; it must be a list of arguments, e.g. ['seeds=16']")
    arguments = [f"study={study}", *([] if out is None else [f"out={out}"]), *map(str, overrides)]
    with _alone(), own_policies.lent([]):
        plain = settings.composed(arguments)
        from experiments.cli import run  # not before Hydra's state is kept, as in ``composed``

        variables.check()
        ended = run.execute(plain)
    results = load_study(ended.folder)
    names = {cell: entry["policy"] for cell, entry in layout.read_plan(ended.folder).items()}
    return _whole(results, _by_policy(ended.failed, names))


def load_study(folder: str | Path) -> Results:
    """The finished cells of a study's folder, also while it runs.

    InputError where the folder holds no study. A damaged cell is named on stderr, and left out.
    """
    place = files.reachable(folder, "folder")
    record = study_folder.read_record(place)
    config = record["config"]
    return Results(
        cells=tuple(published.annotated(publish.stored_cells(place), config.get("published") or [])),
        configuration=config,
        versions=record.get("versions", {}),
        planned=publish.planned_cells(place, record),
        folder=place,
    )


@contextmanager
def _alone() -> Iterator[None]:
    """One study at a time; afterwards JAX's settings and signal handlers are as they were before."""
    with ExitStack() as kept:
        kept.enter_context(_LOCK)
        before = {name: jax.config.values[name] for name in _SETTINGS}
        kept.callback(lambda: [jax.config.update(name, value) for name, value in before.items()])
        kept.enter_context(interrupt.signals())
        compiler.prepare()
        yield


def _understood(plain: dict[str, Any]) -> tuple[StudyConfig, list[Cell]]:
    variables.use_devices()
    jax.config.update("jax_enable_x64", plain.get("precision") == "float64")
    with rule_errors.refused():
        study = study_from(plain)
        planned = cells.build(study)
    sizes.check(study, planned)
    return study, planned


class _Silent(simulator.Silent):
    """A display that shows nothing, and a log that keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def write(self, event: str, /, **fields: Any) -> None:
        """Keep the text of a warning."""
        if event == "warning":
            self.warnings.append(fields["text"])

    def begin(self, cells_done: int, cells_total: int, decisions: int) -> None: ...

    def warn(self, text: str) -> None: ...

    def cell_done(self) -> None: ...


def _simulated(study: StudyConfig, planned: list[Cell], *, progress: bool) -> Outcome:
    """All cells; what the log warns of becomes Python's warnings."""
    silent = _Silent()
    trouble = program_cache.enable(study.program_cache)
    if progress:
        with display.Live(display.console(), silent) as live:
            outcome = runner.run_in_memory(study, planned, silent, live)
    else:
        outcome = runner.run_in_memory(study, planned, silent, silent)
    for text in dict.fromkeys([*([trouble] if trouble else []), *silent.warnings]):
        warnings.warn(text, stacklevel=3)
    return outcome


def _by_policy(failed: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """Policy -> the sentence of its first failed cell."""
    found: dict[str, str] = {}
    for cell, sentence in failed.items():
        found.setdefault(names.get(cell, cell), sentence)
    return found


def _whole(results: Results, failed: Mapping[str, str]) -> Results:
    if failed:
        raise FailedCellsError(failed, results)
    return results
