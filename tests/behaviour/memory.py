"""Rows 106 to 170: PAGE_DATA, and page tables."""

from __future__ import annotations

from behaviour.table import (
    HVM,
    PV64,
    crashed,
    fine,
    pv,
    refused,
    resized,
    unnoticed,
    warned,
)
from xenmig_np.testing import records as rec
from xenmig_np.testing.fields import BROKEN, NOTAB, PAGE, PINNED, XALLOC, XTAB, Filled, pte
from xenmig_np.testing.records import Page, mentions, page_data, ram, record
from xenmig_np.testing.streams import L1, L4, P2M, PV_LAST, Stream, hvm_memory, l1_entries, pv_memory, table

FREE = 0x100
"""HVM: a pfn that is not sent, and not named."""
PLAIN = 20
"""PV: a pfn of a plain page, and not named."""
BEYOND = PV_LAST + 1
EIGHT = hvm_memory()[:8]
SIZE = HVM.record(rec.PAGE_DATA).size


def early(*pages: Page, stream: Stream = HVM) -> Stream:
    """A record of these before all pages."""
    return stream.before(rec.PAGE_DATA, page_data(*pages))


def late(*pages: Page, stream: Stream = HVM) -> Stream:
    """A record of these behind all pages."""
    return stream.before(rec.TSC_INFO, page_data(*pages))


def again(pfn: int) -> Page:
    """Another content of a plain page."""
    return Page(pfn, NOTAB, Filled(PAGE, 0xEE))


FORM = (
    refused(106, "no body", HVM.first(record(rec.PAGE_DATA, b""))),
    refused(107, "half a head", HVM.first(record(rec.PAGE_DATA, bytes(4)))),
    refused(108, "count 0 and nothing more", early()),
    refused(109, "count 1 and nothing more", HVM.first(page_data(count=1))),
    refused(110, "a count of 600 for one page", HVM.first(page_data(*ram(FREE), count=600))),
    refused(111, "a page is missing", resized(HVM, rec.PAGE_DATA, SIZE - PAGE)),
    refused(112, "8 bytes behind the pages", resized(HVM, rec.PAGE_DATA, SIZE + 8)),
    refused(113, "a page too many", resized(HVM, rec.PAGE_DATA, SIZE + PAGE)),
    refused(114, "the largest count for one page", HVM.first(page_data(*ram(FREE), count=0xFFFF_FFFF))),
    warned(
        115, "the word behind the count is set", HVM.instead(rec.PAGE_DATA, page_data(*EIGHT, reserved=1))
    ),
)

KINDS = (
    fine(116, "HVM: nothing but XTAB", late(*mentions(XTAB, FREE, FREE + 1))),
    fine(117, "PV: nothing but XTAB", late(*mentions(XTAB, PLAIN), stream=pv(unsent=PLAIN))),
    warned(118, "nothing but BROKEN", late(*mentions(BROKEN, FREE, FREE + 1))),
    fine(119, "nothing but XALLOC", late(*mentions(XALLOC, FREE, FREE + 1))),
    fine(120, "PV: XALLOC, later the page", early(*mentions(XALLOC, PLAIN), stream=PV64)),
    warned(121, "HVM: a pfn twice in a record", HVM.instead(rec.PAGE_DATA, page_data(*EIGHT, again(0)))),
    warned(
        122,
        "PV: a pfn twice in a record",
        PV64.instead(rec.PAGE_DATA, page_data(*pv_memory("pv64").values(), again(PLAIN))),
    ),
    fine(123, "HVM: a page again in a later record", late(again(0))),
    fine(124, "PV: a page again in a later record", late(again(PLAIN), stream=PV64)),
    warned(125, "HVM: a page, later XTAB", late(*mentions(XTAB, 0))),
    warned(126, "PV: a page, later XTAB", late(*mentions(XTAB, PLAIN), stream=PV64)),
    fine(127, "PV: XTAB, later a page", early(*mentions(XTAB, PLAIN), stream=PV64)),
    warned(128, "HVM: a page, later BROKEN", late(*mentions(BROKEN, 0))),
    warned(129, "HVM: a page, later XALLOC", late(*mentions(XALLOC, 0))),
    refused(130, "PV: XTAB of the p2m frame at last", late(*mentions(XTAB, P2M), stream=PV64)),
    fine(131, "pfns descend", HVM.without(rec.PAGE_DATA).first(page_data(*reversed(hvm_memory())))),
    *(refused(127 + kind, f"type {kind}", late(Page(0x64, kind))) for kind in (5, 6, 7, 8)),
    warned(
        136,
        "HVM: types of page tables",
        HVM.instead(rec.PAGE_DATA, page_data(*(page._replace(kind=page.pfn % 5) for page in EIGHT))),
    ),
    warned(137, "the bits between pfn and type are set", late(*ram(0xFF << 52 | FREE))),
)

