"""Rules on order, PAGE_DATA, HVM guests and TSC: each is broken once in a good stream."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from conftest import converted, every_kind, open_file, sample
from judge import judged

from xenmig_np.carriers.recognise import recognise
from xenmig_np.io.source import open_source
from xenmig_np.testing import records as rec
from xenmig_np.testing.fields import BROKEN, XALLOC, XTAB, Filled, le
from xenmig_np.testing.pieces import ContextRecord
from xenmig_np.testing.records import Page, Record, hvm_context, hvm_params, mentions, page_data, ram, record
from xenmig_np.testing.streams import (
    CONTEXT,
    IOREQ,
    PARAMS,
    PV_LAST,
    STORE,
    Built,
    Libxl,
    Stream,
    small_hvm,
    small_pv32,
    small_pv64,
)
from xenmig_np.verification.engine import Verification
from xenmig_np.verification.releases import ALL, since, until
from xenmig_np.verification.rule import RULES, Level

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from xenmig_np.verification.finding import Finding

HVM, PV64, PV32 = small_hvm(), small_pv64(), small_pv32()
HVM3, PV3 = HVM.version3(), PV64.version3()
MODULES = ("order", "pages", "hvm", "hvmcontext", "misc")
OF_READER = {"V21", "V23", "V26"}
OURS = OF_READER | {
    rule.id for rule in RULES.values() if rule.check and rule.check.__module__.rpartition(".")[2] in MODULES
}
STATIC_END, VERIFY, CHECKPOINT = Record(rec.STATIC_DATA_END), Record(rec.VERIFY), Record(rec.CHECKPOINT)
LEAF = rec.cpuid_policy((0, 0xFFFF_FFFF, 1, 0, 0, 0))
MSRS = record(rec.MSR_POLICY, rec.msrs((0xCE, 1 << 31)))
TSC, CONTEXTS, PARAM = rec.TSC_INFO, rec.HVM_CONTEXT, rec.HVM_PARAMS


def findings(data: bytes, **options: Any) -> list[Finding]:
    with open_file(data) as fd:
        source = open_source(fd)
        carried = recognise(source)
        return list(Verification(source, carried.at, carried=carried, **options).findings())


def of_ours(found: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.rule in OURS]


# ---- good streams ----------------------------------------------------------------------------------------

DRAFT = Libxl(inner=HVM.last(record(rec.TOOLSTACK, bytes(8))), before=(Record(2),), options=2)
"""In the numbering of the draft, with the record that was withdrawn later."""


@pytest.mark.parametrize("stream", [HVM, HVM3, Libxl(inner=HVM), DRAFT], ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("level", Level)
def test_a_good_hvm_stream_is_clean(stream: Built, level: Level) -> None:
    assert not of_ours(findings(stream.to_bytes(), level=level))


@pytest.mark.parametrize("stream", [PV64, PV32, PV3, PV32.version3()])
@pytest.mark.parametrize("level", Level)
def test_a_good_pv_stream_is_clean(stream: Stream, level: Level) -> None:
    assert not of_ours(findings(stream.to_bytes(), level=level))


@every_kind
@pytest.mark.parametrize("target", ["xen-4.6", "xen-4.14"])
def test_conversions_are_clean(guest: str, width: int, target: str) -> None:
    assert not of_ours(findings(converted(sample(guest, width), target=target)))


# ---- each rule broken ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A stream, the rules it breaks with the parts where they are broken, and what Xen says of it."""

    text: str
    stream: Stream
    broken: tuple[tuple[str, str], ...]
    xen: str


def case(text: str, stream: Stream, *broken: str, xen: str = "refused") -> Case:
    """``broken``: ``rule part``."""
    return Case(
        text, stream, tuple((rule, part) for rule, _, part in (it.partition(" ") for it in broken)), xen
    )


def taken(text: str, stream: Stream, *broken: str) -> Case:
    """Xen restores it all the same."""
    return case(text, stream, *broken, xen="accepted")


def params(*pairs: tuple[int, int], **lies: int) -> Stream:
    """More parameters behind the six good ones."""
    return HVM.instead(PARAM, hvm_params(*PARAMS, *pairs, **lies))


