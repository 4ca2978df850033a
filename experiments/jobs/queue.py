"""Which item is simulated next, and by which of the processes that share a folder."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition

from experiments.results.leases import Leases

_POLL_SECONDS = 1.0  # between two looks at what others hold


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """Cells that are simulated side by side, and leased together."""

    id: str
    group: int  # number of the static group, whose items share a program
    cells: tuple[str, ...]  # ids


class Work:
    """Hands out items to this process's workers, each to one worker of one process.

    A group is compiled by one worker while the others take items elsewhere. Groups that are compiled already go first,
    then those that no other process is at, so that processes which start together soon work on different programs.
    """

    def __init__(
        self,
        items: list[WorkItem],
        leases: Leases,
        missing: Callable[[WorkItem], list[str]],
        found: Callable[[list[str]], None],
        waiting: Callable[[], None] = lambda: None,
        *,
        leaves: bool = False,
    ) -> None:
        """``items`` in the order of preference.

        ``missing`` tells which of an item's cells are not stored, ``found`` is told of cells that others have stored,
        ``waiting`` is called while there is nothing to do here but others are at work. A process that ``leaves`` does
        not wait for others who are known to live: there is nothing left for it then.
        """
        self.leases, self.missing, self.found, self.waiting = leases, missing, found, waiting
        self.leaves = leaves
        self.left: set[str] = set()  # cells that others were at work on when this process left
        self._pending = {item.id: item for item in items}
        self._expected = {item.id: missing(item) for item in items}
        self._compiled: set[int] = set()
        self._compiling: set[int] = set()
        self._in_hand: dict[str, WorkItem] = {}
        self._changed = Condition()

    def take(self) -> WorkItem | None:
        """The next item for this worker, leased; None when nothing is left. Waits for what others hold."""
        with self._changed:
            while self._pending:
                if (item := self._take_now()) is not None:
                    return item
                if self._pending and not self._in_hand:
                    self.waiting()
                    if self.leaves and all(self.leases.are_in_work(item.cells) for item in self._pending.values()):
                        self._leave()
                if self._pending:
                    self._changed.wait(_POLL_SECONDS)
            return None

    def compiled(self, group: int) -> None:
        """Its items may be taken by any worker now."""
        with self._changed:
            self._compiling.discard(group)
            self._compiled.add(group)
            self._changed.notify_all()

    def give_back(self, item: WorkItem) -> bool:
        """The item is stored, or failed. Whether its group is over."""
        self.leases.release(item.id)
        with self._changed:
            del self._in_hand[item.id]
            self._changed.notify_all()
            left = (*self._pending.values(), *self._in_hand.values())
            return all(other.group != item.group for other in left)

    def drop(self, group: int) -> None:
        """Hand out no more items of a group."""
        with self._changed:
            self._compiling.discard(group)
            self._pending = {item.id: item for item in self._pending.values() if item.group != group}
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing any more."""
        with self._changed:
            self._pending = {}
            self._changed.notify_all()

    def _leave(self) -> None:
        self.left = {cell for item in self._pending.values() for cell in self.missing(item)}
        self._pending = {}
        self._changed.notify_all()

    def _take_now(self) -> WorkItem | None:
        tried: set[str] = set()
        while (item := self._preferred(tried)) is not None:
            tried.add(item.id)
            if not self._is_left(item) or not self._acquire(item):
                continue
            if self._is_left(item):  # another process may have stored it just before it gave back its lease
                del self._pending[item.id]
                self._in_hand[item.id] = item
                if item.group not in self._compiled:
                    self._compiling.add(item.group)
                return item
            self.leases.release(item.id)
        return None

    def _preferred(self, tried: set[str]) -> WorkItem | None:
        left = [b for b in self._pending.values() if b.id not in tried and b.group not in self._compiling]
        if not left:
            return None
        others = self.leases.others()
        busy = {item.group for item in self._pending.values() if item.id in others}

        def rank(item: WorkItem) -> int:
            return 0 if item.group in self._compiled else 1 + (item.group in busy)

        return min(left, key=rank)

    def _is_left(self, item: WorkItem) -> bool:
        """Whether something of it is missing; if not, it is nobody's work any more."""
        if self.missing(item):
            return True
        del self._pending[item.id]
        self.found(self._expected[item.id])
        return False

    def _acquire(self, item: WorkItem) -> bool:
        """A lease only saves work, so where none can be written (a full disk) the work is done without."""
        try:
            return self.leases.acquire(item.id, self.missing(item))
        except OSError:
            return True
