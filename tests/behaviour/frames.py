"""Rows 171 to 209: X86_PV_INFO and X86_PV_P2M_FRAMES."""

from __future__ import annotations

from behaviour.table import PV32, PV64, crashed, fine, pv, refused, resized, warned
from xenmig_np.testing import records as rec
from xenmig_np.testing.fields import XTAB
from xenmig_np.testing.records import mentions, p2m_frames, page_data, pv_info, ram
from xenmig_np.testing.streams import L2, P2M, PV_LAST, Stream

PLAIN = 20
BEYOND = PV_LAST + 9
NEXT_FRAME, THIRD_FRAME, FOURTH_FRAME = 512, 1024, 1536
"""First pfns that later frames of a 64-bit guest's p2m tell of."""


def info(width: int, levels: int) -> Stream:
    """Other values in X86_PV_INFO."""
    return PV64.instead(rec.PV_INFO, pv_info(width, levels))


def frames(*pfns: int, start: int = 0, end: int = PV_LAST) -> Stream:
    """Another X86_PV_P2M_FRAMES."""
    return PV64.instead(rec.P2M_FRAMES, p2m_frames(*pfns, start=start, end=end))


def second(*pfns: int, start: int = 0, end: int = PV_LAST) -> Stream:
    """A second X86_PV_P2M_FRAMES."""
    return PV64.after(rec.P2M_FRAMES, p2m_frames(*pfns, start=start, end=end))


INFO = (
    refused(171, "64-bit without X86_PV_INFO", PV64.without(rec.PV_INFO)),
    refused(172, "32-bit without X86_PV_INFO", PV32.without(rec.PV_INFO)),
    refused(173, "neither X86_PV_INFO nor X86_PV_P2M_FRAMES", PV64.without(rec.PV_INFO, rec.P2M_FRAMES)),
    refused(174, "X86_PV_INFO twice", PV64.first(pv_info(8, 4))),
    refused(175, "X86_PV_INFO of 4 bytes", resized(PV64, rec.PV_INFO, 4)),
    warned(176, "X86_PV_INFO of 16 bytes", resized(PV64, rec.PV_INFO, 16)),
    warned(177, "reserved bytes set", PV64.instead(rec.PV_INFO, pv_info(8, 4, b"\1\2\3\4\5\6"))),
    refused(178, "width 8, 3 levels", info(8, 3)),
    refused(179, "width 4, 4 levels", info(4, 4)),
    refused(180, "width 4, 2 levels", info(4, 2)),
    refused(181, "width 2, 2 levels", info(2, 2)),
    refused(182, "width 0, no levels", info(0, 0)),
    refused(183, "X86_PV_INFO behind the pages", PV64.moved(rec.PV_INFO, before=rec.TSC_INFO)),
    crashed(184, "32-bit: XTAB of pfn 0 before it", PV32.first(page_data(*mentions(XTAB, 0)))),
    crashed(185, "32-bit: page 0 before it", PV32.first(page_data(*ram(0)))),
)

P2M_FRAMES = (
    refused(186, "none", PV64.without(rec.P2M_FRAMES)),
    refused(187, "before X86_PV_INFO", PV64.moved(rec.P2M_FRAMES, before=rec.PV_INFO)),
    refused(188, "behind the pages", PV64.moved(rec.P2M_FRAMES, before=rec.TSC_INFO)),
    refused(189, "no body", PV64.instead(rec.P2M_FRAMES, rec.record(rec.P2M_FRAMES, b""))),
    refused(190, "a head without frames", frames()),
    refused(191, "a frame too few", frames(P2M, end=NEXT_FRAME)),
    refused(192, "a frame too many", frames(P2M, PLAIN)),
    refused(193, "ends before it starts", frames(P2M, start=PV_LAST, end=0)),
    crashed(194, "a guest of one page", frames(P2M, end=0)),
    fine(195, "tells of more pfns than there are pages", frames(P2M, end=PV_LAST + 40)),
    refused(196, "tells of fewer pfns than there are pages", frames(P2M, end=PLAIN)),
    refused(197, "starts with the second frame", frames(P2M, start=NEXT_FRAME, end=2 * NEXT_FRAME - 1)),
    refused(198, "starts with the fourth frame", frames(P2M, start=FOURTH_FRAME, end=FOURTH_FRAME + 511)),
    fine(199, "a second record tells of more", second(PLAIN, start=NEXT_FRAME, end=THIRD_FRAME - 1)),
    refused(
        200, "a second record leaves a frame out", second(PLAIN, start=THIRD_FRAME, end=FOURTH_FRAME - 1)
    ),
    fine(201, "a second record says the same", second(P2M)),
    warned(202, "a second record names another page", second(PLAIN)),
    fine(203, "a second record tells of fewer pfns", second(P2M, end=PLAIN)),
    refused(204, "the frame is beyond end_pfn", frames(BEYOND)),
    warned(205, "the frame is not sent, but mapped", pv(unsent=P2M)),
    refused(
        206,
        "the frame is neither sent nor mapped",
        pv(unsent=PLAIN).instead(rec.P2M_FRAMES, p2m_frames(PLAIN, end=PV_LAST)),
    ),
    refused(207, "the frame is a page table", frames(L2)),
    refused(208, "the frame is all ones", frames((1 << 64) - 1)),
    refused(209, "tells of 2^32 - 1 pfns with one frame", frames(P2M, end=0xFFFF_FFFE)),
)

ROWS = INFO + P2M_FRAMES