def late(*pages: Page, stream: Stream = HVM) -> Stream:
    """A fourth PAGE_DATA of an HVM guest, a second one of a PV guest."""
    return stream.before(TSC, page_data(*pages))


def context(*entries: ContextRecord, behind: bytes = b"") -> Stream:
    """Entries behind header and vCPU 0."""
    made = hvm_context(*CONTEXT[:2], *entries, CONTEXT[2])
    return HVM.instead(CONTEXTS, replace(made, body=(*made.body, ("behind", behind))))


def longer(stream: Stream, number: int, size: int) -> Stream:
    return stream.instead(number, stream.record(number).resized(size))


HEADER = ContextRecord(1, le(0x5438_1286, 4) + le(1, 4) + bytes(16))
OLD_HEADER = ContextRecord(1, le(0x5438_1286, 4) + le(2, 4) + bytes(16))
XSAVE = ContextRecord(16, Filled(24 + 576, 0, tuple((at, le(3, 8)) for at in (8, 16, 24 + 512))))

ORDER = (
    case("version 3, pages first", HVM3.moved(rec.STATIC_DATA_END, before=TSC), "X10 record.0.type"),
    case("version 3, no STATIC_DATA_END", replace(PV64, version=3), "X10 record.1.type"),
    case("two STATIC_DATA_END", HVM3.first(STATIC_END), "X11 record.1.type"),
    case(
        "version 2, STATIC_DATA_END behind pages",
        HVM.before(TSC, STATIC_END),
        "V43a record.3.type",
        "X11 record.3.type",
    ),
    taken("static data ends early", PV3.moved(rec.STATIC_DATA_END, before=rec.PV_INFO), "X12 record.1.type"),
    taken("a policy too late", HVM3.after(rec.STATIC_DATA_END, LEAF), "X13 record.1.type"),
    taken("a policy twice", HVM3.first(MSRS, MSRS), "X14 record.1.type"),
    case("PV record in HVM", HVM.first(rec.pv_info(8, 4)), "X15 record.0.type"),
    case("HVM record in PV", PV64.last(hvm_context(*CONTEXT)), "X15 record.8.type"),
    case("no p2m frames", PV64.without(rec.P2M_FRAMES), "X16 record.1.type"),
    case("shared info first", PV64.moved(rec.SHARED_INFO, before=rec.PV_INFO), "X16 record.0.type"),
    case("32-bit vCPU first", PV32.moved(rec.VCPU_BASIC, before=rec.PV_INFO), "X17 record.0.type"),
    taken("64-bit vCPU first", PV64.moved(rec.VCPU_BASIC, before=rec.PV_INFO), "X18 record.0.type"),
    taken(
        "no pages",
        HVM.without(rec.PAGE_DATA),
        "X19 record.3.type",
        "X92 record.2.param.0.value",
        "X92 record.2.param.5.value",
        "X93 record.2.param.1.value",
        "X93 record.2.param.2.value",
    ),
    taken("VERIFY first", HVM.first(VERIFY), "X20 record.0.type"),
    taken("VERIFY twice", HVM.before(TSC, VERIFY, VERIFY), "X21 record.4.type"),
    case("CHECKPOINT", HVM.last(CHECKPOINT), "X22 record.6.type"),
)

