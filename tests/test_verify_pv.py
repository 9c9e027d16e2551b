"""Rules on PV guests, each broken once in a good stream and told at its place: frames, vCPUs, page tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from broken import Case, case, findings, places, rules_of, taken, told
from conftest import converted, open_file, sample
from judge import judged

from xenmig_np.io.source import FileSource
from xenmig_np.testing import records as rec
from xenmig_np.testing.builder import ONLINE, extended
from xenmig_np.testing.fields import NOTAB, PINNED, XALLOC, XTAB, Data, le, pte
from xenmig_np.testing.records import Page, Record, mentions, msrs, p2m_frames, page_data, pv_info, ram, vcpu
from xenmig_np.testing.streams import (
    L1,
    L2,
    L3,
    L4,
    P2M,
    PV_LAST,
    PvKind,
    Stream,
    basic,
    l1_entries,
    pv_memory,
    small_pv,
    small_pv32,
    small_pv64,
    table,
    xsave,
)
from xenmig_np.verification.engine import Verification
from xenmig_np.verification.releases import until
from xenmig_np.verification.rule import RULES, Level

if TYPE_CHECKING:
    from pathlib import Path

PV64, PV32 = small_pv64(), small_pv32()
OURS = rules_of("pv", "vcpus", "contexts", "tables")
INFO, FRAMES, SHARED = rec.PV_INFO, rec.P2M_FRAMES, rec.SHARED_INFO
BASIC, EXTENDED, XSAVE, MSRS = rec.VCPU_BASIC, rec.VCPU_EXTENDED, rec.VCPU_XSAVE, rec.VCPU_MSRS
PLAIN, BEYOND = 20, PV_LAST + 1
TSC_AUX = 0xC000_0103
END = "record.8.type"
"""Of the small guest: rules about what is missing are broken there."""
FIELD = {"flags": 512, "edx": 616, "rip": 648, "gdt": 4832, "gdt_ents": 4960, "cr1": 4992, "cr3": 5008}
"""Offsets in the context of a 64-bit guest."""
FIELD_32 = {"edx": 524, "gdt": 2640, "cr3": 2728}


def longer(stream: Stream, number: int, size: int) -> Stream:
    return stream.instead(number, stream.record(number).resized(size))


# ---- X86_PV_INFO, X86_PV_P2M_FRAMES, SHARED_INFO -----------------------------------------------------------


def info(width: int, levels: int, reserved: bytes = bytes(6)) -> Stream:
    return PV64.instead(INFO, pv_info(width, levels, reserved))


def frames(*pfns: int, start: int = 0, end: int = PV_LAST) -> Stream:
    return PV64.instead(FRAMES, p2m_frames(*pfns, start=start, end=end))


def second(*pfns: int, start: int = 0, end: int = PV_LAST) -> Stream:
    return PV64.after(FRAMES, p2m_frames(*pfns, start=start, end=end))


def pv(*changed: Page, guest: PvKind = "pv64", unsent: int | None = None) -> Stream:
    """The small guest with other pages, and one that is not sent."""
    memory = pv_memory(guest) | {page.pfn: page for page in changed}
    return small_pv(guest).instead(
        rec.PAGE_DATA, page_data(*(page for pfn, page in memory.items() if pfn != unsent))
    )


def without_mapping(pfn: int) -> Stream:
    """Neither sent nor mapped."""
    entries = {slot: entry for slot, entry in l1_entries().items() if entry >> 12 & 0xFFFF != pfn}
    return pv(table(L1, 1, entries), unsent=pfn)


FRAME_CASES = (
    case("PV_INFO of 4 bytes", longer(PV64, INFO, 4), "V30 record.0.length"),
    case("width 2", info(2, 4), "V30 record.0.width"),
    case("5 levels", info(8, 5), "V30 record.0.levels"),
    taken("PV_INFO of 16 bytes", longer(PV64, INFO, 16), "V30a record.0.length"),
    taken("first reserved field", info(8, 4, b"\1" + bytes(5)), "V30b record.0.reserved"),
    taken("second reserved field", info(8, 4, bytes(5) + b"\1"), "V30b record.0.reserved+2"),
    case("width 8, 3 levels", info(8, 3), "X50 record.0.levels"),
    case("PV_INFO twice", PV64.first(pv_info(8, 4)), "X51 record.1.type"),
    case("frames of 4 bytes", longer(PV64, FRAMES, 4), "V31 record.1.length"),
    case("half a frame", longer(PV64, FRAMES, 20), "V32 record.1.length"),
    case("a frame too few", frames(P2M, end=512), "X52 record.1.length"),
    case("a frame too many", frames(P2M, PLAIN), "X52 record.1.length"),
    case("ends before it starts", frames(P2M, start=PV_LAST, end=0), "X52 record.1.start_pfn"),
    case("one pfn", frames(P2M, end=0), "X52 record.1.end_pfn", xen="crashed"),
    case("a hole below", frames(P2M, start=512, end=1023), "X53 record.1.start_pfn"),
    case("a hole between", second(PLAIN, start=1024, end=1535), "X53 record.2.start_pfn"),
    taken("another frame", second(PLAIN), "X54 record.2.frame.0"),
    case("a frame beyond", frames(BEYOND), "X55 record.1.frame.0"),
    case("a frame of all ones", frames((1 << 64) - 1), "X55 record.1.frame.0"),
    case("a page table as frame", frames(L2), "X55 record.1.frame.0"),
    case("a frame that was allocated only", pv(Page(P2M, XALLOC)), "X55 record.1.frame.0"),
    case("a second frame beyond", second(40, start=512, end=1023), "X55 record.2.frame.0"),
    taken(
        "a frame that only tables know",
        pv(unsent=P2M),
        "X56 record.1.frame.0",
        f"X77 record.2.page.{L1 - 1}+{8 * 200}",
    ),
    case("a frame that nobody knows", without_mapping(P2M), "X55 record.1.frame.0"),
    taken("no SHARED_INFO", PV64.without(SHARED), "X57 record.7.type"),
    taken("two of them", PV64.after(SHARED, PV64.record(SHARED)), "X58 record.5.type"),
    case("SHARED_INFO of 4088 bytes", longer(PV64, SHARED, 4088), "V35 record.4.length"),
)

# ---- vCPUs -------------------------------------------------------------------------------------------------


def state(stream: Stream = PV64, **fields: Any) -> Stream:
    """Another context of vCPU 0."""
    guest: PvKind = "pv64" if stream is not PV32 else "pv32"
    return stream.instead(BASIC, vcpu(BASIC, basic(guest, **fields)))


def unsent(**fields: Any) -> Stream:
    return pv(unsent=PLAIN).instead(BASIC, vcpu(BASIC, basic("pv64", **fields)))


def instead(number: int, data: Data) -> Stream:
    return PV64.instead(number, vcpu(number, data))


def with_msrs(*entries: tuple[int, int], more: bytes = b"", reserved: int = 0) -> Stream:
    return PV64.last(vcpu(MSRS, msrs(*entries, reserved=reserved) + more))


def patched(offset: int, word: int, **fields: Any) -> Stream:
    """Another word in the context of vCPU 0."""
    made = basic("pv64", **fields)
    return instead(BASIC, replace(made, patches=(*made.patches, (offset, le(word, 8)))))


def second_vcpu(*numbers: int, id: int = 1) -> Stream:  # noqa: A002 - its name
    states: dict[int, Data] = {BASIC: basic("pv64"), EXTENDED: extended(id), XSAVE: xsave()}
    return PV64.last(*(vcpu(number, states[number], id=id) for number in numbers))


WILD = 1 << 47
"""An address between the two halves."""

VCPU_CASES = (
    case("no id", longer(PV64, BASIC, 4), "V33 record.5.length", f"X67 {END}"),
    taken(
        "reserved field",
        PV64.instead(BASIC, vcpu(BASIC, basic("pv64"), reserved=1)),
        "V34 record.5.reserved",
    ),
    taken("an empty context", PV64.last(vcpu(BASIC, id=7)), "X59 record.8.length"),
    taken("an empty extended one", instead(EXTENDED, b""), "X59 record.6.length", f"X68 {END}"),
    taken("no xsave state", instead(XSAVE, b""), "X59 record.7.length"),
    taken("no MSRs", with_msrs(), "X59 record.8.length"),
    case("8 bytes too many", longer(PV64, BASIC, 5184), "X60 record.5.length"),
    case("a context of 32 bits", instead(BASIC, basic("pv32")), "X60 record.5.length"),
    case("an extended one of 129 bytes", longer(PV64, EXTENDED, 137), "X60 record.6.length"),
    case("of vCPU 1", instead(EXTENDED, extended(1)), "X61 record.6.state"),
    case("of no size", instead(EXTENDED, bytes(128)), "X61 record.6.state+4"),
    case(
        "a wild callback",
        instead(EXTENDED, le(0, 4) + le(56, 4) + le(WILD, 8) + bytes(112)),
        "X61 record.6.state+8",
    ),
    case("15 bytes of xsave", instead(XSAVE, bytes(15)), "X62 record.7.length", "X63 record.7.length"),
    case("no area", instead(XSAVE, xsave(area=0)), "X62 record.7.length"),
    case("an area too long", instead(XSAVE, xsave(area=592)), "X62 record.7.length"),
    case("xcr0 beyond accum", instead(XSAVE, xsave(xcr0=7)), "X62 record.7.state"),
    case("half an MSR", with_msrs((TSC_AUX, 1), more=bytes(4)), "X64 record.8.length"),
    case("an MSR that cannot be set", with_msrs((TSC_AUX, 1), (0x1234, 1)), "X64 record.8.state+16"),
    case("MSR, reserved field", with_msrs((TSC_AUX, 1), reserved=1), "X64 record.8.state"),
    taken("two contexts", PV64.before(BASIC, PV64.record(BASIC)), "X65 record.6.type"),
    taken("two xsave records", PV64.last(PV64.record(XSAVE)), "X65 record.8.type"),
    case("no context", PV64.without(BASIC), "X67 record.7.type"),
    taken("no extended context", PV64.without(EXTENDED), "X68 record.7.type"),
    taken("vCPU 1 without context", second_vcpu(EXTENDED, XSAVE), "X68 record.10.type"),
    taken("vCPU 1 without extended context", second_vcpu(BASIC, XSAVE), "X68 record.10.type"),
    case(
        "vCPU 4096",
        second_vcpu(BASIC, id=4096),
        "X66 record.8.vcpu_id",
        "X68 record.9.type",
    ),
    case("cr3 beyond", state(top=BEYOND), f"X69 record.5.state+{FIELD['cr3']}"),
    case("cr3 of an L3", state(top=L3), f"X69 record.5.state+{FIELD['cr3']}"),
    case("cr3 unsent", unsent(top=PLAIN), f"X69 record.5.state+{FIELD['cr3']}"),
    case("32-bit cr3 beyond", state(PV32, top=BEYOND), f"X69 record.5.state+{FIELD_32['cr3']}"),
    case("32-bit cr3 of an L2", state(PV32, top=L2), f"X69 record.5.state+{FIELD_32['cr3']}"),
    case("cr1 of a plain page", state(user=PLAIN << 12 | 1), f"X69 record.5.state+{FIELD['cr1']}"),
    case("GDT beyond", state(gdt=BEYOND), f"X70 record.5.state+{FIELD['gdt']}"),
    case("GDT unsent", unsent(gdt=PLAIN), f"X70 record.5.state+{FIELD['gdt']}"),
    case("GDT in a table", state(PV32, gdt=L1), f"X70 record.5.state+{FIELD_32['gdt']}"),
    case(
        "a second frame of the GDT",
        patched(FIELD["gdt"] + 8, L1, gdt_entries=1024),
        f"X70 record.5.state+{FIELD['gdt'] + 8}",
    ),
    case("7169 entries", state(gdt_entries=7169), f"X70 record.5.state+{FIELD['gdt_ents']}"),
    case("start info beyond", state(start=BEYOND), f"X71 record.5.state+{FIELD['edx']}"),
    case("start info is a table", state(PV32, start=L1), f"X71 record.5.state+{FIELD_32['edx']}"),
    case("start info unsent", unsent(start=PLAIN), f"X71 record.5.state+{FIELD['edx']}"),
    case("a wild rip", state(ip=WILD), f"X72 record.5.state+{FIELD['rip']}"),
    case("a wild trap", patched(720 + 16 * 3 + 8, WILD), f"X72 record.5.state+{720 + 16 * 3 + 8}"),
    case("cr1 without bit 0", state(user=L4 << 12), f"X72 record.5.state+{FIELD['cr1']}"),
    case("user mode without cr1", state(flags=ONLINE), f"X72 record.5.state+{FIELD['cr1']}"),
)

# ---- page tables -------------------------------------------------------------------------------------------


def mapping(*entries: int, guest: PvKind = "pv64", **options: Any) -> Stream:
    """More entries in the L1, from slot 40 on."""
    return pv(table(L1, 1, l1_entries() | dict(enumerate(entries, 40))), guest=guest, **options)


def late(*pages: Page, stream: Stream = PV64) -> Stream:
    return stream.before(rec.TSC_INFO, page_data(*pages))


def retyped(pfn: int, kind: int, guest: PvKind = "pv64") -> Stream:
    return pv(pv_memory(guest)[pfn]._replace(kind=kind), guest=guest)


def slot(number: int, table_pfn: int = L1, record: int = 2) -> str:
    """An entry of a table; pages lie by their pfns."""
    return f"record.{record}.page.{table_pfn}+{8 * number}"


XEN_SLOT = 428
OLD_L1 = table(L1, 1, {0: pte(PLAIN)})

TABLE_CASES = (
    case("an entry beyond", mapping(pte(BEYOND)), f"X76 {slot(40)}", xen="crashed"),
    case("others beyond", mapping(pte(10), pte(BEYOND), pte(1 << 39)), f"X76 {slot(41)}", xen="crashed"),
    case(
        "an old copy with an entry beyond",
        PV64.before(rec.PAGE_DATA, page_data(table(L1, 1, {7: pte(BEYOND)}))),
        "X76 record.2.page.0+56",
        xen="crashed",
    ),
    case(
        "such a copy behind VERIFY",
        late(table(L1, 1, {7: pte(BEYOND)}), stream=PV64.before(rec.TSC_INFO, Record(rec.VERIFY))),
        "X76 record.4.page.0+56",
        xen="crashed",
    ),
    taken("an entry to what never came", mapping(pte(PLAIN), unsent=PLAIN), f"X77 {slot(40)}"),
    taken("twice the same", mapping(pte(PLAIN), pte(PLAIN), unsent=PLAIN), f"X77 {slot(40)}"),
    taken("to an XTAB", pv(table(L1, 1, {0: pte(PLAIN)}), Page(PLAIN, XTAB)), f"X77 {slot(0)}"),
    taken(
        "an old copy that knows what never came",
        pv(unsent=PLAIN).before(rec.PAGE_DATA, page_data(OLD_L1)),
        "X77 record.2.page.0",
    ),
    taken("an L1 that is a plain page", retyped(L1, NOTAB), f"X78 {slot(0, L2)}"),
    taken("an L2 that is an L1", retyped(L2, 1), f"X78 {slot(0, L2)}"),
    taken("an L1 that became a plain page", late(*ram(L1)), f"X78 {slot(0, L2)}"),
    taken("an L1 that can be written to", mapping(pte(L1, 0x63)), f"X78 {slot(40)}"),
    taken("32-bit: an L1 that is a plain page", retyped(L1, NOTAB, "pv32"), f"X78 {slot(0, L2)}"),
    taken("32-bit: an L4", pv(Page(PLAIN, 4 | PINNED), guest="pv32"), f"X79 record.2.word.{PLAIN}"),
)

CASES = (*FRAME_CASES, *VCPU_CASES, *TABLE_CASES)
each = pytest.mark.parametrize("case", CASES, ids=lambda it: it.text)


@each
def test_exactly_this_is_told(case: Case) -> None:
    assert places(findings(case.stream.to_bytes())) == case.expected


@each
def test_pipes_are_judged_alike(case: Case) -> None:
    assert places(findings(case.stream.to_bytes(), pipe=True)) == case.expected


@each
def test_the_severity_is_that_of_the_rule(case: Case) -> None:
    for finding in findings(case.stream.to_bytes()):
        assert finding.releases or finding.severity is RULES[finding.rule].severity


@each
def test_at_level_reference_rules_of_the_reference_are_errors_and_others_silent(case: Case) -> None:
    found = told(findings(case.stream.to_bytes(), level=Level.REFERENCE))
    expected = {rule for rule, _ in case.broken if rule.startswith("V")}
    assert {(rule, severity) for rule, severity, _ in found} == {(rule, "ERROR") for rule in expected}


@pytest.mark.judge
@each
def test_xen_agrees(case: Case, tmp_path: Path) -> None:
    """What Xen refuses is an error; what it takes is one only where the guest is not right."""
    path = tmp_path / "stream"
    path.write_bytes(case.stream.to_bytes())
    report = judged(path, "--vcpus", "1") if "vCPU 1" not in case.text else judged(path)
    assert report["verdict"] == case.xen, report
    errors = any(finding.severity.name == "ERROR" for finding in findings(path.read_bytes()))
    assert errors or case.xen == "accepted"
    assert not errors or not report["clean"]


def test_every_rule_is_broken_by_a_case() -> None:
    assert {rule for case in CASES for rule, _ in case.broken} == OURS


# ---- good streams ------------------------------------------------------------------------------------------

LINEAR = l1_entries() | {40: pte(L1, 0x61), 41: pte(L2, 0x65)}
"""Tables that are mapped read-only."""
GOOD = {
    "64-bit": PV64,
    "32-bit": PV32,
    "64-bit, version 3": PV64.version3(),
    "32-bit, version 3": PV32.version3(),
    "tables before what they map": PV64.instead(
        rec.PAGE_DATA,
        page_data(*sorted(pv_memory("pv64").values(), key=lambda page: not page.kind)),
    ),
    "an entry that is not present": mapping(pte(BEYOND, 0x66)),
    "tables that are read": pv(table(L1, 1, LINEAR)),
    "a linear page table": pv(table(L4, 4 | PINNED, {511: pte(L3), 510: pte(L4, 0x61)})),
    "an L2 with a large page": pv(table(L2, 2, {0: pte(L1), 1: pte(PLAIN, 0xE7)})),
    "32-bit: slots of the hypervisor": pv(
        table(L2, 2, {0: pte(L1), XEN_SLOT: pte(0)}),
        table(L3, 3 | PINNED, {0: pte(L2, 1), 4: pte(0, 1)}),
        guest="pv32",
    ),
    "an L1, sent as a plain page before": PV64.before(
        rec.PAGE_DATA, page_data(pv_memory("pv64")[L1]._replace(kind=NOTAB))
    ),
    "a table that maps what was given back, replaced": PV64.before(
        rec.PAGE_DATA, page_data(table(L1, 1, {0: pte(L2, 0x63)}))
    ),
    "frames in two records": second(PLAIN, start=512, end=1023),
    "frames twice": second(P2M),
    "a smaller end": second(P2M, end=PLAIN),
    "a p2m of more pfns than pages": frames(P2M, end=PV_LAST + 40),
    "an allocated page that is mapped": mapping(pte(PLAIN), unsent=PLAIN).before(
        rec.TSC_INFO, page_data(*mentions(XALLOC, PLAIN))
    ),
    "two vCPUs": second_vcpu(BASIC, EXTENDED, XSAVE),
    "vCPUs before the pages": PV64.moved(BASIC, EXTENDED, XSAVE, before=rec.PAGE_DATA),
    "no xsave state": PV64.without(XSAVE),
    "nothing in the xsave state": instead(XSAVE, bytes(16)),
    "AVX": instead(XSAVE, xsave(xcr0=7, accum=7, area=832)),
    "an extended context of Xen 4.0": instead(EXTENDED, le(0, 4) + le(32, 4) + bytes(24)),
    "MSRs": with_msrs((TSC_AUX, 1), (0x48, 0)),
    "a user page table": state(user=L4 << 12 | 1),
    "7168 GDT entries": state(gdt_entries=7168, gdt=0),
}


@pytest.mark.parametrize("stream", GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_good_streams_are_clean(stream: Stream, level: Level, *, pipe: bool) -> None:
    assert not findings(stream.to_bytes(), level=level, pipe=pipe)


@pytest.mark.judge
@pytest.mark.parametrize("stream", GOOD.values(), ids=GOOD)
def test_xen_takes_good_streams(stream: Stream, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(stream.to_bytes())
    assert judged(path)["verdict"] == "accepted"


@pytest.mark.parametrize("guest", ["pv64", "pv32"])
@pytest.mark.parametrize("target", ["xen-4.6", "xen-4.14", "draft-v7"])
@pytest.mark.parametrize("live", [False, True], ids=["still", "live"])
def test_conversions_are_clean(guest: str, target: str, *, live: bool) -> None:
    found = findings(converted(sample(guest, 64, live=live), target=target, format="libxc"))
    assert not [finding for finding in found if finding.rule in OURS]


# ---- what the table cannot say -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [BASIC, EXTENDED, XSAVE, MSRS])
def test_an_empty_record_matters_to_old_releases(number: int) -> None:
    stream = PV64.last(vcpu(number, id=0))
    old = until("4.10")
    assert told(findings(stream.to_bytes())) == [("X59", "WARNING", old)]
    assert told(findings(stream.to_bytes(), release="4.10")) == [("X59", "ERROR", old)]
    assert not findings(stream.to_bytes(), release="4.11")
    lost = number in {BASIC, EXTENDED}
    found = told(findings(stream.version3().to_bytes()))
    assert found == ([("X59", "WARNING", frozenset())] if lost else [])


def test_an_xsave_record_of_odd_size_matters_to_old_releases() -> None:
    stream = instead(XSAVE, xsave(xcr0=0x1F, accum=0x1F, area=1000))
    assert told(findings(stream.to_bytes())) == [("X63", "WARNING", until("4.13"))]
    assert told(findings(stream.to_bytes(), release="4.13")) == [("X63", "ERROR", until("4.13"))]
    assert not findings(stream.version3().to_bytes())


def test_a_finding_counts_what_it_does_not_show() -> None:
    (found,) = findings(mapping(pte(BEYOND), pte(BEYOND + 1), pte(1 << 39)).to_bytes())
    assert "and 2 more" in found.found
    (found,) = findings(
        mapping(pte(PLAIN), pte(PLAIN + 1), unsent=PLAIN)
        .before(rec.PAGE_DATA, page_data(Page(PLAIN, XTAB)))
        .to_bytes()
    )
    assert "others" not in found.found


class Reads(FileSource):
    """A file that remembers where it was read."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "old", owned=False)
        self.at: list[tuple[int, int]] = []

    def read_at(self, offset: int, into: memoryview) -> int:
        self.at.append((offset, offset + len(into)))
        return super().read_at(offset, into)


