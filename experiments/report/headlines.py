"""What was found, in plain sentences computed from a summary."""

from collections.abc import Iterator, Sequence

from experiments.report.numbers import budget_key, counted, percent, rounded, whole
from experiments.report.scaling import ExponentFit
from experiments.report.summary import CellSummary, ExponentSummary, Summary

MAX_WINNERS = 3  # policies that a headline names


def headlines(summary: Summary) -> list[str]:
    """What was found, in plain sentences computed from a summary."""
    cells = list(summary.cells)
    if not cells:
        return ["The study holds no cells."]
    parts = [
        _size(cells),
        *_unfinished(summary),
        *_hard_budget(cells),
        *_best(cells),
        *_growth(summary.exponents),
        *_warnings(cells),
    ]
    return [part for part in parts if part]


def _size(cells: Sequence[CellSummary]) -> str:
    """How much was run."""
    policies = {cell.label for cell in cells}
    budgets = {cell.info.budget_per_task for cell in cells}
    horizons = sorted({cell.info.horizon for cell in cells})
    runs = sum(cell.runs for cell in cells)
    length = f"{whole(horizons[0])} to {whole(horizons[-1])} rounds" if len(horizons) > 1 else _rounds(horizons[0])
    settings = {cell.setting for cell in cells}
    worlds = f", {len(settings)} settings" if len(settings) > 1 else ""
    return (
        f"{counted(len(cells), 'cell')} with {whole(runs)} runs: {counted(len(policies), 'policy', 'policies')}, "
        f"{counted(len(budgets), 'budget')}, {counted(len(horizons), 'horizon')} ({length}){worlds}."
    )


def _unfinished(summary: Summary) -> Iterator[str]:
    """Which part of the study this is, where it is not all of it."""
    there, planned = len(summary.cells), summary.planned
    if there < planned:
        yield f"The study is not complete: {whole(there)} of {whole(planned)} cells are there."


def _rounds(horizon: float) -> str:
    return f"{whole(horizon)} rounds"


def _hard_budget(cells: Sequence[CellSummary]) -> Iterator[str]:
    """Whether the hard budget held."""
    limited = [cell for cell in cells if "overspend" in cell.metrics]
    if not limited:
        return
    over = [cell for cell in limited if cell.metrics["overspend"].mean > 0]
    if over:
        worst = max(over, key=lambda cell: cell.metrics["overspend"].mean)
        amount = rounded(worst.metrics["overspend"].mean)
        yield (
            f"Runs overspent in {counted(len(over), 'cell')}; in the worst ({worst.label}) by {amount} "
            "of the budget on average."
        )
    else:
        yield "No run spent more than its budget."


def _best(cells: Sequence[CellSummary]) -> Iterator[str]:
    """Who earned most and who violated least at the longest horizon, world by world; clairvoyant policies aside."""
    horizon = max(cell.info.horizon for cell in cells)
    learners = [cell for cell in cells if cell.info.horizon == horizon and not cell.info.clairvoyant]
    earning = _winners(learners, "reward_share", largest=True)
    if not earning:
        return
    policies = counted(len({cell.label for cell in learners}), "policy", "policies")
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
        if {cell.label for cell in earning} != {policy}:
            violated = _spread(won, "violation_per_task")
            yield f"{policy} violated the target least{_of(won, sparing)}: {violated} per task{extra}."


def _winners(cells: Sequence[CellSummary], metric: str, *, largest: bool) -> list[CellSummary]:
    """For each setting and budget the cell with the best mean of a metric: only such cells can be compared."""
    worlds: dict[tuple[str, str], list[CellSummary]] = {}
    for cell in cells:
        if metric in cell.metrics:
            worlds.setdefault((cell.setting, budget_key(cell.info.budget_per_task)), []).append(cell)
    choose = max if largest else min
    return [choose(members, key=lambda cell: cell.metrics[metric].mean) for members in worlds.values()]


def _ranked(winners: Sequence[CellSummary]) -> list[tuple[str, list[CellSummary]]]:
    """The cells that each policy won, those of the most frequent winner first."""
    won: dict[str, list[CellSummary]] = {}
    for cell in winners:
        won.setdefault(cell.label, []).append(cell)
    return sorted(won.items(), key=lambda entry: -len(entry[1]))


def _of(won: Sequence[CellSummary], played: Sequence[CellSummary]) -> str:
    """In how many of the compared settings and budgets, where there are several."""
    where = "settings and budgets" if has_settings(played) else "budgets"
    return f" at {len(won)} of {len(played)} {where}" if len(played) > 1 else ""


