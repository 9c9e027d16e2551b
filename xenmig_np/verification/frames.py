"""Pages that restore writes to, or hands to the hypervisor by their frame (v2-stream.md 15.4, at END)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.wire import pages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xenmig_np.verification.state import Stream

PLAIN: Final = int(pages.PageType.NOTAB)


def types_of(stream: Stream, pfns: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Types of the last mentions, NOTAB for pfns without one, as restore takes them; same shape."""
    known = np.zeros(len(pfns), np.uint8)
    watched = pfns < len(stream.last_types)
    known[watched] = stream.last_types[pfns[watched]]
    return np.where(known, known - np.uint8(1), np.uint8(PLAIN))


def are_given(stream: Stream, pfns: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which pfns get a page: by their content, by XALLOC, or because a page table refers to them."""
    given: NDArray[np.bool_] = stream.populated.contains(pfns) | are_referred(stream, pfns)
    return given


def are_referred(stream: Stream, pfns: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """To which pfns a copy of a page table refers."""
    referred_at = stream.tables.referred_at
    inside: NDArray[np.bool_] = pfns < len(referred_at)
    inside[inside] = referred_at[pfns[inside]] > 0
    return inside


def unfit(stream: Stream, pfns: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which pfns are no plain pages of the guest, same shape."""
    bad: NDArray[np.bool_] = pfns > stream.end_pfn
    bad |= (types_of(stream, pfns) != PLAIN) | ~are_given(stream, pfns)
    return bad


def fault(stream: Stream, pfn: int) -> str | None:
    """Why restore cannot use a page as a plain one; None: it can."""
    at = np.array([pfn], np.uint64)
    if pfn > stream.end_pfn:
        return f"pfn {pfn:#x}, beyond the highest, {stream.end_pfn:#x}"
    if (kind := int(types_of(stream, at)[0])) != PLAIN:
        return f"pfn {pfn:#x} of type {pages.PAGE_TYPES['name'][kind]}"
    return None if are_given(stream, at)[0] else f"pfn {pfn:#x}, which was never sent"
