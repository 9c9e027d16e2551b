"""A synthetic PV guest: page tables, p2m and vCPUs that fit each other (legacy-stream.md 2, 4.3, 7.1).

From pfn 16 on: start info, rings, p2m frames, descriptor tables, page tables. The kernel maps all memory (a
32-bit one its first 768 MiB), a process some of it; tables and descriptor tables are mapped read-only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np.sample.memory import U64, WORDS_PER_PAGE, Guest, Region, inside
from xenmig_np.sample.processors import VCPUS, XSAVE_SIZE, pv_context, pv_extended, pv_xsave
from xenmig_np.wire import legacy, vcpu
from xenmig_np.wire.pages import PAGE_SIZE, PTE_PFN_MASK, PTE_PFN_SHIFT, PageType

if TYPE_CHECKING:
    from xenmig_np.sample.memory import Fill, PageWords, Pfns, Run
    from xenmig_np.wire.vcpu import PvGuest

PAGES_MAX: Final = {4: 1 << 24, 8: (1 << 28) - 1}
"""A 32-bit guest addresses 64 GiB; savers refuse a p2m_size above 28 bits (legacy-stream.md 2.1)."""

FIRST: Final = 16
LOWMEM: Final = (768 << 20) // PAGE_SIZE
"""What a 32-bit kernel maps of its memory, from 0xc0000000 on."""
DIRECT_MAP: Final = 272
"""The first slot of an L4 table behind those that the hypervisor keeps for itself."""
GIVEN_UP_MAX: Final = 4096
MACHINE: Final = 0x10_0000
"""Machine frame of pfn 0; the others follow."""

TABLE: Final = 0x67
"""Present, writable, user, accessed, dirty."""
KERNEL_PAGE: Final = 0x61 | 1 << 63
USER_PAGE: Final = TABLE | 1 << 63
WRITABLE: Final = 2
PRESENT: Final = 1
SLOTS: Final = np.arange(WORDS_PER_PAGE, dtype=U64)

START_INFO: Final = {
    4: np.dtype(
        {
            "names": ["magic", "nr_pages", "store", "store_port", "console", "console_port"],
            "formats": ["S32", "<u4", "<u4", "<u4", "<u4", "<u4"],
            "offsets": [0, 32, 44, 48, 52, 56],
            "itemsize": PAGE_SIZE,
        }
    ),
    8: np.dtype(
        {
            "names": ["magic", "nr_pages", "store", "store_port", "console", "console_port"],
            "formats": ["S32", "<u8", "<u8", "<u4", "<u8", "<u4"],
            "offsets": [0, 32, 56, 64, 72, 80],
            "itemsize": PAGE_SIZE,
        }
    ),
}
SHARED_INFO: Final = {
    4: np.dtype({"names": ["max_pfn"], "formats": ["<u4"], "offsets": [2316], "itemsize": PAGE_SIZE}),
    8: np.dtype({"names": ["max_pfn"], "formats": ["<u8"], "offsets": [3088], "itemsize": PAGE_SIZE}),
}
"""Both by the guest's word."""
FLAT_SEGMENTS: Final = (0, 0x00CF_9B00_0000_FFFF, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the pages with a meaning are."""

    kind: PvGuest
    pages: int
    mapped: int
    """Pfns that the kernel maps, from 0 on."""
    gone: Run
    """Given up during round one."""
    runs: dict[str, Run]
    """Ascending; what must not be mapped writable stands together at the end."""

    @property
    def read_only(self) -> Run:
        return self.runs["gdt"][0], max(stop for _, stop in self.runs.values())

    def covering(self, tables: str, each: int) -> Run:
        """Those of some tables, of ``each`` entries, that have an entry for a page given up."""
        first, (start, stop) = self.runs[tables][0], self.gone
        return (first + start // each, first + -(-stop // each)) if stop > start else (0, 0)


def _layout(kind: PvGuest, pages: int, *, live: bool) -> Layout:
    mapped = pages if kind is vcpu.PV64 else min(pages, LOWMEM)
    gone = mapped * 3 // 4
    l1 = -(-mapped // WORDS_PER_PAGE)
    l2 = -(-l1 // WORDS_PER_PAGE)
    sizes = {"start_info": 1, "store": 1, "console": 1, "p2m": -(-pages // kind.frames_per_page)}
    sizes |= {"gdt": VCPUS, "l1": l1, "user_l1": 1}
    if kind is vcpu.PV64:
        sizes |= {"l2": l2, "l3": -(-l2 // WORDS_PER_PAGE), "top": 1}
        sizes |= {"user_l2": 1, "user_l3": 1, "user_top": 1}
    else:
        sizes |= {"l2": 4, "top": 1}
    runs = zip(sizes, pairwise(accumulate(sizes.values(), initial=FIRST)), strict=True)
    given_up = min(max(mapped // 64, 1), GIVEN_UP_MAX) if live else 0
    return Layout(kind, pages, mapped, (gone, gone + given_up), dict(runs))


def pv_guest(kind: PvGuest, width: int, pages: int, seed: int, *, live: bool) -> Guest:
    """A guest of ``pages`` pages, saved by tools of ``width`` bits."""
    layout = _layout(kind, pages, live=live)
    frames = np.arange(*layout.runs["p2m"], dtype=legacy.WORDS[width])
    return Guest(
        p2m_size=pages,
        populated=((0, pages),),
        holes=False,
        regions=_regions(layout),
        given_up=layout.gone,
        busy=(
            layout.runs["start_info"],
            layout.covering("p2m", kind.frames_per_page),
            layout.covering("l1", WORDS_PER_PAGE),
        ),
        head=_extended_info(layout, width) + frames.tobytes(),
        parameters=b"",
        toolstack=np.array([(1, 0)], legacy.TOOLSTACK_HEAD).tobytes(),
        tail=_tail(layout, width, seed),
    )


# ---- pages -------------------------------------------------------------------------------------------


def _regions(layout: Layout) -> tuple[Region, ...]:
    runs = layout.runs
    user = (layout.mapped // 2, layout.mapped // 2 + min(layout.mapped // 8, WORDS_PER_PAGE))
    above = _tables_64 if layout.kind is vcpu.PV64 else _tables_32
    return (
        Region(runs["start_info"], PageType.NOTAB, _fixed(_start_info(layout))),
        Region(runs["p2m"], PageType.NOTAB, _p2m(layout)),
        Region(runs["gdt"], PageType.NOTAB, _fixed(dict(enumerate(FLAT_SEGMENTS)))),
        Region(runs["l1"], PageType.L1TAB, _kernel_l1(layout)),
        Region(runs["user_l1"], PageType.L1TAB, _over(runs["user_l1"], user, USER_PAGE)),
        *above(runs),
    )


def _tables_64(runs: dict[str, Run]) -> tuple[Region, ...]:
    """What is above L1: the kernel's and the process's tree, both tops pinned, the second's L3 in both."""
    user = {0: _entry(runs["user_l3"], TABLE)}
    kernel = {DIRECT_MAP + i: _entry((pfn, pfn + 1), TABLE) for i, pfn in enumerate(range(*runs["l3"]))}
    return (
        Region(runs["l2"], PageType.L2TAB, _over(runs["l2"], runs["l1"], TABLE)),
        Region(runs["l3"], PageType.L3TAB, _over(runs["l3"], runs["l2"], TABLE)),
        Region(runs["top"], PageType.L4TAB_PINNED, _fixed(user | kernel)),
        Region(runs["user_l2"], PageType.L2TAB, _fixed({2: _entry(runs["user_l1"], TABLE)})),
        Region(runs["user_l3"], PageType.L3TAB, _fixed({0: _entry(runs["user_l2"], TABLE)})),
        Region(runs["user_top"], PageType.L4TAB_PINNED, _fixed(user)),
    )


def _tables_32(runs: dict[str, Run]) -> tuple[Region, ...]:
    """What is above L1: four L2, the process in the first and the kernel in the last, and the pinned L3."""
    l2 = [(pfn, pfn + 1) for pfn in range(*runs["l2"])]
    top = {slot: _entry(run, PRESENT) for slot, run in enumerate(l2)}
    return (
        Region(l2[0], PageType.L2TAB, _fixed({64: _entry(runs["user_l1"], TABLE)})),
        Region((l2[1][0], l2[2][1]), PageType.L2TAB, _fixed({})),
        Region(l2[3], PageType.L2TAB, _over(l2[3], runs["l1"], TABLE)),
        Region(runs["top"], PageType.L3TAB_PINNED, _fixed(top)),
    )


def _entry(table: Run, flags: int) -> int:
    return table[0] << PTE_PFN_SHIFT | flags


def _fixed(words: dict[int, int] | bytes) -> Fill:
    """Pages that are all alike and stay as they are: u64 by position, zero elsewhere, or the bytes."""
    page = np.zeros(WORDS_PER_PAGE, U64)
    if isinstance(words, bytes):
        page[:] = np.frombuffer(words, U64)
    else:
        page[list(words)] = np.array(list(words.values()), U64)
    return lambda pfns, _copy: np.broadcast_to(page, (len(pfns), WORDS_PER_PAGE))


def _over(tables: Run, children: Run, flags: int) -> Fill:
    """Tables whose entries name ``children`` one after another."""

    def fill(pfns: Pfns, _copy: int) -> PageWords:
        index = (pfns - np.uint64(tables[0]))[:, np.newaxis] * np.uint64(WORDS_PER_PAGE) + SLOTS
        targets = index + np.uint64(children[0])
        entries = targets << np.uint64(PTE_PFN_SHIFT) | np.uint64(flags)
        entries[targets >= children[1]] = 0
        return entries

    return fill


def _kernel_l1(layout: Layout) -> Fill:
    """The kernel's map of memory; copies of round one still have what the guest gives up meanwhile."""
    tables = _over(layout.runs["l1"], (0, layout.mapped), KERNEL_PAGE | WRITABLE)

    def fill(pfns: Pfns, copy: int) -> PageWords:
        entries = tables(pfns, copy)
        targets = entries >> np.uint64(PTE_PFN_SHIFT) & np.uint64(PTE_PFN_MASK)
        entries[inside(targets, layout.read_only)] &= np.uint64(~WRITABLE & (1 << 64) - 1)
        if copy > 1:
            entries[inside(targets, layout.gone)] = 0
        return entries

    return fill


def _p2m(layout: Layout) -> Fill:
    """The guest's table of machine frames, not translated by savers; all ones where there is no page."""
    word = np.dtype(f"<u{layout.kind.width}")
    per_frame = layout.kind.frames_per_page
    first = layout.runs["p2m"][0]
    entries: Pfns = np.arange(per_frame, dtype=U64)

    def fill(pfns: Pfns, copy: int) -> PageWords:
        mine: Pfns = (pfns - np.uint64(first))[:, np.newaxis] * np.uint64(per_frame) + entries
        absent = mine >= layout.pages
        if copy > 1:
            absent |= inside(mine, layout.gone)
        machine = (mine + MACHINE).astype(word)
        machine[absent] = np.iinfo(word).max
        return machine.view(U64)

    return fill


def _start_info(layout: Layout) -> bytes:
    """As a suspended guest leaves it: rings as pfns."""
    width, runs = layout.kind.width, layout.runs
    info = np.zeros(1, START_INFO[width])
    info["magic"] = {4: b"xen-3.0-x86_32p", 8: b"xen-3.0-x86_64"}[width]
    info["nr_pages"] = layout.pages
    info["store"], info["store_port"] = runs["store"][0], 1
    info["console"], info["console_port"] = runs["console"][0], 2
    return info.tobytes()


# ---- the rest of the image ---------------------------------------------------------------------------


def _context(layout: Layout, index: int, base: int = 0) -> bytes:
    """``base`` is the frame of pfn 0."""
    runs = layout.runs
    user = runs["user_top"][0] if layout.kind is vcpu.PV64 else 0
    start_info = runs["start_info"][0] if index == 0 else 0
    tables = (base + runs["top"][0], base + user)
    return pv_context(layout.kind, index, start_info, base + runs["gdt"][0] + index, tables)


def _extended_info(layout: Layout, width: int) -> bytes:
    """Marker and blocks (legacy-stream.md 2.2); the context is of a running vCPU, machine frames in it."""
    xcnt = np.array([(vcpu.XSAVE_HEAD.itemsize + XSAVE_SIZE,)], legacy.XCNT).tobytes()
    contents = {b"vcpu": _context(layout, 0, MACHINE), b"extv": b"", b"xcnt": xcnt}
    blocks = b"".join(
        np.array([(name, len(payload))], legacy.BLOCK_HEAD).tobytes() + payload
        for name, payload in contents.items()
    )
    return b"\xff" * (width // 8) + np.array([(len(blocks),)], legacy.EXTENDED_HEAD).tobytes() + blocks


def _tail(layout: Layout, width: int, seed: int) -> bytes:
    """Unmapped pfns, vCPUs, shared info (legacy-stream.md 7.1)."""
    kind = layout.kind
    unmapped = np.arange(*layout.gone, dtype=legacy.WORDS[width])
    count = np.array([(len(unmapped),)], legacy.UNMAPPED_HEAD)
    vcpus = [
        _context(layout, index) + pv_extended(kind, index) + pv_xsave(seed, index) for index in range(VCPUS)
    ]
    shared = np.zeros(1, SHARED_INFO[kind.width])
    shared["max_pfn"] = layout.pages
    return b"".join((count.tobytes(), unmapped.tobytes(), *vcpus, shared.tobytes()))
