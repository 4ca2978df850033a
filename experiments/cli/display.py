"""What a person sees while a study runs, and after it: rich on a terminal, plain lines elsewhere.

Names are text: everything is printed by :func:`say`, or is a ``Text``, so that no name is read as markup.
"""

from collections.abc import Callable, Iterable
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from experiments.cli.status import short

if TYPE_CHECKING:  # the first line of a command is printed from here, before JAX is imported
    from experiments.jobs.warning_log import Log

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

    def __init__(self, console: Console, log: "Log") -> None:
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
        else:
            self.live.refresh()

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
