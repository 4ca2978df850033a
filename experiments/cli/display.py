"""What a person sees while a study runs, and after it: rich on a terminal, plain lines elsewhere.

Names are text: everything is printed by :func:`say`, or is a ``Text``, so that no name is read as markup.
"""

from collections.abc import Callable, Iterable, Sequence
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from experiments.cli.status import short

if TYPE_CHECKING:  # the first line of a command is printed from here, before JAX is imported
    from experiments.results.cell_file import CellResult
    from experiments.results.events import EventLog

_PLAIN_SECONDS = 5.0  # between two lines when there is no terminal
_BEAT_SECONDS = 10.0  # between two signs of life in the log, at most


class _Rate(ProgressColumn):
    """Decisions per second, short."""

    def render(self, task: Task) -> Text:
        return Text(f"{short(task.speed or 0.0)} decisions/s")


class _Lines(Progress):
    """Progress with lines below it, which are asked for at every refresh."""

    def __init__(self, *columns: ProgressColumn, console: Console, below: Callable[[], list[str]]) -> None:
        self.below = below
        super().__init__(*columns, console=console, transient=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is shown, from above."""
        yield from super().get_renderables()
        yield from map(Text, self.below())


class Live:
    """A live display on a terminal; plain lines, a few a minute, elsewhere; signs of life in the log for others."""

    def __init__(self, console: Console, log: "EventLog") -> None:
        self.console, self.log = console, log
        self.live: Progress | None = None
        self.what = "starting"
        self.programs: dict[str, float] = {}  # that are being compiled -> since when
        self.lock = Lock()
        self.cells, self.total, self.decisions, self.played_so_far = 0, 0, 0, 0
        self.began = self.spoke = monotonic()
        self.ended = Event()
        self.heart = Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.what = "making tables, figures and report"
        self.ended.set()
        if self.heart.is_alive():
            self.heart.join()
        if self.live is not None:
            self.live.stop()

    def begin(self, cells_done: int, cells_total: int, decisions: int) -> None:
        """The study is known."""
        self.cells, self.total, self.decisions = cells_done, cells_total, decisions
        before = f"{cells_done} of them done before"
        say(self.console, f"{cells_total} cells, {before}; {short(decisions)} decisions to simulate")
        if self.console.is_terminal:
            doing = TextColumn("{task.description}", markup=False)
            cells, left = TextColumn("{task.fields[cells]}", markup=False), TimeRemainingColumn()
            self.live = _Lines(doing, BarColumn(), cells, _Rate(), left, console=self.console, below=self._compilations)
            self.task = self.live.add_task("starting", total=max(decisions, 1), cells="")
            self.live.start()
        self.heart.start()

    def note(self, text: str) -> None:
        """What is being done now."""
        with self.lock:
            self.what = text
            self._show()

    def warn(self, text: str) -> None:
        """What is to stay on the screen."""
        say(self.console, f"warning: {text}")

    def compiling(self, program: str) -> None:
        """A compilation begins: a line with its seconds on a terminal, a line that stays elsewhere."""
        with self.lock:
            self.programs[program] = monotonic()
        if self.live is None:
            say(self.console, f"compiling {program}")

    def compiled(self, program: str, how: str) -> None:
        """A compilation is over."""
        with self.lock:
            self.programs.pop(program, None)
        if self.live is None:
            say(self.console, f"{program}: {how}")

    def played(self, decisions: int) -> None:
        """Progress of the simulation."""
        with self.lock:
            self.played_so_far += decisions
            if self.live is not None:
                self.live.advance(self.task, decisions)
            self._show()

    def cell_done(self) -> None:
        """A cell is stored."""
        with self.lock:
            self.cells += 1
            self._show()

    def _beat(self) -> None:
        """Tell the log how far this process is: soon, then ever less often, and at the end."""
        pause = 1.0
        while not self.ended.wait(pause):
            self._log_progress()
            pause = min(2.0 * pause, _BEAT_SECONDS)
        self._log_progress()

    def _log_progress(self) -> None:
        compilations = self._compilations()
        with self.lock:
            played, doing = self.played_so_far, "; ".join([*compilations, self.what])
        self.log.write("progress", decisions=played, of=self.decisions, doing=doing)

    def _compilations(self) -> list[str]:
        """What is being compiled, and for how long."""
        with self.lock:
            return [f"compiling {name}, {monotonic() - since:.0f} s" for name, since in self.programs.items()]

    def _show(self) -> None:
        if self.live is not None:
            self.live.update(self.task, description=self.what, cells=f"{self.cells}/{self.total} cells")
        elif monotonic() - self.spoke >= _PLAIN_SECONDS:
            self.spoke = monotonic()
            speed = self.played_so_far / max(self.spoke - self.began, 1e-9)
            left = f", {(self.decisions - self.played_so_far) / speed:.0f} s left" if speed else ""
            say(self.console, f"{self.cells}/{self.total} cells, {short(speed)} decisions/s{left}; {self.what}")


def console() -> Console:
    """A terminal as wide as it is; wide enough for the tables where there is none."""
    found = Console()
    return found if found.is_terminal else Console(width=120)


def say(console: Console, text: str) -> None:
    """Print a line as it is, whatever names are in it."""
    console.print(Text(text), soft_wrap=True)


def findings(cells: "Sequence[CellResult]", summary: dict[str, Any]) -> Table:
    """What was found: a row for each policy and budget at the longest horizon."""
    longest = max(cell.description["horizon"] for cell in cells)
    from experiments.results.metrics import METRICS  # brings NumPy with it

    shown = [(metric.name, *metric.terminal) for metric in METRICS.summarised() if metric.terminal is not None]
    rows = [
        [*_name(entry), *(_mean(entry, metric, form) for metric, _, form in shown)]
        for entry in summary["cells"]
        if entry["horizon"] == longest
    ]
    return _table(f"At {longest:,} rounds, means over runs", [heading for _, heading, _ in shown], rows)


def exponents(summary: dict[str, Any]) -> Table | None:
    """How regret and violation grow with the horizon; None where there are too few horizons."""
    rows = []
    for entry in summary["exponents"]:
        regret, violation = entry.get("regret"), entry.get("violation")
        fits = (_fit(regret, "slope", "interval"), _fit(regret, "tail_slope", "tail_interval"))
        rows.append([*_name(entry), *fits, _fit(violation, "slope", "interval")])
    names = ("regret", "regret, longest horizons", "violation")
    level = f"{100 * summary.get('level', 0.95):g} %"
    return _table(f"Growth with the horizon: exponents with {level} intervals", names, rows) if rows else None


def _table(title: str, numbers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table without the columns that hold nothing."""
    table = Table(title=Text(title), title_justify="left")
    names = ("policy", "USD a task", *numbers)
    told = [place for place in range(len(names)) if place == 0 or any(row[place] != "-" for row in rows)]
    for place in told:
        table.add_column(names[place], justify="right" if place else "left", overflow="fold")
    for row in rows:
        # Numbers never break; where the terminal is narrow, the policy's name does.
        table.add_row(*(Text(row[place].replace(" ", "\N{NO-BREAK SPACE}") if place else row[place]) for place in told))
    return table


def _name(entry: dict[str, Any]) -> list[str]:
    budget = entry.get("budget_per_task")
    return [f"{entry['label']} {entry['setting']}".strip(), "-" if budget is None else f"{budget:.3g}"]


def _mean(entry: dict[str, Any], metric: str, form: str) -> str:
    value = entry.get(metric)
    return "-" if not value or value.get("mean") is None else format(value["mean"], form)


def _fit(fit: dict[str, Any] | None, slope: str, interval: str) -> str:
    """A slope with its interval; words in place of the slope over all horizons where there is none."""
    if not fit or fit.get(slope) is None:
        return (fit["in_words"] if fit and slope == "slope" else "") or "-"
    low, high = fit[interval]
    return f"{fit[slope]:.2f}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")