FORM = (
    taken("END of 8 bytes", longer(HVM, rec.END, 8), "V20 record.6.length"),
    taken("VERIFY of 8 bytes", HVM.before(TSC, VERIFY.resized(8)), "V40 record.3.length"),
    case(
        "CHECKPOINT of 8 bytes",
        HVM.last(CHECKPOINT.resized(8)),
        "V41 record.6.length",
        "X22 record.6.type",
    ),
    taken(
        "STATIC_DATA_END of 8 bytes",
        HVM3.instead(rec.STATIC_DATA_END, STATIC_END.resized(8)),
        "V43 record.0.length",
    ),
    taken("STATIC_DATA_END in version 2", HVM.first(STATIC_END), "V43a record.0.type"),
    case("a policy without entries", HVM3.first(rec.cpuid_policy()), "V44 record.0.length"),
    case("half an MSR", HVM3.first(MSRS.resized(24)), "V44 record.0.length"),
    taken("version 2, a policy", HVM.first(LEAF), "V44a record.0.type"),
    taken("version 2, MSRs", HVM.first(MSRS), "V44b record.0.type"),
    case("TOOLSTACK", HVM.last(record(rec.TOOLSTACK, bytes(8))), "V39 record.6.type"),
    case("dirty pfns", HVM.last(record(rec.DIRTY_PFNS, bytes(8))), "V42 record.6.type"),
    taken(
        "optional PAGE_DATA", HVM.last(record(rec.OPTIONAL | rec.PAGE_DATA, bytes(8))), "X23 record.6.type"
    ),
)

PAGES = (
    case("PAGE_DATA of 4 bytes", HVM.first(record(rec.PAGE_DATA, bytes(4))), "V21 record.0.length"),
    case("no words", HVM.first(page_data()), "V21a record.0.count"),
    taken("reserved field", HVM.first(page_data(*ram(0), reserved=1)), "V22 record.0.count+4"),
    case("more words than fit", HVM.first(page_data(*ram(0), count=600)), "V23 record.0.count"),
    case("pages that are none", HVM.first(page_data(*ram(0), behind=bytes(8))), "V26 record.0.length"),
    taken("reserved bits", late(Page(1 << 52 | 0x100), *ram(0x101)), "V24 record.3.word.0"),
    case("an illegal type", late(*ram(0x100), *mentions(8, 0x101)), "V25 record.3.word.1"),
    taken("page tables in HVM", late(*ram(0x100), Page(0x101, 4)), "X30 record.3.word.1"),
    taken(
        "1025 words",
        HVM.before(TSC, page_data(*mentions(XTAB, *range(0x1000, 0x1401)))),
        "X31 record.3.length",
    ),
    taken("a pfn twice", late(*ram(0x100, 0x101, 0x100)), "X32 record.3.word.2"),
    case("beyond end_pfn", late(*ram(8), *mentions(XTAB, PV_LAST + 1), stream=PV64), "X33 record.3.word.1"),
    case("an absurd pfn", late(*ram(0x100, 1 << 40)), "X34 record.3.word.1"),
    taken("an unusual pfn", late(*ram(0x100, 1 << 28)), "X35 record.3.word.1"),
    taken("XTAB of an absurd pfn", late(*mentions(XTAB, 0x100, 1 << 51)), "X35 record.3.word.1"),
    taken("XTAB of a page", late(*mentions(XTAB, 0x100, 3)), "X36 record.3.word.1"),
    taken("BROKEN of a page", late(*mentions(BROKEN, 3)), "X36 record.3.word.0"),
    taken("XALLOC of a page", late(*mentions(XALLOC, 3)), "X36 record.3.word.0"),
    taken("a broken page", late(*mentions(BROKEN, 0x100)), "X37 record.3.word.0"),
)

