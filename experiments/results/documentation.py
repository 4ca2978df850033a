"""``docs/results-format.md``, written from the registry of metrics: ``python -m experiments.results.documentation``."""

from collections.abc import Iterator, Sequence

from experiments.results.metrics import METRICS, Metric, Read
from experiments.results.tables import DESCRIBED

_HEAD = """# The format of results

Written by `python -m experiments.results.documentation`; do not edit. A metric is one entry of
`experiments/results/metrics`, from which this page, the tables, the report and the dashboards are made.

## results.parquet, results.csv

One row a run, at its horizon.

"""
_GROUPS = """
Then come, for every cell, the parameters it was made of: `routing.<parameter>`, `deployment.<parameter>`,
`confidence.<parameter>`, `forecaster.<parameter>`, `demand.<parameter>`, `env.<parameter>`, given or default; the
digests of the code, `sources.<kind>.sha256`; what computed it, `versions.<package>`; a swept axis under its whole path.
Lists are JSON. `seed` numbers the run. The other columns are metrics:

"""
_SUMMARY = """
## Metrics of summary.json

A cell's entry holds `{"mean", "low", "high"}` over its runs under each of these names, or null where the metric does
not apply. Intervals stay within the range, unless a run is beyond it. Weights & Biases has the same numbers as
`final/<name>` of a share and `final/<name>_mean` of any other metric, with `_low` and `_high`.

"""


def page() -> str:
    """The whole page."""
    described = [["column", "holds"], *([f"`{name}`", says] for name, says in DESCRIBED.items())]
    columns = [["column", "unit", "value", "is"], *(_column(metric) for metric in METRICS.measured())]
    columns.append(["`spent`", "USD", METRICS["spent"].kind.value, "`spent_money`; 0 where money has no budget."])
    head = ["name", "title", "unit", "value", "range", "judged at", "is"]
    summarised = [head, *(_summarised(metric) for metric in METRICS.summarised())]
    return _HEAD + _table(described) + _GROUPS + _table(columns) + _SUMMARY + _table(summarised)


def _column(metric: Metric) -> list[str]:
    name = f"{metric.member('<name>')}" if metric.each else metric.column or metric.name
    of = {"resources": "resource", "services": "service metric", "quantities": "resource or service metric"}
    each = f" One column a {of[metric.each]}." if metric.each else ""
    unit = f"{metric.unit}; money in {metric.money_unit}" if metric.money_unit else metric.unit
    return [f"`{name}`", unit, metric.kind.value, metric.says + each]


def _summarised(metric: Metric) -> list[str]:
    read = "no round: one value a run" if metric.read is Read.RUN else metric.read.value
    return [f"`{metric.name}`", metric.title, metric.unit, metric.kind.value, metric.range.value, read, metric.says]


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"{line}\n" for line in _lines(rows))


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown, the headings first."""
    for number, row in enumerate(rows):
        yield "| " + " | ".join(text.replace("|", "\\|") for text in row) + " |"
        if number == 0:
            yield "|---" * len(row) + "|"


if __name__ == "__main__":
    print(page(), end="")
