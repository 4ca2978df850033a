"""What was found, in plain sentences computed from a summary."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.report.numbers import budget_key, counted, percent, rounded, whole

MAX_WINNERS = 3  # policies that a headline names


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


def _size(cells: Sequence[Mapping[str, Any]]) -> str:
    """How much was run."""
    policies = {cell["label"] for cell in cells}
    budgets = {cell.get("budget_per_task") for cell in cells}
    horizons = sorted({cell["horizon"] for cell in cells})
    runs = sum(cell["runs"] for cell in cells)
    length = f"{whole(horizons[0])} to {whole(horizons[-1])} rounds" if len(horizons) > 1 else _rounds(horizons[0])
    settings = {cell["setting"] for cell in cells}
    worlds = f", {len(settings)} settings" if len(settings) > 1 else ""
    return (
        f"{counted(len(cells), 'cell')} with {whole(runs)} runs: {counted(len(policies), 'policy', 'policies')}, "
        f"{counted(len(budgets), 'budget')}, {counted(len(horizons), 'horizon')} ({length}){worlds}."
    )


def _unfinished(summary: Mapping[str, Any]) -> Iterator[str]:
    """Which part of the study this is, where it is not all of it."""
    there, planned = len(summary["cells"]), summary.get("planned") or 0
    if there < planned:
        yield f"The study is not complete: {whole(there)} of {whole(planned)} cells are there."


def _rounds(horizon: float) -> str:
    return f"{whole(horizon)} rounds"


def _hard_budget(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Whether the hard budget held."""
    limited = [cell for cell in cells if cell.get("overspend")]
    if not limited:
        return
    over = [cell for cell in limited if cell["overspend"]["mean"] > 0]
    if over:
        worst = max(over, key=lambda cell: float(cell["overspend"]["mean"]))
        amount = rounded(worst["overspend"]["mean"])
        yield (
            f"Runs overspent in {counted(len(over), 'cell')}; in the worst ({worst['label']}) by {amount} "
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
    policies = counted(len({cell["label"] for cell in learners}), "policy", "policies")
    for number, (policy, won) in enumerate(_ranked(earning)[:MAX_WINNERS]):
        share = _spread(won, "reward_share", in_percent=True)
        violated = _spread(won, "violation_per_task")
        extra = f", and violated the target by {violated} per task" if violated else ""
        among = f"earned most among {policies} (clairvoyant ones aside)" if number == 0 else "earned most"
        after = f"After {_rounds(horizon)} {policy}" if number == 0 else policy
        yield f"{after} {among}{_of(won, earning)}: {share} of the benchmark{extra}."
    sparing = _winners(learners, "violation_per_task", largest=False)
    for policy, won in _ranked(sparing)[:MAX_WINNERS]:
        share = _spread(won, "reward_share", in_percent=True)
        extra = f", earning {share} of the benchmark" if share else ""
        if {cell["label"] for cell in earning} != {policy}:
            violated = _spread(won, "violation_per_task")
            yield f"{policy} violated the target least{_of(won, sparing)}: {violated} per task{extra}."


def _winners(cells: Sequence[Mapping[str, Any]], metric: str, *, largest: bool) -> list[Mapping[str, Any]]:
    """For each setting and budget the cell with the best mean of a metric: only such cells can be compared."""
    worlds: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        if cell.get(metric):
            worlds.setdefault((cell["setting"], budget_key(cell.get("budget_per_task"))), []).append(cell)
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
    where = "settings and budgets" if has_settings(played) else "budgets"
    return f" at {len(won)} of {len(played)} {where}" if len(played) > 1 else ""


def _spread(cells: Sequence[Mapping[str, Any]], metric: str, *, in_percent: bool = False) -> str:
    """The smallest to the largest mean of a metric; empty where it does not apply."""
    means = [float(cell[metric]["mean"]) for cell in cells if cell.get(metric)]
    if not means:
        return ""
    ends = [percent(mean) if in_percent else rounded(mean) for mean in (min(means), max(means))]
    return " to ".join(dict.fromkeys(ends)) + (" %" if in_percent else "")


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
            f"Regret is negative beyond its interval in {counted(len(negative), 'cell')} of learning policies: read it "
            "together with violation, spend and declined demand."
        )
    infeasible = sum(cell.get("benchmark_feasible") is False for cell in cells)
    if infeasible:
        yield (
            f"In {counted(infeasible, 'cell')} nobody can meet the target: the benchmark is the least-violating choice "
            "(marked †)."
        )
    beyond = sum(is_beyond_benchmark(cell) for cell in cells)
    if beyond:
        yield (
            f"In {counted(beyond, 'cell')} the reward exceeds the benchmark (marked ‡), which keeps budget and target "
            "in expectation: chance, overspending or violation explains it."
        )
    nothing = sum(cell.get("runs_without_benchmark") or 0 for cell in cells)
    if nothing:
        yield f"The benchmark of {counted(nothing, 'run')} earns nothing; these runs have no share of it."
    failed = sum(cell.get("runs_failed") or 0 for cell in cells)
    if failed:
        yield f"{counted(failed, 'run')} failed and left the averages."
    invalid = sum(1 for cell in cells if (cell.get("invalid") or {}).get("mean"))
    if invalid:
        yield (
            f"In {counted(invalid, 'cell')} some decisions were not finite and were declined, or came from linear "
            "programs that the solver left undecided."
        )
    clipped = sum(1 for cell in cells if (cell.get("clipped") or {}).get("mean"))
    if clipped:
        yield (
            f"In {counted(clipped, 'cell')} some shares were negative, above the caps or more than 1 in sum; "
            "they were cut."
        )
    if all(cell["runs"] == 1 for cell in cells):
        yield "One run a cell: there are no intervals."


def is_beyond_benchmark(cell: Mapping[str, Any]) -> bool:
    """Whether the table shows more than the whole benchmark."""
    share = cell.get("reward_share") or {"mean": 0.0}
    return bool(round(share["mean"], 3) > 1)


def _below_zero(cell: Mapping[str, Any]) -> bool:
    high = cell["regret"]["high"]
    return bool((cell["regret"]["mean"] if high is None else high) < 0)


def has_settings(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the entries belong to several worlds, which have names then."""
    return any(entry["setting"] for entry in entries)