def touched(stream: Stream, level: Level) -> set[int]:
    """Pfns of the small guest whose pages are read from end to end."""
    with open_file(stream.to_bytes()) as fd:
        source = Reads(fd)
        list(Verification(source, 0, level).findings())
    pages = {pfn: stream.part(f"record.2.page.{pfn}") for pfn in range(PV_LAST + 1)}
    return {
        pfn for pfn, page in pages.items() if any(a <= page.offset and page.end <= b for a, b in source.at)
    }


def test_of_the_pages_only_tables_are_read_and_only_at_level_restore() -> None:
    tables = {L1, L2, L3, L4}
    assert touched(PV64, Level.RESTORE) - touched(PV64, Level.REFERENCE) == tables - touched(
        PV64, Level.REFERENCE
    )
    assert touched(PV64, Level.RESTORE) >= tables


def test_a_pipe_that_ends_within_tables_is_truncated_once() -> None:
    data = PV64.to_bytes()
    cut = PV64.part(f"record.2.page.{L2}").offset + 100
    (found,) = findings(data[:cut], pipe=True)
    assert found.rule == "V11"


def test_tables_of_an_illegal_record_are_left_alone() -> None:
    bad = page_data(table(L1, 1, {0: pte(BEYOND)}), Page(PLAIN, 5))
    for pipe in (False, True):
        assert [it.rule for it in findings(PV64.before(rec.TSC_INFO, bad).to_bytes(), pipe=pipe)] == ["V25"]


def test_many_tables_are_read_in_slices() -> None:
    """More than are read at a time, each with an entry to its own page; the last one has a bad one too."""
    count = 600
    end = 2 * count + 100
    tables = [
        table(
            100 + number,
            1,
            {3: pte(100 + count + number), **({5: pte(end + 1)} if number == count - 1 else {})},
        )
        for number in range(count)
    ]
    stream = PV64.instead(FRAMES, p2m_frames(P2M, PLAIN, PLAIN + 1, end=end)).before(
        rec.TSC_INFO, page_data(*tables), rec.zero_pages(100 + count, count - 1)
    )
    assert places(findings(stream.to_bytes())) == sorted(
        [
            ("X76", stream.part(f"record.3.page.{count - 1}").offset + 40),
            ("X77", stream.part(f"record.3.page.{count - 1}").offset + 24),
        ]
    )
