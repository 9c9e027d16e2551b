"""Where a run takes its next image from: a list of its own, or one that it shares by claims."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenmig_np.batch.claims import Claims
    from xenmig_np.batch.item import Item
    from xenmig_np.batch.result import Result

LOOK_AGAIN: Final = 1.0
"""Seconds between two looks at what others hold."""


class Feed(Protocol):
    """Gives items, and hears what became of them."""

    @property
    def elsewhere(self) -> Counter[str]:
        """Items that others have done, by how they ended."""

    def take(self) -> Item | None:
        """The next; None: there is none, or none now."""

    @property
    def exhausted(self) -> bool:
        """Whether there will be none any more."""

    def counts(self, item: Item) -> bool:
        """Whether the result of an item is ours to note."""

    def noted(self, item: Item, result: Result) -> None:
        """The manifest has it."""

    def tick(self) -> None:
        """Called every second or oftener."""


class OwnList:
    """All items, one after the other."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self.exhausted = False
        self.elsewhere: Counter[str] = Counter()

    def take(self) -> Item | None:
        item = next(self._items, None)
        self.exhausted = item is None
        return item

    def counts(self, item: Item) -> bool:  # noqa: ARG002 - nobody else has it
        return True

    def noted(self, item: Item, result: Result) -> None:
        pass

    def tick(self) -> None:
        pass


class SharedList:
    """Items on which nobody else has a claim that lives; it is through when all are done, by whomever."""

    def __init__(self, items: Iterable[Item], out: str, claims: Claims) -> None:
        self._claims = claims
        self._waiting = {claims.key(os.path.relpath(item.output, out)): item for item in items}
        self._taken: dict[str, tuple[str, Item]] = {}
        """Key, and what it was before it was claimed, by the output."""
        self.elsewhere: Counter[str] = Counter()
        self._round: list[str] = []
        self._state: dict[str, int | None] = {}
        self._looked = -LOOK_AGAIN

    @property
    def exhausted(self) -> bool:
        return not self._waiting

    def take(self) -> Item | None:
        """Items are tried from one look at the folder; the next look is due when it is through."""
        while True:
            if not self._round and not self._look():
                return None
            key = self._round.pop()
            item = self._waiting[key]
            if taken := self._claims.take(key, item, self._state.get(key) or 0):
                self._taken[item.output] = key, self._waiting.pop(key)
                return taken

    def _look(self) -> bool:
        """Whether there is anything to try."""
        now = time.monotonic()
        if now - self._looked < LOOK_AGAIN:
            return False
        self._looked = now
        self._state = self._claims.state()
        for key, generation in self._state.items():
            if generation is None and key in self._waiting:
                del self._waiting[key]
                self.elsewhere[self._claims.outcome(key)] += 1
        self._round = [*reversed(self._waiting)]
        return bool(self._round)

    def counts(self, item: Item) -> bool:
        """What was lost waits again: who has taken it over may die in his turn."""
        if not self._claims.lost(item):
            return True
        key, before = self._taken.pop(item.output)
        self._waiting[key] = before
        return False

    def noted(self, item: Item, result: Result) -> None:
        key, _ = self._taken.pop(item.output)
        self._claims.done(key, item, result)

    def tick(self) -> None:
        self._claims.beat()