PARAMETERS = (
    taken("no parameters", HVM.without(PARAM), "X82 record.5.type"),
    taken("ring pages behind", HVM.last(page_data(*ram(0x100, STORE))), "X83 record.6.word.1"),
    taken("an empty record", HVM.last(hvm_params()), "X84 record.6.count"),
    case("a count too high", params(count=9), "V38 record.5.length"),
    case("no body", HVM.last(record(PARAM, b"")), "V38 record.6.length"),
    taken("reserved field", params(reserved=1), "V38a record.5.reserved"),
    case("beyond the last", params((39, 1)), "X85 record.5.param.6.index"),
    taken("2^32 too high", params((1 << 32 | 2, 1)), "X85 record.5.param.6.index"),
    case("memory events", params((20, 1)), "X86 record.5.param.6.index"),
    taken("without a meaning", params((3, 1)), "X87 record.5.param.6.index"),
    case("VIRIDIAN", params((9, 2)), "X88 record.5.param.6.value"),
    case("ACPI_S_STATE", params((14, 4)), "X88 record.5.param.6.value"),
    case("VM86_TSS", params((15, 1 << 32)), "X88 record.5.param.6.value"),
    case("ACPI_IOPORTS_LOCATION", params((19, 2)), "X88 record.5.param.6.value"),
    case("TRIPLE_FAULT_REASON", params((31, 6)), "X88 record.5.param.6.value"),
    case(
        "no ioreq pages", params((32, 8), (33, 0)), "X88 record.5.param.7.value", "X95 record.5.param.6.index"
    ),
    case("too many ioreq pages", params((32, 8), (33, 65)), "X88 record.5.param.7.value"),
    case("ALTP2M", params((35, 4)), "X88 record.5.param.6.value"),
    case("X87_FIP_WIDTH", params((36, 5)).version3(), "X88 record.6.param.6.value"),
    case("VM86_TSS_SIZED", params((37, 0x1000)).version3(), "X88 record.6.param.6.value"),
    case("MCA_CAP", params((38, 2)).version3(), "X88 record.6.param.6.value"),
    case("set once", params((5, IOREQ + 1)), "X89 record.5.param.6.value"),
    case("set once, in two records", params((9, 1)).last(hvm_params((9, 3))), "X89 record.6.param.0.value"),
    taken("two values", params((10, 2)), "X90 record.5.param.6.value"),
    taken("a ring in frame 0", params((17, 0)), "X90 record.5.param.6.value", "X91 record.5.param.6.value"),
    taken("no store page", HVM.instead(PARAM, hvm_params((1, STORE + 0x100))), "X92 record.5.param.0.value"),
    taken(
        "no ioreq page", HVM.instead(PARAM, hvm_params((1, STORE), (6, 0x300))), "X93 record.5.param.1.value"
    ),
    taken("STORE_PFN missing", HVM.instead(PARAM, hvm_params(*PARAMS[1:])), "X94 record.6.type"),
    taken("ioreq servers alone", params((32, 8)), "X95 record.5.param.6.index"),
)

CONTEXTS_BROKEN = (
    case("no context", HVM.without(CONTEXTS), "X80 record.5.type"),
    case("an empty context", HVM.instead(CONTEXTS, record(CONTEXTS, b"")), "V37 record.4.length"),
    taken("two contexts", HVM.last(HVM.record(CONTEXTS)), "X81 record.6.type"),
    case("garbage", HVM.instead(CONTEXTS, record(CONTEXTS, Filled(100, 0xEE))), "X96 record.4.body"),
    case("half a header", HVM.instead(CONTEXTS, HVM.record(CONTEXTS).resized(20)), "X96 record.4.body"),
    case(
        "version 2",
        HVM.instead(CONTEXTS, hvm_context(OLD_HEADER, *CONTEXT[1:])),
        "X97 record.4.entry.0.data+4",
    ),
    case("no end", HVM.instead(CONTEXTS, hvm_context(*CONTEXT[:2])), "X98 record.4.padding"),
    case("beyond the end", context(ContextRecord(3, bytes(8), length=100)), "X98 record.4.entry.2.length"),
    taken("something behind the end", context(behind=b"\0\1"), "X99 record.4.behind"),
    case("an unknown type", context(ContextRecord(30, bytes(8))), "X100 record.4.entry.2.typecode"),
    case("a second header", context(HEADER), "X100 record.4.entry.2.typecode"),
    case("LAPIC_REGS", context(ContextRecord(6, bytes(1000))), "X101 record.4.entry.2.length"),
    case("a longer LAPIC", context(ContextRecord(5, bytes(32))), "X101 record.4.entry.2.length"),
    taken("a shorter LAPIC", context(ContextRecord(5, bytes(8))), "X102 record.4.entry.2.length"),
    case("vCPU 128", context(ContextRecord(5, bytes(24), instance=128)), "X103 record.4.entry.2.instance"),
    taken(
        "vCPU 1 alone",
        HVM.instead(CONTEXTS, hvm_context(CONTEXT[0], replace(CONTEXT[1], instance=1), CONTEXT[2])),
        "X109 record.4.entry.1.instance",
    ),
    case("PIC 2", context(ContextRecord(3, bytes(8), instance=2)), "X103 record.4.entry.2.instance"),
    taken("PIC 0 twice", context(*[ContextRecord(3, bytes(8))] * 2), "X104 record.4.entry.3.typecode"),
    case(
        "an xsave area of 512 bytes", context(ContextRecord(16, bytes(512))), "X108 record.4.entry.2.length"
    ),
    case("MSRs", context(ContextRecord(20, le(2, 4) + bytes(20))), "X108 record.4.entry.2.length"),
)

