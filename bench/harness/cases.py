"""The table of cases: what is measured, against what, on which input, and what it should come to.

A row's name begins with the work and ends with what it is held against. A slope is what one more GiB costs:
the difference of runs on the stated memory and on a quarter of it, which has no start-up in it. Goals that
name ``import numpy`` mean it as anyone types it; rows ending in 1 compare with one that starts no threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import work
from harness.pairs import BEYOND, MIB, PEAK, RATE, RATIO, USER, Figure

if TYPE_CHECKING:
    from harness.work import Place, Work

GIB = 1024 * MIB
DEBIAN, SPARSE = "Debian's tools", "--sparse"
SMALLER = 4
"""A slope is taken between a quarter of the memory and all of it."""


@dataclass(frozen=True)
class Check:
    """A figure, and the most that its median should be."""

    figure: Figure
    most: float | None = None
    """None: no goal."""
    per_gib: float = 0.0
    """Of the guest's memory, added to ``most``."""
    at: int | None = None
    """The goal is one for this memory only."""
    aim: float | None = None
    """What would be better still."""

    def goal(self, memory: int) -> float | None:
        """For a guest of so many bytes."""
        if self.most is None or self.at not in {None, memory}:
            return None
        return self.most + self.per_gib * memory / GIB


MEMORY = Check(PEAK, 100)


@dataclass(frozen=True)
class Case:
    """A row; it is measured for each memory."""

    name: str
    ours: Callable[[Place], Work]
    theirs: Callable[[Place], Work]
    checks: tuple[Check, ...] = (Check(RATIO),)
    memory: tuple[int, ...] = (GIB,)
    fixed: bool = False
    """The memory belongs to the case and is not for the user to choose."""
    slope: bool = False
    guest: str = "hvm"
    width: int = 64
    form: str = "image"
    """Of the input: "image", "stream" or "many"."""
    count: int | None = None
    """Of many images, if not that of the command line."""
    zeros: float | None = None
    """Share of zero pages, if not that of the command line."""
    needs: str = ""
    """What may be missing: DEBIAN or SPARSE."""


KINDS = [(guest, width) for guest in ("hvm", "pv64", "pv32") for width in (64, 32)]
UP_TO_8 = (GIB, 2 * GIB, 4 * GIB, 8 * GIB)
UP_TO_4 = (GIB, 4 * GIB)
SLOPES = (4 * GIB,)
SMALL = (MIB,)


def ratio(most: float, at: int | None = None, aim: float | None = None) -> tuple[Check, ...]:
    return (Check(RATIO, most, at=at, aim=aim),)


CONVERT = (
    *(
        Case(
            f"convert-{guest}-{width}-cp",
            work.convert,
            work.cp,
            (*ratio(1.05, 4 * GIB), MEMORY),
            UP_TO_8 if (guest, width) == ("hvm", 64) else (GIB,),
            guest=guest,
            width=width,
        )
        for guest, width in KINDS
    ),
    Case("convert-sync-cp", work.convert_sync, work.cp_sync, ratio(1.05, 4 * GIB), UP_TO_4),
    Case(
        "convert-slope-cp",
        work.convert,
        work.cp,
        ratio(1.0, aim=0.7),
        (4 * GIB, 8 * GIB),
        slope=True,
    ),
    Case("convert-sync-slope-cp", work.convert_sync, work.cp_sync, ratio(1.0), SLOPES, slope=True),
    Case("convert-sparse-cp", work.convert_sparse, work.cp, ratio(1.0), zeros=0.5, needs=SPARSE),
    Case(
        "convert-user-import",
        work.convert,
        work.import_numpy,
        (Check(USER, 0.15, per_gib=0.05),),
        UP_TO_4,
    ),
    Case("convert-user-import-1", work.convert, work.import_numpy_one_thread, (Check(USER),), UP_TO_4),
    *(
        Case(
            f"convert-{guest}-{width}-debian",
            work.convert,
            work.old_convert,
            ratio(1 / 2.2, 4 * GIB),
            UP_TO_4 if (guest, width) == ("hvm", 64) else (GIB,),
            guest=guest,
            width=width,
            needs=DEBIAN,
        )
        for guest, width in KINDS
    ),
)

PIPES = (
    Case("pipe-pipe-cat", work.convert_pipe_pipe, work.cat_pipe_pipe, (Check(RATIO), MEMORY)),
    Case(
        "pipe-pipe-slope-cat",
        work.convert_pipe_pipe,
        work.cat_pipe_pipe,
        ratio(1.2),
        SLOPES,
        slope=True,
    ),
    Case("pipe-pipe-debian", work.convert_pipe_pipe, work.old_convert_pipe_pipe, needs=DEBIAN),
    Case("file-pipe-cat", work.convert_file_pipe, work.cat_file_pipe, (Check(RATIO), MEMORY)),
    Case(
        "file-pipe-slope-cat",
        work.convert_file_pipe,
        work.cat_file_pipe,
        ratio(1.0),
        SLOPES,
        slope=True,
    ),
    Case("file-pipe-debian", work.convert_file_pipe, work.old_convert_file_pipe, needs=DEBIAN),
)

