"""Which task is next, and which of the processes that share a folder does it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Condition

from experiments.results.leases import Leases

_POLL_SECONDS = 1.0  # between two looks at what others hold


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """Cells that are simulated side by side, a chunk of seeds at a time."""

    id: str
    group: int  # number of the static group, whose items share a program
    cells: tuple[str, ...]  # ids
    chunks: tuple[range, ...] = (range(1),)  # the seeds of each


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one worker of one process does for an item: simulate a chunk, or merge the parts of all chunks."""

    item: WorkItem
    chunk: int | None = None  # its number; None to merge

    @property
    def lease(self) -> str:
        """The name under which it is leased."""
        if len(self.item.chunks) == 1:
            return self.item.id
        return f"{self.item.id}-{'merge' if self.chunk is None else self.chunk}"

    @property
    def seeds(self) -> range | None:
        """The seeds that others must leave alone meanwhile; None for all."""
        return None if self.stores else self.item.chunks[self.chunk or 0]

    @property
    def stores(self) -> bool:
        """Whether the item's cells are stored in the end: it has one chunk, or all are simulated."""
        return self.chunk is None or len(self.item.chunks) == 1


class Work:
    """Hands out tasks to this process's workers, each to one worker of one process.

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
        simulated: Callable[[WorkItem], set[int]] = lambda item: set(),
        *,
        leaves: bool = False,
        slots: int = 1 << 30,
    ) -> None:
        """``items`` in the order of preference.

        ``missing`` tells which of an item's cells are not stored, ``found`` is told of cells that others have stored,
        ``simulated`` tells which of an item's chunks have a part, ``waiting`` is called while there is nothing to do
        here but others are at work. A process that ``leaves`` does not wait for others who are known to live: there is
        nothing left for it then. While ``slots`` simulations are under way, none of several chunks is handed out, but
        for its group to be compiled: it would wait here, and another process could simulate it.
        """
        self.leases, self.missing, self.found, self.waiting, self.simulated = leases, missing, found, waiting, simulated
        self.leaves, self.slots = leaves, slots
        self.left: set[str] = set()  # cells that others were at work on when this process left
        self._pending = {item.id: item for item in items}  # whose cells nobody here is about to store
        self._expected = {item.id: missing(item) for item in items}
        self._compiled: set[int] = set()
        self._compiling: set[int] = set()
        self._dropped: set[int] = set()  # groups
        self._in_hand: dict[str, Task] = {}  # by lease
        self._simulating: set[str] = set()  # leases
        self._changed = Condition()

    def take(self) -> Task | None:
        """The next task for this worker, leased; None when nothing is left. Waits for what others hold."""
        with self._changed:
            while self._pending:
                if (task := self._take_now()) is not None:
                    return task
                if self._pending and not self._in_hand:
                    self.waiting()
                    if self.leaves and all(map(self._is_with_others, self._pending.values())):
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

    def played(self, task: Task) -> None:
        """Its chunk is simulated, and only to be stored."""
        with self._changed:
            self._simulating.discard(task.lease)
            self._changed.notify_all()

    def give_back(self, task: Task, *, again: bool = False) -> bool:
        """The task is done, or failed. Whether its group is over.

        ``again``: the cells are not stored, because a part that the task needed is gone.
        """
        self.leases.release(task.lease)
        item = task.item
        with self._changed:
            del self._in_hand[task.lease]
            self._simulating.discard(task.lease)
            if again and item.group not in self._dropped:
                self._pending[item.id] = item
            self._changed.notify_all()
            left = (*self._pending.values(), *(other.item for other in self._in_hand.values()))
            return all(other.group != item.group for other in left)

    def drop(self, group: int) -> None:
        """Hand out no more items of a group."""
        with self._changed:
            self._dropped.add(group)
            self._compiling.discard(group)
            self._pending = {item.id: item for item in self._pending.values() if item.group != group}
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing any more."""
        with self._changed:
            self._dropped |= {item.group for item in self._pending.values()}
            self._dropped |= {task.item.group for task in self._in_hand.values()}
            self._pending = {}
            self._changed.notify_all()

    def _leave(self) -> None:
        self.left = {cell for item in self._pending.values() for cell in self.missing(item)}
        self._pending = {}
        self._changed.notify_all()

    def _is_with_others(self, item: WorkItem) -> bool:
        """Whether others who are known to live are at all that can be done for it now."""
        open_ = self._open(item)
        if len(item.chunks) == 1 or not open_:
            return self.leases.are_in_work(item.cells)
        return all(self.leases.are_in_work(item.cells, item.chunks[number]) for number in open_)

    def _take_now(self) -> Task | None:
        tried: set[str] = set()
        while (item := self._preferred(tried)) is not None:
            tried.add(item.id)
            for task in self._tasks(item):
                if not self._is_left(item):
                    break
                if not self._acquire(task):
                    continue
                if self._is_left(item) and self._is_open(task):  # another process may have done it just before
                    self._take(task)
                    return task
                self.leases.release(task.lease)
        return None

    def _take(self, task: Task) -> None:
        self._in_hand[task.lease] = task
        if task.stores:
            del self._pending[task.item.id]
        if task.chunk is not None:
            self._simulating.add(task.lease)
            if task.item.group not in self._compiled:
                self._compiling.add(task.item.group)

    def _preferred(self, tried: set[str]) -> WorkItem | None:
        left = [b for b in self._pending.values() if b.id not in tried and b.group not in self._compiling]
        if not left:
            return None
        others = {lease.partition("-")[0] for lease in self.leases.others()}
        busy = {item.group for item in self._pending.values() if item.id in others}

        def rank(item: WorkItem) -> int:
            return 0 if item.group in self._compiled else 1 + (item.group in busy)

        return min(left, key=rank)

    def _tasks(self, item: WorkItem) -> Iterator[Task]:
        """What can be done for an item now; last what others have leased, who may be dead."""
        open_ = self._open(item)
        full = len(self._simulating) >= self.slots and item.group in self._compiled
        if open_ and full and len(item.chunks) > 1:
            return
        tasks = [Task(item=item, chunk=number) for number in open_] or [Task(item=item)]
        others = self.leases.others() if len(tasks) > 1 else set()
        yield from sorted(tasks, key=lambda task: task.lease in others)

    def _open(self, item: WorkItem) -> list[int]:
        """The numbers of the chunks that have no part."""
        there = self.simulated(item) if len(item.chunks) > 1 else set()
        return [number for number in range(len(item.chunks)) if number not in there]

    def _is_open(self, task: Task) -> bool:
        """Whether a task is still to be done for an item that is left."""
        open_ = self._open(task.item)
        return not open_ if task.chunk is None else task.chunk in open_

    def _is_left(self, item: WorkItem) -> bool:
        """Whether something of it is missing; if not, it is nobody's work any more."""
        if self.missing(item):
            return True
        if self._pending.pop(item.id, None):
            self.found(self._expected[item.id])
        return False

    def _acquire(self, task: Task) -> bool:
        """A lease only saves work, so where none can be written (a full disk) the work is done without."""
        if task.lease in self._in_hand:
            return False
        try:
            return self.leases.acquire(task.lease, self.missing(task.item), task.seeds)
        except OSError:
            return True
