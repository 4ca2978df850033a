"""Which block is simulated next, and by which of the processes that share a folder."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition

from experiments.results.leases import Leases

_POLL_SECONDS = 1.0  # between two looks at what others hold


@dataclass(frozen=True, kw_only=True)
class Block:
    """Cells that are simulated side by side, and leased together."""

    id: str
    group: int  # number of the static group, whose blocks share a program
    cells: tuple[str, ...]  # ids


class Work:
    """Hands out blocks to this process's workers, each to one worker of one process.

    A group is compiled by one worker while the others take blocks elsewhere. Groups that are compiled already go first,
    then those that no other process is at, so that processes which start together soon work on different programs.
    """

    def __init__(
        self,
        blocks: list[Block],
        leases: Leases,
        missing: Callable[[Block], list[str]],
        found: Callable[[list[str]], None],
        waiting: Callable[[], None] = lambda: None,
        *,
        leaves: bool = False,
    ) -> None:
        """``blocks`` in the order of preference.

        ``missing`` tells which of a block's cells are not stored, ``found`` is told of cells that others have stored,
        ``waiting`` is called while there is nothing to do here but others are at work. A process that ``leaves`` does
        not wait for others who are known to live: there is nothing left for it then.
        """
        self.leases, self.missing, self.found, self.waiting = leases, missing, found, waiting
        self.leaves = leaves
        self.left: set[str] = set()  # cells that others were at work on when this process left
        self._pending = {block.id: block for block in blocks}
        self._expected = {block.id: missing(block) for block in blocks}
        self._compiled: set[int] = set()
        self._compiling: set[int] = set()
        self._in_hand: dict[str, Block] = {}
        self._changed = Condition()

    def take(self) -> Block | None:
        """The next block for this worker, leased; None when nothing is left. Waits for what others hold."""
        with self._changed:
            while self._pending:
                if (block := self._take_now()) is not None:
                    return block
                if self._pending and not self._in_hand:
                    self.waiting()
                    if self.leaves and all(self.leases.are_in_work(block.cells) for block in self._pending.values()):
                        self._leave()
                if self._pending:
                    self._changed.wait(_POLL_SECONDS)
            return None

    def compiled(self, group: int) -> None:
        """Its blocks may be taken by any worker now."""
        with self._changed:
            self._compiling.discard(group)
            self._compiled.add(group)
            self._changed.notify_all()

    def give_back(self, block: Block) -> bool:
        """The block is stored, or failed. Whether its group is over."""
        self.leases.release(block.id)
        with self._changed:
            del self._in_hand[block.id]
            self._changed.notify_all()
            left = (*self._pending.values(), *self._in_hand.values())
            return all(other.group != block.group for other in left)

    def drop(self, group: int) -> None:
        """Hand out no more blocks of a group."""
        with self._changed:
            self._compiling.discard(group)
            self._pending = {block.id: block for block in self._pending.values() if block.group != group}
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing any more."""
        with self._changed:
            self._pending = {}
            self._changed.notify_all()

    def _leave(self) -> None:
        self.left = {cell for block in self._pending.values() for cell in self.missing(block)}
        self._pending = {}
        self._changed.notify_all()

    def _take_now(self) -> Block | None:
        tried: set[str] = set()
        while (block := self._preferred(tried)) is not None:
            tried.add(block.id)
            if not self._is_left(block) or not self._acquire(block):
                continue
            if self._is_left(block):  # another process may have stored it just before it gave back its lease
                del self._pending[block.id]
                self._in_hand[block.id] = block
                if block.group not in self._compiled:
                    self._compiling.add(block.group)
                return block
            self.leases.release(block.id)
        return None

    def _preferred(self, tried: set[str]) -> Block | None:
        left = [b for b in self._pending.values() if b.id not in tried and b.group not in self._compiling]
        if not left:
            return None
        others = self.leases.others()
        busy = {block.group for block in self._pending.values() if block.id in others}

        def rank(block: Block) -> int:
            return 0 if block.group in self._compiled else 1 + (block.group in busy)

        return min(left, key=rank)

    def _is_left(self, block: Block) -> bool:
        """Whether something of it is missing; if not, it is nobody's work any more."""
        if self.missing(block):
            return True
        del self._pending[block.id]
        self.found(self._expected[block.id])
        return False

    def _acquire(self, block: Block) -> bool:
        """A lease only saves work, so where none can be written (a full disk) the work is done without."""
        try:
            return self.leases.acquire(block.id, self.missing(block))
        except OSError:
            return True
