"""Every metric in one table, ``METRICS``; importing this package registers those that ship with it.

A metric is one function under one decorator, which says its title, unit and range and where it is shown. The summary,
the tables, the page, the terminal, Weights & Biases, the labels of axes and ``docs/results-format.md`` iterate over the
table, so a new metric is written in one place:

- in :mod:`~experiments.results.metrics.derived` where it follows from what cells store (old results then have it, too);
- in :mod:`~experiments.results.metrics.measured` where it must be stored when a cell is finished. That module counts
  for every cell's id.
"""

from experiments.results.metrics.base import METRICS, Kind, Metric, Range, Read, Table

METRICS.discover(__name__)

__all__ = ["METRICS", "Kind", "Metric", "Range", "Read", "Table"]
