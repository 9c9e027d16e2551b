"""Rules on what libvirt and XenServer put round a stream, each broken once in a good file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import pytest
from broken import Case, case, findings, places, rules_of
from conftest import converted, put, sample, xenmig  # noqa: F401 - put is a fixture

import xenmig_np
from xenmig_np.conversion.rewrap import mend
from xenmig_np.testing.carriers import (
    BANNER,
    DEMU,
    LIBXC,
    LIBXC_LEGACY,
    LIBXL,
    QEMU_TRAD,
    VARSTORED,
    XENOPS,
    LibvirtHead,
    StructuredHead,
    XapiHead,
    XapiRecord,
    XendHead,
)
from xenmig_np.testing.fields import Filled, under
from xenmig_np.testing.pieces import Piece, each
from xenmig_np.testing.streams import Built, Libxl, Xl, small_hvm, small_pv64
from xenmig_np.verification.finding import Severity
from xenmig_np.verification.rule import RULES, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from xenmig_np.testing.records import DataField

HVM, PV = small_hvm(), small_pv64()
OURS: Final = rules_of("carriers")
XEN_LIBXL: Final = Libxl(inner=PV)
END: Final = XapiRecord()
HOLDER: Final = XapiRecord(LIBXC)
QEMU: Final = XapiRecord(QEMU_TRAD, b"QEVM\0\0\0\3 state")


@dataclass(frozen=True)
class Carried(Built):
    """A stream in a carrier; the parts are those of the carrier and of the stream."""

    head: Piece
    inner: Built
    behind: tuple[Piece, ...] = ()
    trailing: bytes = b""
    preamble: bytes = b""

    def fields(self) -> Iterator[DataField]:
        yield "preamble", self.preamble
        yield from under("head", self.head.fields(8))
        yield from self.inner.fields()
        yield from each("after", self.behind, 8)
        yield "trailing_bytes", self.trailing


def libvirt(inner: Built = XEN_LIBXL, **fields: object) -> Carried:
    return Carried(replace(LibvirtHead(version=2), **fields), inner)  # type: ignore[arg-type]


def structured(*behind: Piece, inner: Built = HVM, holder: Piece = HOLDER, first: int = 0xF) -> Carried:
    return Carried(StructuredHead((XapiRecord(first, XENOPS), holder)), inner, behind)


CASES: Final = (
    case("libvirt, version 1", libvirt(version=1), "X129 head.version"),
    case("libvirt, no NUL", libvirt(xml=b"<domain/>"), "X130 head.xml+8"),
    case("libvirt, unused bytes", libvirt(unused=b"\0\1" + bytes(38)), "X131 head.unused"),
    case("libvirt, a libxc stream", libvirt(PV), "X132 image.marker"),
    case("xend", Carried(XendHead(), XEN_LIBXL), "X133 head.magic"),
    case("XenServer before 2014", Carried(XapiHead(), PV), "X133 head.magic"),
    case(
        "a capture of xl migrate",
        Carried(LibvirtHead(version=2), XEN_LIBXL, preamble=BANNER),
        "X134 preamble",
    ),
    case(
        "a legacy record", structured(QEMU, END, holder=XapiRecord(LIBXC_LEGACY)), "X135 head.records.1.type"
    ),
    case(
        "a record Libxl",
        structured(END, inner=XEN_LIBXL, holder=XapiRecord(LIBXL)),
        "X135 head.records.1.type",
    ),
    case("a libxl stream as Libxc", structured(END, inner=XEN_LIBXL), "X135 head.records.1.type"),
    case("a length", structured(QEMU, END, holder=XapiRecord(LIBXC, length=7)), "X136 head.records.1.length"),
    case("no Xenops", structured(QEMU, END, first=VARSTORED), "X137 head.records.0.type"),
    case("no end", structured(QEMU), "X138 trailing_bytes"),
    case("half a head", replace(structured(QEMU), trailing=b"\xff\xff\0"), "X138 trailing_bytes"),
    case("an unknown record", structured(QEMU, XapiRecord(0x77), END), "X138 after.1.type"),
    case("a record Demu", structured(XapiRecord(DEMU), QEMU, END), "X139 after.0.type"),
    case("a second stream", structured(QEMU, XapiRecord(LIBXC), END), "X139 after.1.type"),
    case("no device model", structured(END), "X140 after.0.type"),
    case("two device models", structured(QEMU, QEMU, END), "X141 after.1.type"),
    case("a device model of a PV guest", structured(QEMU, END, inner=PV), "X141 after.0.type"),
    case(
        "a large state", structured(XapiRecord(QEMU_TRAD, Filled((1 << 20) + 1)), END), "X142 after.0.length"
    ),
    case(
        "something behind the end", replace(structured(QEMU, END), trailing=b"\0more"), "X128 trailing_bytes"
    ),
)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda it: it.text)


@each_case
@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_exactly_this_is_told(case: Case, *, pipe: bool) -> None:
    assert places(findings(case.stream.to_bytes(), pipe=pipe)) == case.expected


@each_case
def test_the_severity_is_that_of_the_rule(case: Case) -> None:
    for finding in findings(case.stream.to_bytes()):
        assert finding.severity is RULES[finding.rule].severity


def test_a_mended_libvirt_file_is_good(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(libvirt(version=1).to_bytes())
    assert not xenmig_np.verify(old).good()
    assert mend(old, new, sync=False)
    assert xenmig_np.verify(new).good()


@each_case
def test_at_level_reference_only_the_stream_is_looked_at(case: Case) -> None:
    assert not findings(case.stream.to_bytes(), level=Level.REFERENCE)


def test_a_cut_record_is_told() -> None:
    """On a pipe where the next would begin: what is passed over is not counted there."""
    stream = structured(XapiRecord(QEMU_TRAD, b"state", length=99))
    body = stream.part("after.0.body")
    data = stream.to_bytes()
    assert places(findings(data)) == [("X138", body.offset)]
    assert places(findings(data, pipe=True)) == [("X138", body.offset + 99)]


def test_every_rule_is_broken_by_a_case() -> None:
    assert {rule for case in CASES for rule, _ in case.broken} >= OURS


GOOD: Final[dict[str, tuple[str, Built]]] = {
    "libvirt": ("libxl stream in a libvirt file", libvirt()),
    "XenServer, HVM": (
        "libxc stream in a structured XenServer (xapi) suspend image",
        structured(XapiRecord(VARSTORED, b"variables"), QEMU, END),
    ),
    "XenServer, PV, on a disk": (
        "libxc stream in a structured XenServer (xapi) suspend image",
        replace(structured(END, inner=PV), trailing=bytes(4096)),
    ),
    "XenServer, the largest state": (
        "libxc stream in a structured XenServer (xapi) suspend image",
        structured(XapiRecord(QEMU_TRAD, Filled(1 << 20)), END),
    ),
    "xl": ("libxl stream in an xl file", Xl(inner=XEN_LIBXL)),
}


@pytest.mark.parametrize(("kind", "stream"), GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_good_files_are_clean_and_named(
    kind: str,
    stream: Built,
    put: Callable[..., Path],  # noqa: F811 - the fixture
    *,
    pipe: bool,
) -> None:
    data = stream.to_bytes()
    assert not findings(data, pipe=pipe)
    ran = xenmig("verify", put(data))
    assert (ran.code, kind in ran.out.decode()) == (0, True)


def test_the_mending_of_a_libvirt_file_is_named() -> None:
    """With its label nobody restores it: an error, as the like of it in an xl file."""
    (found,) = findings(libvirt(version=1).to_bytes())
    assert found.severity is RULES["X122"].severity is Severity.ERROR
    assert (found.section, found.expected) == ("containers 3.2", "2")
    assert "no libvirt restores the file until it is repaired" in found.found
