"""One self-contained page of a study, and its tables in Markdown and LaTeX.

The page needs no network: styles, script and pictures are inside. Its filters and sorting are plain JavaScript; without
it every row is simply shown.
"""

import base64
import html
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.report.figures.gallery import Written, write_all
from experiments.results.cell_file import CellResult
from experiments.results.disk import write_atomically
from experiments.results.metrics import METRICS, Metric, Table

MAX_SVG_BYTES = 1_500_000  # a larger picture goes into the page as PNG
MAX_TABULAR_ROWS = 40  # a longer LaTeX table is a longtable
MAX_WINNERS = 3  # policies that a headline names
MAX_ROWS_UNFILTERED = 30  # beyond it the page opens at the longest horizon


def write(
    cells: Sequence[CellResult], record: Mapping[str, Any], summary: Mapping[str, Any], folder: str | Path
) -> Path:
    """Write ``report.html``, ``tables.md``, ``tables.tex`` and ``figures/`` into a folder.

    Args:
        cells: all cells of one study, for the figures.
        record: what ``config.yaml`` holds: the resolved configuration under "config", versions under "versions".
        summary: what :func:`experiments.report.summary.summarise` returned for the same cells.
        folder: made if it does not exist; files of these names are replaced, each whole or not at all.

    Returns:
        The path of ``report.html``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "tables.md", markdown_tables(summary).encode())
    write_atomically(folder / "tables.tex", latex_tables(summary).encode())
    pictures = [_picture(figure) for figure in write_all(cells, folder / "figures")]
    page = folder / "report.html"
    write_atomically(page, _page(record, summary, pictures).encode())
    return page


def headlines(summary: Mapping[str, Any]) -> list[str]:
    """What was found, in plain sentences computed from a summary."""
    cells: list[Mapping[str, Any]] = list(summary["cells"])
    if not cells:
        return ["The study holds no cells."]
    parts = [
        _size(cells),
        *_unfinished(summary),
        *_hard_budget(cells),
        *_best(cells),
        *_growth(summary["exponents"]),
        *_warnings(cells),
    ]
    return [part for part in parts if part]


def markdown_tables(summary: Mapping[str, Any]) -> str:
    """The findings, the table of cells and the table of exponents in Markdown."""
    parts = ["# Results", "", *(f"- {_escape_item(sentence)}" for sentence in headlines(summary)), ""]
    for title, (head, rows) in _tables(summary):
        parts += [f"## {title}", ""]
        for number, row in enumerate([head, *rows]):
            parts.append("| " + " | ".join(_escape_markdown(text) for text in row) + " |")
            if number == 0:
                parts.append("|" + "---|" * len(head))
        parts.append("")
    return "\n".join(parts)


def latex_tables(summary: Mapping[str, Any]) -> str:
    """The same tables in LaTeX; needs the packages booktabs and, for long ones, longtable."""
    parts = ["% \\usepackage{booktabs,longtable}; names outside ASCII need XeLaTeX or LuaLaTeX"]
    for title, (head, rows) in _tables(summary):
        environment = "longtable" if len(rows) > MAX_TABULAR_ROWS else "tabular"
        columns = "l" * _label_columns(head) + "r" * (len(head) - _label_columns(head))
        parts += [f"% {_escape_latex(title)}", f"\\begin{{{environment}}}{{{columns}}}", "\\toprule"]
        parts += [_latex_row(head), "\\midrule", *(["\\endhead"] if environment == "longtable" else [])]
        parts += [_latex_row(row) for row in rows]
        parts += ["\\bottomrule", f"\\end{{{environment}}}", ""]
    return "\n".join(parts)


def _tables(summary: Mapping[str, Any]) -> list[tuple[str, tuple[list[str], list[list[str]]]]]:
    """Titles, heads and rows of the plain tables that have rows."""
    level = f"{summary.get('level', 0.95):.0%}".replace("%", " %")
    tables = [
        (f"Cells: mean [{level} interval of the mean]", _cell_table(summary["cells"])),
        (f"Deployment: mean [{level} interval of the mean]", _deployment_table(summary["cells"])),
        (f"Growth exponents: slope [{level} bootstrap interval]", _exponent_table(summary["exponents"])),
    ]
    return [(title, table) for title, table in tables if table[1]]


def _cell_table(cells: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    columns, with_setting = _columns(cells), _has_settings(cells)
    head = ["Policy", *(["Setting"] if with_setting else []), "Budget (USD a task)", "Horizon"]
    head += [*(column.heading for column in columns), "Runs"]
    rows = []
    for cell in cells:
        labels = [cell["label"], *([cell["setting"]] if with_setting else [])]
        labels += [_budget(cell.get("budget_per_task")), _count(cell["horizon"])]
        values = [_inline(cell.get(column.name), column, _mark(cell)) for column in columns]
        rows.append([*labels, *values, str(cell["runs"])])
    return head, rows


def _staged(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cells in which deployment matters."""
    return [cell for cell in cells if cell.get("staged")]