def _spread(cells: Sequence[CellSummary], metric: str, *, in_percent: bool = False) -> str:
    """The smallest to the largest mean of a metric; empty where it does not apply."""
    means = [cell.metrics[metric].mean for cell in cells if metric in cell.metrics]
    if not means:
        return ""
    ends = [percent(mean) if in_percent else rounded(mean) for mean in (min(means), max(means))]
    return " to ".join(dict.fromkeys(ends)) + (" %" if in_percent else "")


def _growth(exponents: Sequence[ExponentSummary]) -> Iterator[str]:
    """Tail slopes by policy, and what became of the exponents that were expected."""
    for metric in ("regret", "violation"):
        fits = [(entry, fit) for entry in exponents if (fit := entry.fits[metric]) is not None]
        slopes: dict[str, list[float]] = {}
        for entry, fit in fits:
            if fit.has_slope and not entry.info.clairvoyant:
                slopes.setdefault(entry.label, []).append(fit.tail_slope)
        if slopes:
            ranked = sorted(slopes, key=lambda policy: max(slopes[policy]))
            listed = ", ".join(f"{policy} {_range(slopes[policy])}" for policy in ranked[:6])
            rest = f" and {len(ranked) - 6} more" if len(ranked) > 6 else ""
            yield f"Tail slope of {metric} against the horizon, smallest to largest of the fits: {listed}{rest}."
        yield from _expected(metric, [(entry.label, fit) for entry, fit in fits])


def _range(values: Sequence[float]) -> str:
    ends = list(dict.fromkeys((f"{min(values):.2f}", f"{max(values):.2f}")))
    return " to ".join(ends).replace("-", "−")


def _expected(metric: str, fits: Sequence[tuple[str, ExponentFit]]) -> Iterator[str]:
    """The verdicts on each policy of which an exponent is expected."""
    verdicts: dict[tuple[str, float], dict[str, int]] = {}
    for label, fit in fits:
        if fit.verdict is not None and fit.expected is not None:
            found = verdicts.setdefault((label, fit.expected), {})
            found[fit.verdict] = found.get(fit.verdict, 0) + 1
    for (label, exponent), found in verdicts.items():
        listed = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.items()))
        yield f"Expected of {label}: {metric} grows no faster than T^{exponent:.3g}: {listed}."


def _warnings(cells: Sequence[CellSummary]) -> Iterator[str]:
    """What a reader should know before trusting the numbers."""
    negative = [cell for cell in cells if not cell.info.clairvoyant and _below_zero(cell)]
    if negative:
        yield (
            f"Regret is negative beyond its interval in {counted(len(negative), 'cell')} of learning policies: read it "
            "together with violation, spend and declined demand."
        )
    infeasible = sum(cell.info.benchmark_feasible is False for cell in cells)
    if infeasible:
        yield (
            f"In {counted(infeasible, 'cell')} nobody can meet the target: the benchmark is the least-violating choice "
            "(marked †)."
        )
    beyond = sum(cell.is_beyond_benchmark for cell in cells)
    if beyond:
        yield (
            f"In {counted(beyond, 'cell')} the reward exceeds the benchmark (marked ‡), which keeps budget and target "
            "in expectation: chance, overspending or violation explains it."
        )
    nothing = sum(cell.runs_without_benchmark for cell in cells)
    if nothing:
        yield f"The benchmark of {counted(nothing, 'run')} earns nothing; these runs have no share of it."
    failed = sum(cell.runs_failed for cell in cells)
    if failed:
        yield f"{counted(failed, 'run')} failed and left the averages."
    invalid = sum(1 for cell in cells if cell.mean("invalid"))
    if invalid:
        yield (
            f"In {counted(invalid, 'cell')} some decisions were not finite and were declined, or came from linear "
            "programs that the solver left undecided."
        )
    clipped = sum(1 for cell in cells if cell.mean("clipped"))
    if clipped:
        yield (
            f"In {counted(clipped, 'cell')} some shares were negative, above the caps or more than 1 in sum; "
            "they were cut."
        )
    if all(cell.runs == 1 for cell in cells):
        yield "One run a cell: there are no intervals."


def _below_zero(cell: CellSummary) -> bool:
    regret = cell.metrics.get("regret")
    return regret is not None and (regret.mean if regret.high is None else regret.high) < 0


def has_settings(entries: Sequence[CellSummary | ExponentSummary]) -> bool:
    """Whether the entries belong to several worlds, which have names then."""
    return any(entry.setting for entry in entries)
