"""A short run spends most of its time on beginning and ending: what is not needed of both is left out."""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def lean() -> Iterator[None]:
    """Round the whole of a program, its imports too; ``bench`` shows what it saves."""
    gc.set_threshold(100_000)  # imports make many objects and no garbage
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # no algebra here: numpy starts without its threads
    try:
        yield
    finally:
        gc.freeze()  # what is left ends with the process: nobody looks through it once more
