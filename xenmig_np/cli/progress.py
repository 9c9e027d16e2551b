"""Progress of long work: a bar on a terminal, and one line for each SIGUSR1."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Never

from xenmig_np.cli import terminal
from xenmig_np.cli.guard import check_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tqdm import tqdm


@contextmanager
def progress(label: str, *, wanted: bool | None) -> Iterator[Callable[[int, int | None], None]]:
    """A function of (bytes done, bytes in all or None); ``wanted`` None: a bar if stderr is a terminal."""
    if wanted is None:
        wanted = sys.stderr is not None and sys.stderr.isatty()
    state = _State(label, wanted=wanted)
    before = signal.signal(signal.SIGUSR1, lambda *_: state.tell())
    try:
        yield state.update
    finally:
        signal.signal(signal.SIGUSR1, before)
        state.close()


class _State:
    def __init__(self, label: str, *, wanted: bool) -> None:
        self._label = label
        self._wanted = wanted
        self._done = 0
        self._total: int | None = None
        self._began = time.monotonic()
        self._bar: tqdm[Never] | None = None

    def update(self, done: int, total: int | None) -> None:
        check_signals()
        self._total = total
        if self._wanted:
            if self._bar is None:
                self._bar = self._new_bar()
            self._bar.update(done - self._done)
        self._done = done

    def _new_bar(self) -> tqdm[Never]:
        from tqdm import tqdm  # noqa: PLC0415 - imported only where a bar is shown

        label = terminal.clean(self._label)
        return tqdm(desc=label, total=self._total, unit="B", unit_scale=True, unit_divisor=1024, leave=False)

    def tell(self) -> None:
        """One line with where the work is."""
        seconds = max(time.monotonic() - self._began, 1e-6)
        share = f" of {terminal.size(self._total)}" if self._total else ""
        rate = terminal.size(int(self._done / seconds))
        terminal.say(f"{self._label}: {terminal.size(self._done)}{share} in {seconds:.1f} s, {rate}/s")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