VERIFY = (
    Case(
        "verify-debian",
        work.verify,
        work.old_verify,
        ratio(1 / 8, 4 * GIB),
        UP_TO_4,
        form="stream",
        needs=DEBIAN,
    ),
    Case(
        "verify-import",
        work.verify,
        work.import_numpy,
        (Check(RATIO), MEMORY),
        SLOPES,
        form="stream",
    ),
    Case("verify-import-1", work.verify, work.import_numpy_one_thread, memory=SLOPES, form="stream"),
    Case("verify-pipe-cat", work.verify_pipe, work.cat_pipe, form="stream"),
    Case("verify-pipe-debian", work.verify_pipe, work.old_verify, form="stream", needs=DEBIAN),
)

LOOK = (
    Case("info-import", work.info, work.import_numpy, (*ratio(2.5, 8 * GIB), MEMORY), (GIB, 8 * GIB)),
    Case("info-import-1", work.info, work.import_numpy_one_thread, memory=(GIB, 8 * GIB)),
    Case("dump-import", work.dump, work.import_numpy, (Check(RATIO), MEMORY), (GIB, 8 * GIB)),
    Case("table-import", work.page_table, work.import_numpy, (Check(RATIO), Check(PEAK)), (GIB, 8 * GIB)),
    # pages are stepped over: another GiB costs a small part of what reading it does
    Case("info-slope-cat", work.info, work.cat, ratio(0.1), SLOPES, slope=True),
    Case("dump-slope-cat", work.dump, work.cat, ratio(0.1), SLOPES, slope=True),
    Case("table-slope-cat", work.page_table, work.cat, ratio(0.1), SLOPES, slope=True),
)

START = (
    Case("small-convert-import", work.convert, work.import_numpy, ratio(1.8), SMALL, fixed=True),
    Case("small-convert-import-1", work.convert, work.import_numpy_one_thread, memory=SMALL, fixed=True),
    Case("small-convert-debian", work.convert, work.old_convert, memory=SMALL, fixed=True, needs=DEBIAN),
    Case("small-help-pass", work.help_text, work.python, ratio(6), SMALL, fixed=True),
    Case("small-import-pass", work.import_numpy, work.python, memory=SMALL, fixed=True),
    Case(
        "drop-in-convert-debian",
        work.drop_in_convert,
        work.old_convert,
        memory=SMALL,
        fixed=True,
        needs=DEBIAN,
    ),
    Case("drop-in-convert-import", work.drop_in_convert, work.import_numpy, memory=SMALL, fixed=True),
    Case(
        "drop-in-verify-debian",
        work.drop_in_verify,
        work.old_verify,
        memory=SMALL,
        fixed=True,
        form="stream",
        needs=DEBIAN,
    ),
    Case(
        "drop-in-verify-import",
        work.drop_in_verify,
        work.import_numpy,
        memory=SMALL,
        fixed=True,
        form="stream",
    ),
)

MANY = (
    Case(
        "many-copy",
        work.many_convert,
        work.many_copy,
        (Check(BEYOND, 5), Check(RATE)),
        SMALL,
        fixed=True,
        form="many",
    ),
    Case(
        "many-unchecked-copy",
        work.many_convert_unchecked,
        work.many_copy,
        (Check(BEYOND, 5), Check(RATE)),
        SMALL,
        fixed=True,
        form="many",
    ),
)

SEVERAL = 2
ARCHIVE = (
    Case("batch-copy", work.batch, work.many_copy, (Check(BEYOND, 20),), SMALL, fixed=True, form="many"),
    *(
        Case(f"batch-{name}-batch", more, work.batch, (Check(BEYOND),), SMALL, fixed=True, form="many")
        for name, more in (
            ("sync", work.batch_sync),
            ("sha256", work.batch_sha256),
            ("xxh3", work.batch_xxh3),
            ("prove", work.batch_prove),
        )
    ),
    Case("batch-large-convert", work.batch_one, work.convert_each, ratio(1.1), form="many", count=SEVERAL),
    Case("batch-two-jobs-one", work.batch_two, work.batch_one, ratio(1.0), form="many", count=SEVERAL),
)

CASES = (*CONVERT, *PIPES, *VERIFY, *LOOK, *START, *MANY, *ARCHIVE)