TSC_INFO = (
    case("16 bytes", longer(HVM, TSC, 16), "V36 record.3.length"),
    taken("reserved field", HVM.instead(TSC, rec.tsc_info(reserved=1)), "V36a record.3.reserved"),
    case("mode 9", HVM.instead(TSC, rec.tsc_info(9)), "X105 record.3.mode"),
    case("mode 3", HVM.instead(TSC, rec.tsc_info(3)), "X105 record.3.mode"),
    taken("none", PV64.without(TSC), "X106 record.7.type"),
    taken("twice", HVM.last(rec.tsc_info()), "X107 record.6.type"),
)

CASES = (*ORDER, *FORM, *PAGES, *PARAMETERS, *CONTEXTS_BROKEN, *TSC_INFO)
each = pytest.mark.parametrize("case", CASES, ids=lambda it: it.text)


def place(stream: Built, part: str) -> int:
    """Offset of a part, or of so many bytes behind its beginning."""
    name, _, more = part.partition("+")
    return stream.part(name).offset + int(more or 0)


@each
def test_exactly_this_is_told(case: Case) -> None:
    found = findings(case.stream.to_bytes())
    if case.stream.type == HVM.type:
        assert {finding.rule for finding in found} <= OURS | {"X3"}
    told = sorted((finding.rule, finding.offset) for finding in of_ours(found))
    assert told == sorted((rule, place(case.stream, part)) for rule, part in case.broken)


@each
def test_the_severity_is_that_of_the_rule(case: Case) -> None:
    for finding in of_ours(findings(case.stream.to_bytes())):
        assert finding.releases or finding.severity is RULES[finding.rule].severity


@each
def test_at_level_reference_rules_of_the_reference_are_errors_and_others_silent(case: Case) -> None:
    told = {
        finding.rule: finding.severity.name
        for finding in findings(case.stream.to_bytes(), level=Level.REFERENCE)
    }
    expected = {rule for rule, _ in case.broken if rule.startswith("V")}
    assert {rule: severity for rule, severity in told.items() if rule in OURS} == dict.fromkeys(
        expected, "ERROR"
    )


@pytest.mark.judge
@each
def test_xen_agrees(case: Case, tmp_path: Path) -> None:
    """What Xen refuses is an error, or a warning that names its release."""
    path = tmp_path / "stream"
    path.write_bytes(case.stream.to_bytes())
    assert judged(path)["verdict"] == case.xen
    found = findings(path.read_bytes(), release="4.17")
    assert case.xen == "accepted" or any(finding.severity.name == "ERROR" for finding in found)


def test_every_rule_is_broken_by_a_case() -> None:
    cases = {rule for case in CASES for rule, _ in case.broken}
    assert OURS - cases == {"V10a", "X24", "X25"}  # each has a test of its own below


def test_rules_have_a_place_in_the_specification() -> None:
    for rule in OURS:
        assert re.fullmatch(r"(v2-stream|legacy-stream|xen-restore-behaviour) [0-9., ]+", RULES[rule].section)


# ---- what the table cannot say ---------------------------------------------------------------------------


def told(stream: Built, **options: Any) -> list[tuple[str, str, frozenset[str]]]:
    found = of_ours(findings(stream.to_bytes(), **options))
    return [(finding.rule, finding.severity.name, frozenset(finding.releases)) for finding in found]


FIP = params((36, 4))