def _deployment_head(staged: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Metric]]:
    """Headings, and the metrics behind the last of them."""
    columns = [
        column for column in METRICS.summarised(Table.DEPLOYMENT) if any(cell.get(column.name) for cell in staged)
    ]
    head = ["Policy", *(["Setting"] if _has_settings(staged) else []), "Deployment", "Budget (USD a task)", "Horizon"]
    return [*head, "Stages", "Cap on live models", *(column.heading for column in columns)], columns


def _deployment_table(cells: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    staged = _staged(cells)
    head, columns = _deployment_head(staged)
    rows = []
    for cell in staged:
        labels = [cell["label"], *([cell["setting"]] if _has_settings(staged) else []), str(cell.get("deployment"))]
        labels += [_budget(cell.get("budget_per_task")), _count(cell["horizon"]), *_stages_and_cap(cell)]
        rows.append([*labels, *(_inline(cell.get(column.name), column) for column in columns)])
    return head, rows


def _stages_and_cap(cell: Mapping[str, Any]) -> tuple[str, str]:
    stages, cap = cell.get("stages"), cell.get("max_deployed")
    return "—" if stages is None else _count(stages), "none" if cap is None else _count(cap)


def _exponent_table(exponents: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    with_setting = _has_settings(exponents)
    head = ["Policy", *(["Setting"] if with_setting else []), "Budget (USD a task)"]
    for metric in ("Regret", "Violation"):
        head += [f"{metric}, all horizons", f"{metric}, tail", f"{metric}, verdict"]
    rows = []
    for entry in exponents:
        row = [entry["label"], *([entry["setting"]] if with_setting else []), _budget(entry.get("budget_per_task"))]
        for metric in ("regret", "violation"):
            row += list(_fit_texts(entry.get(metric)))
        rows.append(row)
    return head, rows


def _fit_texts(fit: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Slope, tail slope and verdict in words."""
    if fit is None:
        return "—", "—", "—"
    verdict = "—" if fit["verdict"] is None else f"{fit['verdict']} (expected {fit['expected']:.3g})"
    if fit["slope"] is None:
        return fit["in_words"] or "—", "—", verdict
    return _slope(fit["slope"], fit["interval"]), _slope(fit["tail_slope"], fit["tail_interval"]), verdict


def _slope(slope: float, interval: Sequence[float | None]) -> str:
    low, high = interval
    text = f"{slope:.2f}" if low is None or high is None else f"{slope:.2f} [{low:.2f}, {high:.2f}]"
    return text.replace("-", "−")


def _columns(cells: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Columns that hold anything."""
    return [column for column in METRICS.summarised(Table.CELLS) if any(cell.get(column.name) for cell in cells)]


def _has_settings(entries: Sequence[Mapping[str, Any]]) -> bool:
    return any(entry["setting"] for entry in entries)


def _label_columns(head: Sequence[str]) -> int:
    """How many columns hold words: those before the budget."""
    return head.index("Budget (USD a task)")


def _number(value: float) -> str:
    """Three digits, thousands grouped, a true minus sign."""
    if value == 0:
        return "0"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _budget(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _value(value: float, column: Metric) -> str:
    return f"{100 * value:.1f}".replace("-", "−") if column.percent else _number(value)


def _interval(entry: Mapping[str, Any], column: Metric) -> str:
    """The interval's ends, empty where there is none."""
    if entry["low"] is None or entry["high"] is None:
        return ""
    return f"[{_value(entry['low'], column)}, {_value(entry['high'], column)}]"


def _inline(entry: Mapping[str, Any] | None, column: Metric, mark: str = "") -> str:
    if entry is None or entry["mean"] is None:
        return "—"
    return f"{_marked(entry['mean'], column, mark)} {_interval(entry, column)}".strip()


def _marked(mean: float, column: Metric, mark: str) -> str:
    """A mean with its unit, and with the cell's marks where it compares with the benchmark."""
    flag = mark if column.name in ("reward_share", "regret") else ""
    return f"{_value(mean, column)}{' %' if column.percent else ''}{flag}"


def _size(cells: Sequence[Mapping[str, Any]]) -> str:
    """How much was run."""
    policies = {cell["label"] for cell in cells}
    budgets = {cell.get("budget_per_task") for cell in cells}
    horizons = sorted({cell["horizon"] for cell in cells})
    runs = sum(cell["runs"] for cell in cells)
    length = f"{_count(horizons[0])} to {_count(horizons[-1])} rounds" if len(horizons) > 1 else _rounds(horizons[0])
    settings = {cell["setting"] for cell in cells}
    worlds = f", {len(settings)} settings" if len(settings) > 1 else ""
    return (
        f"{_plural(len(cells), 'cell')} with {_count(runs)} runs: {_plural(len(policies), 'policy', 'policies')}, "
        f"{_plural(len(budgets), 'budget')}, {_plural(len(horizons), 'horizon')} ({length}){worlds}."
    )


def _unfinished(summary: Mapping[str, Any]) -> Iterator[str]:
    """Which part of the study this is, where it is not all of it."""
    there, planned = len(summary["cells"]), summary.get("planned") or 0
    if there < planned:
        yield f"The study is not complete: {_count(there)} of {_count(planned)} cells are there."


def _rounds(horizon: float) -> str:
    return f"{_count(horizon)} rounds"


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _hard_budget(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Whether the hard budget held."""
    limited = [cell for cell in cells if cell.get("overspend")]
    if not limited:
        return
    over = [cell for cell in limited if cell["overspend"]["mean"] > 0]
    if over:
        worst = max(over, key=lambda cell: float(cell["overspend"]["mean"]))
        amount = _number(worst["overspend"]["mean"])
        yield (
            f"Runs overspent in {_plural(len(over), 'cell')}; in the worst ({worst['label']}) by {amount} "
            "of the budget on average."
        )
    else:
        yield "No run spent more than its budget."


def _best(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Who earned most and who violated least at the longest horizon, world by world; clairvoyant policies aside."""
    horizon = max(cell["horizon"] for cell in cells)
    learners = [cell for cell in cells if cell["horizon"] == horizon and not cell.get("clairvoyant")]
    earning = _winners(learners, "reward_share", largest=True)
    if not earning:
        return
    policies = _plural(len({cell["label"] for cell in learners}), "policy", "policies")
    for number, (policy, won) in enumerate(_ranked(earning)[:MAX_WINNERS]):
        share = _spread(won, "reward_share", percent=True)
        violated = _spread(won, "violation_per_task")
        extra = f", and violated the target by {violated} per task" if violated else ""
        among = f"earned most among {policies} (clairvoyant ones aside)" if number == 0 else "earned most"
        after = f"After {_rounds(horizon)} {policy}" if number == 0 else policy
        yield f"{after} {among}{_of(won, earning)}: {share} of the benchmark{extra}."
    sparing = _winners(learners, "violation_per_task", largest=False)
    for policy, won in _ranked(sparing)[:MAX_WINNERS]:
        share = _spread(won, "reward_share", percent=True)
        extra = f", earning {share} of the benchmark" if share else ""
        if {cell["label"] for cell in earning} != {policy}:
            violated = _spread(won, "violation_per_task")
            yield f"{policy} violated the target least{_of(won, sparing)}: {violated} per task{extra}."


def _winners(cells: Sequence[Mapping[str, Any]], metric: str, *, largest: bool) -> list[Mapping[str, Any]]:
    """For each setting and budget the cell with the best mean of a metric: only such cells can be compared."""
    worlds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        if cell.get(metric):
            worlds.setdefault((cell["setting"], _budget_key(cell.get("budget_per_task"))), []).append(cell)
    choose = max if largest else min
    return [choose(members, key=lambda cell: float(cell[metric]["mean"])) for members in worlds.values()]


def _ranked(winners: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The cells that each policy won, those of the most frequent winner first."""
    won: dict[str, list[Mapping[str, Any]]] = {}
    for cell in winners:
        won.setdefault(cell["label"], []).append(cell)
    return sorted(won.items(), key=lambda entry: -len(entry[1]))


def _of(won: Sequence[Any], played: Sequence[Mapping[str, Any]]) -> str:
    """In how many of the compared settings and budgets, where there are several."""
    where = "settings and budgets" if _has_settings(played) else "budgets"
    return f" at {len(won)} of {len(played)} {where}" if len(played) > 1 else ""


def _spread(cells: Sequence[Mapping[str, Any]], metric: str, *, percent: bool = False) -> str:
    """The smallest to the largest mean of a metric; empty where it does not apply."""
    means = [float(cell[metric]["mean"]) for cell in cells if cell.get(metric)]
    if not means:
        return ""
    ends = [f"{100 * mean:.1f}" if percent else _number(mean) for mean in (min(means), max(means))]
    return " to ".join(dict.fromkeys(ends)) + (" %" if percent else "")


def _growth(exponents: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Tail slopes by policy, and what became of the exponents that were expected."""
    for metric in ("regret", "violation"):
        fits = [(entry["label"], entry[metric]) for entry in exponents if entry.get(metric)]
        slopes: dict[str, list[float]] = {}
        for entry in exponents:
            fit = entry.get(metric)
            if fit and fit["tail_slope"] is not None and not entry.get("clairvoyant"):
                slopes.setdefault(entry["label"], []).append(fit["tail_slope"])
        if slopes:
            ranked = sorted(slopes, key=lambda policy: max(slopes[policy]))
            listed = ", ".join(f"{policy} {_range(slopes[policy])}" for policy in ranked[:6])
            rest = f" and {len(ranked) - 6} more" if len(ranked) > 6 else ""
            yield f"Tail slope of {metric} against the horizon, smallest to largest of the fits: {listed}{rest}."
        yield from _expected(metric, fits)


def _range(values: Sequence[float]) -> str:
    ends = list(dict.fromkeys((f"{min(values):.2f}", f"{max(values):.2f}")))
    return " to ".join(ends).replace("-", "−")


def _expected(metric: str, fits: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """The verdicts on each policy of which an exponent is expected."""
    verdicts: dict[tuple[str, float], dict[str, int]] = {}
    for label, fit in fits:
        if fit["verdict"] is not None:
            counted = verdicts.setdefault((label, fit["expected"]), {})
            counted[fit["verdict"]] = counted.get(fit["verdict"], 0) + 1
    for (label, exponent), counted in verdicts.items():
        listed = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counted.items()))
        yield f"Expected of {label}: {metric} grows no faster than T^{exponent:.3g}: {listed}."


def _warnings(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a reader should know before trusting the numbers."""
    negative = [cell for cell in cells if not cell.get("clairvoyant") and cell.get("regret") and _below_zero(cell)]
    if negative:
        yield (
            f"Regret is negative beyond its interval in {_plural(len(negative), 'cell')} of learning policies: read it "
            "together with violation, spend and declined demand."
        )
    infeasible = sum(cell.get("benchmark_feasible") is False for cell in cells)
    if infeasible:
        yield (
            f"In {_plural(infeasible, 'cell')} nobody can meet the target: the benchmark is the least-violating choice "
            "(marked †)."
        )
    beyond = sum(_beyond(cell) for cell in cells)
    if beyond:
        yield (
            f"In {_plural(beyond, 'cell')} the reward exceeds the benchmark (marked ‡), which keeps budget and target "
            "in expectation: chance, overspending or violation explains it."
        )
    nothing = sum(cell.get("runs_without_benchmark") or 0 for cell in cells)
    if nothing:
        yield f"The benchmark of {_plural(nothing, 'run')} earns nothing; these runs have no share of it."
    failed = sum(cell.get("runs_failed") or 0 for cell in cells)
    if failed:
        yield f"{_plural(failed, 'run')} failed and left the averages."
    invalid = sum(1 for cell in cells if (cell.get("invalid") or {}).get("mean"))
    if invalid:
        yield (
            f"In {_plural(invalid, 'cell')} some decisions were not finite and were declined, or came from linear "
            "programs that the solver left undecided."
        )
    clipped = sum(1 for cell in cells if (cell.get("clipped") or {}).get("mean"))
    if clipped:
        yield (
            f"In {_plural(clipped, 'cell')} some shares were negative, above the caps or more than 1 in sum; "
            "they were cut."
        )
    if all(cell["runs"] == 1 for cell in cells):
        yield "One run a cell: there are no intervals."


def _beyond(cell: Mapping[str, Any]) -> bool:
    """Whether the table shows more than the whole benchmark."""
    share = cell.get("reward_share") or {"mean": 0.0}
    return bool(round(share["mean"], 3) > 1)


def _below_zero(cell: Mapping[str, Any]) -> bool:
    high = cell["regret"]["high"]
    return bool((cell["regret"]["mean"] if high is None else high) < 0)


def _picture(figure: Written) -> str:
    """A figure element with the picture inside. As an image, an SVG's styles and ids cannot meddle with the page's."""
    kind, path = ("svg+xml", figure.svg) if figure.svg.stat().st_size <= MAX_SVG_BYTES else ("png", figure.png)
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    text = html.escape(figure.caption)
    image = f'<img loading="lazy" alt="{text}" src="data:image/{kind};base64,{data}">'
    box = f'<div class="paper" tabindex="0" role="region" aria-label="{text}">{image}</div>'
    return f"<figure>{box}<figcaption>{text}</figcaption></figure>"


def _page(record: Mapping[str, Any], summary: Mapping[str, Any], pictures: Sequence[str]) -> str:
    title = html.escape(_title(record.get("config") or {}))
    found = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in headlines(summary))
    sections = _deployment_section(summary) + _exponent_section(summary)
    drawn = "".join(pictures) or "<p>Nothing to draw.</p>"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{_CSS}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="lead">{_lead(record.get("config") or {})}</p>
<section aria-labelledby="found"><h2 id="found">What was found</h2><ul class="found">{found}</ul></section>
<section aria-labelledby="results"><h2 id="results">Results</h2>
{_filters(summary["cells"])}
{_cell_section(summary)}
</section>
{sections}
<section aria-labelledby="figures"><h2 id="figures">Figures</h2>{drawn}</section>
<section aria-labelledby="asked"><h2 id="asked">What was asked</h2>{_asked(record)}</section>
</main>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _title(config: Mapping[str, Any]) -> str:
    """The study's name where the configuration gives one."""
    name = config.get("name")
    return "Study report" if name in (None, "") else f"Study {name}"


def _lead(config: Mapping[str, Any]) -> str:
    """What was asked, in a line, with the way to all of it."""
    world, demand = config.get("env") or {}, config.get("demand") or {}
    axes = dict(_axes(config.get("sweep") or {}))
    parts = [
        ("models of", ", ".join(config.get("worlds") or ()) or world.get("catalogue")),
        ("demand", demand.get("process")),
        ("latency target", None if "target" in axes else world.get("target")),
        *((axis, ", ".join(str(value) for value in values)) for axis, values in axes.items()),
        ("runs a cell", config.get("seeds")),
    ]
    told = [f"{name} <b>{html.escape(str(value))}</b>" for name, value in parts if value is not None]
    return f'Asked: {"; ".join(told)}. <a href="#asked">All settings</a>' if told else ""


def _axes(sweep: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Escaped names and values of the axes that are swept."""
    for name, value in sweep.items():
        if isinstance(value, Mapping):
            yield from ((f"{html.escape(name)}.{axis}", values) for axis, values in _axes(value))
        elif isinstance(value, (list, tuple)):
            yield html.escape(name), value


def _filters(cells: Sequence[Mapping[str, Any]]) -> str:
    """One drop-down list a filter; the script shows them."""
    axes: list[tuple[str, str, list[tuple[str, str]]]] = [
        ("policy", "Policy", _options(cells, lambda cell: (cell["label"], cell["label"]))),
        ("setting", "Setting", _options(cells, lambda cell: (cell["setting"], cell["setting"]))),
        ("budget", "Budget (USD a task)", _options(cells, _budget_option)),
        ("horizon", "Horizon", _options(cells, lambda cell: (f"{cell['horizon']:.0f}", _count(cell["horizon"])))),
    ]
    lists = []
    for name, title, options in axes:
        if len(options) > 1:
            items = "".join(f'<option value="{html.escape(v)}">{html.escape(text)}</option>' for v, text in options)
            lists.append(f'<label>{title}<select name="{name}"><option value="">all</option>{items}</select></label>')
    start = max((cell["horizon"] for cell in cells), default=0) if len(cells) > MAX_ROWS_UNFILTERED else 0
    first = f"{start:.0f}" if start else ""
    output = '<output aria-live="polite"></output>'
    return f'<form id="filters" data-horizon="{first}" hidden>{"".join(lists)}{output}</form>'


def _options(
    cells: Sequence[Mapping[str, Any]], pick: Callable[[Mapping[str, Any]], tuple[str, str]]
) -> list[tuple[str, str]]:
    return list(dict.fromkeys(pick(cell) for cell in cells))


def _budget_option(cell: Mapping[str, Any]) -> tuple[str, str]:
    budget = cell.get("budget_per_task")
    return _budget_key(budget), _budget(budget)


def _budget_key(budget: float | None) -> str:
    """What filters compare: as many digits as the groups of horizons use."""
    return "none" if budget is None else f"{budget:.6g}"


def _row_open(entry: Mapping[str, Any]) -> str:
    """A table row that the filters can find."""
    horizon = f' data-horizon="{entry["horizon"]:.0f}"' if "horizon" in entry else ""
    budget = _budget_key(entry.get("budget_per_task"))
    return (
        f'<tr data-policy="{html.escape(entry["label"])}" data-setting="{html.escape(entry["setting"])}" '
        f'data-budget="{budget}"{horizon}><th scope="row">{_breakable(entry["label"])}</th>'
    )


def _breakable(name: str) -> str:
    """An escaped name that may break after its separators."""
    return re.sub(r"([_/,-])", r"\1<wbr>", html.escape(name))


def _cell_section(summary: Mapping[str, Any]) -> str:
    """The table of cells."""
    cells = summary["cells"]
    columns, with_setting = _columns(cells), _has_settings(cells)
    head = ["Policy", *(["Setting"] if with_setting else []), "Budget (USD a task)", "Horizon"]
    head += [*(column.heading for column in columns), "Runs"]
    rows = []
    for cell in cells:
        mark = _mark(cell)
        parts = [_row_open(cell)]
        if with_setting:
            parts.append(f"<td>{html.escape(cell['setting'])}</td>")
        parts.append(_data(cell.get("budget_per_task"), _budget(cell.get("budget_per_task"))))
        parts.append(_data(cell["horizon"], _count(cell["horizon"])))
        parts += [_metric_cell(cell.get(column.name), column, mark) for column in columns]
        rows.append("".join([*parts, _data(cell["runs"], str(cell["runs"])), "</tr>"]))
    caption = _mean_caption(summary)
    return _table(head, rows, caption)


def _mark(cell: Mapping[str, Any]) -> str:
    """What is behind numbers that compare with the benchmark: the signs that the warnings explain."""
    return (" †" if cell.get("benchmark_feasible") is False else "") + (" ‡" if _beyond(cell) else "")


def _mean_caption(summary: Mapping[str, Any]) -> str:
    return (
        f"Mean over runs at the horizon; beneath it the {100 * summary.get('level', 0.95):g} % interval of the mean "
        "(Student t for regret; a score interval, which stays within the range, for what cannot be negative)."
    )


def _deployment_section(summary: Mapping[str, Any]) -> str:
    """What deployment cost and did; nothing where all models are always there and may all be live."""
    staged = _staged(summary["cells"])
    if not staged:
        return ""
    head, columns = _deployment_head(staged)
    rows = []
    for cell in staged:
        parts = [_row_open(cell)]
        if _has_settings(staged):
            parts.append(f"<td>{html.escape(cell['setting'])}</td>")
        parts.append(f"<td>{html.escape(str(cell.get('deployment')))}</td>")
        parts.append(_data(cell.get("budget_per_task"), _budget(cell.get("budget_per_task"))))
        parts.append(_data(cell["horizon"], _count(cell["horizon"])))
        stages, cap = _stages_and_cap(cell)
        parts += [_data(cell.get("stages"), stages), _data(cell.get("max_deployed"), cap)]
        parts += [_metric_cell(cell.get(column.name), column, "") for column in columns]
        rows.append("".join([*parts, "</tr>"]))
    caption = _mean_caption(summary)
    return (
        '<section aria-labelledby="deployment"><h2 id="deployment">Deployment</h2>'
        "<p>The three parts of regret add up to it. Newcomers are models that arrive within the run; rounds count from "
        "their arrival to the start of the stage in which it happened, over the runs in which it did; beside them is "
        "the share of newcomers it never happened to. The plan is to spend the same on every task; the gap is the most "
        "by which a deployment was not proven to be the best.</p>"
        f"{_table(head, rows, caption)}</section>"
    )


def _table(head: Sequence[str], rows: Sequence[str], caption: str) -> str:
    buttons = [f'<button type="button">{html.escape(text)}</button>' for text in head]
    headers = "".join(f'<th scope="col">{button}</th>' for button in buttons)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}"><table>'
        f'<caption class="unseen">{html.escape(caption)}</caption><thead><tr>{headers}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="notes" aria-hidden="true">{html.escape(caption)}</p>'
    )


def _data(value: float | None, text: str, beneath: str = "", kind: str = "") -> str:
    """A cell that sorts by its value."""
    number = "" if value is None or not math.isfinite(value) else f' data-value="{value:.10g}"'
    below = f"<small>{html.escape(beneath)}</small>" if beneath else ""
    style = f' class="{kind}"' if kind else ""
    return f"<td{number}{style}>{html.escape(text)}{below}</td>"


def _metric_cell(entry: Mapping[str, Any] | None, column: Metric, mark: str) -> str:
    if entry is None or entry["mean"] is None:
        return _data(None, "—")
    return _data(entry["mean"], _marked(entry["mean"], column, mark), _interval(entry, column))


def _exponent_section(summary: Mapping[str, Any]) -> str:
    """The table of exponents with a word on reading it; nothing without exponents."""
    entries = summary["exponents"]
    if not entries:
        return ""
    with_setting = _has_settings(entries)
    head, _ = _exponent_table(entries)
    rows = []
    for entry in entries:
        parts = [_row_open(entry)]
        if with_setting:
            parts.append(f"<td>{html.escape(entry['setting'])}</td>")
        parts.append(_data(entry.get("budget_per_task"), _budget(entry.get("budget_per_task"))))
        for metric in ("regret", "violation"):
            parts += _fit_cells(entry.get(metric))
        rows.append("".join([*parts, "</tr>"]))
    notes = sorted({text for entry in entries for text in _fit_notes(entry)})
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes[:12])
    more = f"<li>{len(notes) - 12} further notes are in summary.json.</li>" if len(notes) > 12 else ""
    level = f"{100 * summary.get('level', 0.95):g} %"
    caption = (
        f"Slope of log(mean over runs) on log(horizon), {level} bootstrap interval over runs. A slope needs three "
        "horizons, the longest among them, that are distinguishable from zero; else words say what is known."
    )
    return (
        '<section aria-labelledby="exponents"><h2 id="exponents">Growth with the horizon</h2>'
        "<p>Lower-order terms bias a slope over all horizons, and its interval does not know it: the tail slope, over "
        "the longest horizons, is the better guide, and verdicts use its interval.</p>"
        f"{_table(head, rows, caption)}{f'<ul class=notes>{listed}{more}</ul>' if notes else ''}</section>"
    )


def _fit_cells(fit: Mapping[str, Any] | None) -> list[str]:
    whole, tail, verdict = _fit_texts(fit)
    if fit is None:
        return [_data(None, text) for text in (whole, tail, verdict)]
    kind = "" if fit["verdict"] is None else f"verdict {fit['verdict']}"
    slopes = [_split(fit["slope"], whole), _split(fit["tail_slope"], tail)]
    word, _, expected = verdict.partition(" (")
    return [*slopes, _data(None, word, expected.rstrip(")"), kind)]


def _split(value: float | None, text: str) -> str:
    """Slope above, interval beneath; or words."""
    if value is None:
        return _data(None, text)
    above, _, below = text.partition(" ")
    return _data(value, above, below)


def _fit_notes(entry: Mapping[str, Any]) -> Iterator[str]:
    name = f"{entry['label']}, budget {_budget(entry.get('budget_per_task'))}"
    name += f", {entry['setting']}" if entry["setting"] else ""
    if entry.get("note"):
        yield f"{name}: {entry['note']}"
    for metric in ("regret", "violation"):
        fit = entry.get(metric)
        if fit is not None and fit["note"]:
            yield f"{name}, {metric}: {fit['note']}"


def _asked(record: Mapping[str, Any]) -> str:
    """The configuration, a folding table a group, and the versions of what computed the results."""
    versions = record.get("versions") or {}
    return _config_section(record.get("config") or {}) + _config_section(
        {"Computed with": versions} if versions else {}
    )


def _config_section(config: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    groups: list[tuple[str, Mapping[str, Any]]] = [("General", plain)] if plain else []
    groups += [(str(name), value) for name, value in config.items() if isinstance(value, Mapping)]
    return "".join(
        f"<details open><summary>{html.escape(name)}</summary>"
        f"<table class=config>{_config_rows(values)}</table></details>"
        for name, values in groups
    )


def _config_rows(values: Mapping[str, Any]) -> str:
    return "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(text)}</td></tr>'
        for name, text in _flatten(values)
    )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and readable values."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ", ".join(str(entry) for entry in value) or "none"
        else:
            yield f"{prefix}{name}", "none" if value is None or value == {} else str(value)


def _escape_markdown(text: str) -> str:
    """One line in which no letter is markup."""
    text = html.escape(" ".join(text.split()), quote=False)
    for letter in "\\`*_[]|~#$!":
        text = text.replace(letter, f"\\{letter}")
    return text


def _escape_item(text: str) -> str:
    """A line of a list, whose beginning is no further bullet or number either."""
    return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", _escape_markdown(text))


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "—": "---",
    "[": "{[}",  # a row that starts with [ would be read as an argument of the line break before it
    "]": "{]}",
    "*": "{*}",  # and one that starts with * would make the line break another command
    "†": r"\dag{}",
    "‡": r"\ddag{}",
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(_escape_latex(text) for text in texts) + r" \\"


_CSS = """
:root{--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;--ground:#fff;--band:#f6f8fa;--link:#0b62c4;--good:#0a6b3d;
--bad:#a8321a}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#a0a8b2;--line:#3a424d;--ground:#14181d;
--band:#1d232a;
--link:#79b4ff;--good:#5fd39a;--bad:#ff9c85}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1180px;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;margin:.5rem 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2rem 0 .6rem;padding-bottom:.2rem;border-bottom:1px solid var(--line)}
.lead{color:var(--soft);font-size:.9rem;margin:0 0 1rem;overflow-wrap:anywhere}.lead b{color:var(--ink);font-weight:600}
a{color:var(--link)}
.found{padding-left:1.2rem}.found li{margin:.35rem 0;overflow-wrap:anywhere}
.notes{color:var(--soft);font-size:.85rem;overflow-wrap:anywhere}
form{display:flex;flex-wrap:wrap;gap:.6rem 1rem;align-items:end;margin:.5rem 0 .8rem}
form[hidden]{display:none}
label{display:flex;flex-direction:column;font-size:.8rem;color:var(--soft);max-width:100%}
select{font:inherit;font-size:.95rem;color:var(--ink);background:var(--ground);border:1px solid var(--line);
border-radius:6px;
padding:.35rem .5rem;min-height:2.4rem;max-width:100%}
output{font-size:.85rem;color:var(--soft);padding-bottom:.5rem}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:.85rem;font-variant-numeric:tabular-nums}
caption{caption-side:bottom;text-align:left;color:var(--soft);font-size:.8rem;padding:.5rem .6rem}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--line);vertical-align:top}
td small{display:block;color:var(--soft);font-size:.75rem;white-space:nowrap}
th[scope=row],thead th:first-child{text-align:left;position:sticky;left:0;background:var(--ground);
font-weight:600;
min-width:11rem;max-width:16rem;overflow-wrap:anywhere}
thead th{background:var(--band);vertical-align:bottom}thead th:first-child{background:var(--band)}
thead button{font:inherit;font-weight:600;color:inherit;background:none;border:0;padding:0;cursor:pointer;
text-align:inherit}
thead th[aria-sort=ascending] button::after{content:" ▲"}
thead th[aria-sort=descending] button::after{content:" ▼"}
tbody tr:hover td,tbody tr:hover th{background:var(--band)}
.consistent{color:var(--good)}.exceeds{color:var(--bad)}.verdict{font-weight:600}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
figure{margin:1.5rem 0}.paper{background:#fff;border:1px solid var(--line);border-radius:8px;padding:.5rem;
overflow-x:auto}
.paper img{display:block;max-width:100%;height:auto;margin:0 auto}
figcaption{color:var(--soft);font-size:.85rem;margin-top:.4rem;overflow-wrap:anywhere}
details{margin:.4rem 0}summary{cursor:pointer;font-weight:600}
.config th[scope=row],.config td{text-align:left;overflow-wrap:anywhere;position:static;min-width:0;max-width:none}
.config th{font-weight:400;
color:var(--soft);width:40%}
@media (max-width:640px){main{padding:.75rem}.paper img{max-width:none}
th[scope=row],thead th:first-child{min-width:7rem;max-width:8rem}}
@media print{:root{--ink:#000;--soft:#444;--line:#bbb;--ground:#fff;--band:#fff;--link:#000}form{display:none!important}
tbody tr[hidden]{display:table-row}
body{font-size:10pt}
main{max-width:none;padding:0}.scroll{overflow:visible;border:0}table{font-size:7pt}
th,td{padding:.15rem .25rem}td small{white-space:normal;font-size:6pt}
th[scope=row],thead th:first-child{position:static;min-width:11em;max-width:none}tr,figure{break-inside:avoid}
thead{display:table-header-group}}
"""

_SCRIPT = """
(function () {
  var form = document.getElementById('filters');
  var lists = Array.prototype.slice.call(form.querySelectorAll('select'));
  var rows = Array.prototype.slice.call(document.querySelectorAll('tr[data-policy]'));
  function apply() {
    var shown = 0, total = 0;
    rows.forEach(function (row) {
      row.hidden = lists.some(function (list) {
        var own = row.getAttribute('data-' + list.name);
        return list.value !== '' && own !== null && own !== list.value;
      });
      if (form.parentNode.contains(row)) { total += 1; shown += row.hidden ? 0 : 1; }
    });
    form.querySelector('output').textContent = shown + ' of ' + total + ' cells';
  }
  function read() {
    var wanted = new URLSearchParams(location.hash.slice(1));
    lists.forEach(function (list) {
      var value = wanted.has(list.name) ? wanted.get(list.name) : '';
      if (!location.hash && list.name === 'horizon') { value = form.getAttribute('data-horizon'); }
      list.value = value;
      if (list.selectedIndex < 0) { list.value = ''; }
    });
    apply();
  }
  form.addEventListener('change', function () {
    var chosen = new URLSearchParams();
    lists.forEach(function (list) { if (list.value) { chosen.set(list.name, list.value); } });
    try {
      history.replaceState(null, '', '#' + (chosen.toString() || 'all'));
    } catch (error) { /* some viewers of files forbid it; the filter works all the same */ }
    apply();
  });
  form.addEventListener('submit', function (event) { event.preventDefault(); });
  window.addEventListener('hashchange', read);
  document.querySelectorAll('thead button').forEach(function (button) {
    button.addEventListener('click', function () {
      var head = button.closest('th'), body = head.closest('table').tBodies[0];
      var column = Array.prototype.indexOf.call(head.parentNode.children, head);
      var sign = head.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
      Array.prototype.forEach.call(head.parentNode.children, function (other) {
        other.removeAttribute('aria-sort');
      });
      head.setAttribute('aria-sort', sign === 1 ? 'ascending' : 'descending');
      Array.prototype.slice.call(body.rows).map(function (row) {
        var cell = row.children[column], number = cell.getAttribute('data-value');
        return { row: row, number: number === null ? null : parseFloat(number), text: cell.textContent };
      }).sort(function (a, b) {
        if (a.number !== null && b.number !== null) { return sign * (a.number - b.number); }
        if (a.number !== null || b.number !== null) { return a.number === null ? 1 : -1; }
        return sign * a.text.localeCompare(b.text);
      }).forEach(function (entry) { body.appendChild(entry.row); });
    });
  });
  form.hidden = false;
  read();
})();
"""