PFNS = (
    fine(138, "HVM: pfn of 4 GiB", late(*ram(1 << 20))),
    warned(139, "HVM: pfn of 1 TiB", late(*ram(1 << 28))),
    warned(140, "HVM: pfn of 16 TiB", late(*ram(1 << 32))),
    refused(141, "HVM: pfn 2^35", late(*ram(1 << 35))),
    refused(142, "HVM: pfn 2^36", late(*ram(1 << 36))),
    refused(143, "HVM: pfn 2^40", late(*ram(1 << 40))),
    refused(144, "HVM: pfn 2^51", late(*ram(1 << 51))),
    refused(145, "HVM: the last pfn", late(*ram((1 << 52) - 1))),
    warned(146, "HVM: XTAB of pfn 2^51", late(*mentions(XTAB, 1 << 51))),
    fine(147, "PV: end_pfn is sent", PV64),
    refused(148, "PV: a page beyond end_pfn", late(*ram(BEYOND), stream=PV64)),
    refused(149, "PV: XTAB beyond end_pfn", late(*mentions(XTAB, BEYOND), stream=PV64)),
    unnoticed(150, "HVM without pages", HVM.without(rec.PAGE_DATA)),
    refused(151, "PV without pages", PV64.without(rec.PAGE_DATA)),
    refused(152, "more pages than the domain may have", HVM, waiting="--max-frames 10"),
)


def mapping(*entries: int) -> Page:
    """The L1 with more entries."""
    return table(L1, 1, l1_entries() | dict(enumerate(entries, 40)))


def retyped(pfn: int, kind: int) -> Stream:
    """A page has another type."""
    return pv(pv_memory("pv64")[pfn]._replace(kind=kind))


TABLES = pv_memory("pv64").values()
BACKWARDS = sorted(TABLES, key=lambda page: not page.kind)
L1_AS_DATA = pv_memory("pv64")[L1]._replace(kind=NOTAB)

PAGE_TABLES = (
    crashed(153, "L1 names a pfn beyond end_pfn", pv(mapping(pte(BEYOND)))),
    crashed(154, "L1 names a very high pfn", pv(mapping(pte(1 << 39)))),
    fine(155, "L1 names a pfn beyond in an entry that is not present", pv(mapping(pte(BEYOND, 0x66)))),
    warned(156, "L1 names a pfn that is not sent", pv(mapping(pte(PLAIN)), unsent=PLAIN)),
    warned(157, "the same twice", pv(mapping(pte(PLAIN), pte(PLAIN)), unsent=PLAIN)),
    fine(158, "tables before what they name", PV64.instead(rec.PAGE_DATA, page_data(*BACKWARDS))),
    warned(159, "L1 names a pfn of type XTAB", pv(mapping(pte(PLAIN)), *mentions(XTAB, PLAIN))),
    warned(160, "L1 names a pfn of type BROKEN", pv(mapping(pte(PLAIN)), *mentions(BROKEN, PLAIN))),
    crashed(161, "L1 names the highest frame", pv(mapping(pte((1 << 40) - 1)))),
    fine(162, "the L4 is not pinned", retyped(L4, 4)),
    fine(163, "the L1 is sent as plain page, then as L1", early(L1_AS_DATA, stream=PV64)),
    warned(164, "the L1 is sent, then a plain page there", late(again(L1), stream=PV64)),
    fine(165, "the L1 is pinned", retyped(L1, 1 | PINNED)),
    refused(166, "the L4 is a plain page", retyped(L4, NOTAB)),
    refused(167, "the L4 is a pinned L3", retyped(L4, 3 | PINNED)),
    unnoticed(168, "the L1 is a plain page", retyped(L1, NOTAB)),
    unnoticed(169, "the L1 maps itself, writable", pv(mapping(pte(L1, 0x63)))),
    warned(170, "a 32-bit guest with an L4", pv(Page(PLAIN, 4 | PINNED), guest="pv32")),
)

ROWS = FORM + KINDS + PFNS + PAGE_TABLES