@pytest.mark.parametrize(
    ("stream", "rule", "refuse"),
    [
        (FIP, "X85", until("4.6")),
        (params((37, 128 << 32)), "X85", until("4.8")),
        (params((38, 1)), "X85", until("4.9")),
        (HVM.instead(TSC, rec.tsc_info(3)), "X105", since("4.12")),
        (HVM.first(STATIC_END), "V43a", until("4.13")),
        (HVM.first(LEAF), "V44a", until("4.13")),
    ],
)
def test_releases_that_differ_are_named(stream: Stream, rule: str, refuse: frozenset[str]) -> None:
    assert told(stream) == [(rule, "WARNING", refuse)]
    for release in refuse:
        assert (rule, "ERROR", refuse) in told(stream, release=release)


def test_what_no_taker_refuses_is_nothing() -> None:
    assert not told(FIP.version3())
    assert not told(FIP, release="4.7")


def test_mode_3_is_an_error_where_all_takers_refuse_it() -> None:
    assert told(HVM.instead(TSC, rec.tsc_info(3)).version3())[0][:2] == ("X105", "ERROR")


def test_a_release_that_takes_a_foreign_record_does_not_make_it_right() -> None:
    assert told(HVM.first(STATIC_END), release="4.17") == [("V43a", "WARNING", frozenset())]


def test_version_3_and_long_contexts_matter_where_an_old_release_is_asked_for() -> None:
    assert not told(HVM3)
    assert not told(HVM3, release="4.14")
    assert ("X25", "ERROR", until("4.13")) in told(HVM3, release="4.13")
    assert told(HVM, release="4.6") == [("X101", "ERROR", until("4.6"))]
    assert not told(HVM, release="4.7")
    assert until("4.13") < ALL


def test_the_draft_has_fewer_records_and_another_number_32() -> None:
    def draft(inner: Stream) -> Libxl:
        return Libxl(inner=inner, before=(Record(2),), options=2)

    assert told(draft(HVM.before(TSC, VERIFY, *HVM.records[:1]))) == []
    assert told(draft(params((32, 0x1234_5678)))) == []
    assert [rule for rule, *_ in told(draft(HVM3))] == ["V10a"]
    hint = of_ours(findings(replace(params((32, 0x1234_5678)), xen=(0, 1)).to_bytes()))
    assert "draft-v7" in hint[0].found


def test_checkpoints_repeat_records() -> None:
    twice = HVM.only(*HVM.records[:-1], CHECKPOINT, *HVM.records[:-1], Record(rec.END))
    assert [rule for rule, *_ in told(twice)] == ["X22"]


def test_pages_behind_verify_are_compared_only() -> None:
    assert not told(HVM.last(VERIFY, *HVM.records[:3]))


def test_many_wrong_words_are_one_finding() -> None:
    found = of_ours(findings(late(*ram(0x100, 0x100, 0x101, 0x101)).to_bytes()))
    assert [(finding.rule, "1 more" in finding.found) for finding in found] == [("X32", True)]


def test_allocated_twice_is_nothing() -> None:
    stream = HVM.before(TSC, page_data(*mentions(XALLOC, 0x100)), page_data(*mentions(XALLOC, 0x100)))
    assert not told(stream)


def test_extended_state_and_msrs_of_a_good_form_are_clean() -> None:
    assert not told(context(XSAVE, ContextRecord(20, le(1, 4) + bytes(20))))


def test_the_context_that_is_applied_counts() -> None:
    garbage = record(CONTEXTS, Filled(100, 0xEE))
    assert [rule for rule, *_ in told(HVM.before(CONTEXTS, garbage))] == ["X81"]
    assert [rule for rule, *_ in told(HVM.last(garbage))] == ["X81", "X96"]


def test_lists_of_lies_give_few_findings() -> None:
    entries = (ContextRecord(3),) * 20_000
    found = told(context(*entries))
    assert [rule for rule, *_ in found] == ["X98", *["X101"] * 4, *["X104"] * 4]
    assert len(told(params(*[(39, 1)] * 5000))) == 4


def test_a_body_too_long_to_be_read_is_told() -> None:
    stream = HVM.instead(CONTEXTS, record(CONTEXTS, Filled((16 << 20) + 8)))
    assert [rule for rule, *_ in told(stream)] == ["X24"]
