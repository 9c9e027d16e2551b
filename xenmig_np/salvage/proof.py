"""What is believed behind damage.

Nothing in an image is checksummed, so places prove each other. A head is *strong* if no bytes of a guest's
memory look so by chance. A batch or chunk counts if a strong head, or a proven tail, follows where its length
says that the next one begins, with nothing but well-formed chunks between: a byte that was lost or added in
between would have moved it. Behind damage the first head has to be a strong batch itself, or nothing but
chunks up to a proven tail follow it. Pages that are full of images of images can still deceive, and bytes
that were lost where as many came in cannot be noticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.read.consistency import top_tables
from xenmig_np.read.events import Chunk, HvmContext, OnlineVcpus, PageBatch, Vcpu
from xenmig_np.wire import hvm, legacy, pages, vcpu
from xenmig_np.wire.legacy import Guest, Payload

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from xenmig_np.read.events import AnyEvent

STRONG_WORDS: Final = 16
"""Words of a batch that by chance are never all pages of the guest, each another one."""
REPEATS: Final = 32
"""Of so many words one may be damaged such that it repeats another."""
UNKNOWN_PFN: Final = 0xFFFF_FFFF
"""Stands in a damaged word for what was there; no pfn is as large."""
ONCE: Final = frozenset({Payload.NOTHING})
"""Chunks of nothing but an id, of which no body has two: an area of ones is full of them."""

BEHIND_PAGES: Final = frozenset({"enable_verify_mode", "vcpu_info", "tmem", "tmem_extra", "tsc_info"})
"""Chunks that savers write right behind a batch (legacy-stream.md 1): others have moved there."""


def strong(event: AnyEvent) -> bool:
    """Whether an event that reads well has a head that nothing but a saver makes."""
    match event:
        case PageBatch():
            known = (event.types != pages.PageType.XTAB) & (event.pfns != UNKNOWN_PFN)
            return int(np.count_nonzero(known)) >= STRONG_WORDS
        case OnlineVcpus():
            return bool(event.ids)
        case Chunk():
            payload = event.row.payload
            if payload is Payload.TSC_INFO:
                return int(event.value["mode"]) <= legacy.TSC_MODE_MAX + 1
            if payload is Payload.HVM_PARAM:
                return event.payload.startswith(bytes(4)) and bool(event.value)
            return payload is Payload.TOOLSTACK and len(event.payload) >= legacy.TOOLSTACK_HEAD.itemsize
    return False


def as_saved(batch: PageBatch, guest: Guest | None) -> bool:
    """Whether a saver can have written such a batch, but for a few damaged words.

    ``guest`` None: it is not known which kind of guest the image holds.
    """
    if guest is Guest.HVM and not pages.OF_HVM[batch.types].all():
        return False
    pfns = batch.pfns[batch.types != pages.PageType.XTAB]
    return len(pfns) - len(np.unique(pfns)) <= len(pfns) // REPEATS


def ascends(batch: PageBatch) -> bool:
    """Whether the pfns ascend, as those of Xen 3.3 and later do (legacy-stream.md 4.3)."""
    pfns = batch.pfns[(batch.types != pages.PageType.XTAB) & (batch.pfns != UNKNOWN_PFN)]
    return bool((pfns[1:] > pfns[:-1]).all())


def agreeing(batch: PageBatch, *, ascending: bool) -> NDArray[np.bool_]:
    """Which words contradict no other, shape (words,); of two that do both are doubtful.

    ``ascending``: the image is of a saver that sends pfns in order.
    """
    kept = np.flatnonzero((batch.types != pages.PageType.XTAB) & (batch.pfns != UNKNOWN_PFN))
    pfns = batch.pfns[kept].astype(np.int64)
    good = np.zeros(len(batch.types), np.bool_)
    if ascending:
        falls = np.flatnonzero(pfns[1:] <= pfns[:-1])
        fine = np.ones(len(pfns), np.bool_)
        fine[falls] = fine[falls + 1] = False
        rest = pfns[fine]
        if (rest[1:] <= rest[:-1]).any():
            return good
    else:
        _, where, counts = np.unique(pfns, return_inverse=True, return_counts=True)
        fine = counts[where] == 1
    good[kept[fine]] = True
    return good


def is_tail(
    events: list[AnyEvent],
    guest: vcpu.PvGuest | None,
    p2m_size: int,
    type_of: Callable[[int], int | None],
) -> bool:
    """Whether the events of a tail are those of a guest; zeros read as a tail too.

    Of a PV guest the first vCPU has to use a top-level page table of the image, if that was not lost.
    """
    for event in events:
        if isinstance(event, HvmContext):
            return event.context.startswith(hvm.CONTEXT_START)
        if isinstance(event, Vcpu) and guest is not None:
            context = np.frombuffer(event.context, guest.context)[0]
            tops = top_tables(guest, int(context["ctrlreg"][vcpu.CR3]))
            kinds = [type_of(pfn) for pfn in tops if 0 < pfn < p2m_size]
            levels = {2, guest.levels} if guest is vcpu.PV32 else {guest.levels}
            return any(kind is None or int(pages.LEVEL[kind]) in levels for kind in kinds)
    return False
