"""Rules on libxl records, on xl's header and on what follows a stream, each broken once in a good stream."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from broken import Case, case, findings, places, rules_of, taken, told
from conftest import converted, every_kind, open_file, sample
from judge import judged

from xenmig_np.io.source import open_source
from xenmig_np.testing import records as rec
from xenmig_np.testing.pieces import XlHeader
from xenmig_np.testing.records import Record, emulator, record, xenstore_pairs
from xenmig_np.testing.streams import Built, Libxl, Stream, Xl, small_hvm, small_pv64
from xenmig_np.verification.engine import Verification
from xenmig_np.verification.releases import ALL, since
from xenmig_np.verification.rule import RULES, Level

if TYPE_CHECKING:
    from pathlib import Path

HVM, PV = small_hvm(), small_pv64()
OURS = rules_of("libxl", "xl", "trailing")
END, CONTEXT = Record(rec.LIBXL_END), Record(rec.LIBXC_CONTEXT)
PAIRS = xenstore_pairs(("physmap/1000/start_addr", "f0000000"), ("physmap/1000/size", "1000"))
STORE, STATE = emulator(rec.XENSTORE_DATA, PAIRS), emulator(rec.EMULATOR_CONTEXT, b"QEVM\0\0\0\3\0\0")
CONVERTED = 2
"""The bit of the libxl header."""
FROM_410 = since("4.10")


def hvm(*behind: Record, **fields: Any) -> Libxl:
    """An HVM guest with these records behind its libxc stream, then END."""
    return Libxl(inner=HVM, behind=(*behind, END), **fields)


def store(data: bytes) -> Libxl:
    return hvm(emulator(rec.XENSTORE_DATA, data), STATE)


GOOD_HVM, GOOD_PV = hvm(STORE, STATE), Libxl(inner=PV)

# ---- libxl records ----------------------------------------------------------------------------------------

LIBXL_CASES = (
    taken(
        "END of 8 bytes",
        Libxl(inner=HVM, behind=(STORE, STATE, record(rec.LIBXL_END, bytes(8)))),
        "V54 behind.2.length",
    ),
    case(
        "a second libxc context of 8 bytes",
        Libxl(inner=HVM, behind=(STATE, record(rec.LIBXC_CONTEXT, bytes(8)), record(0, HVM.to_bytes()))),
        "V55 behind.1.length",
        "X113 behind.1.type",
        "V1 behind.2.type",
        xen="refused",
    ),
    case("7 bytes of pairs", hvm(record(rec.XENSTORE_DATA, bytes(7)), STATE), "V56 behind.0.length"),
    taken("emulator 3", hvm(emulator(rec.XENSTORE_DATA, PAIRS, id=3), STATE), "V56a behind.0.id"),
    case("no NUL at the end", store(PAIRS + b"key"), f"V56b behind.0.data+{len(PAIRS) + 2}"),
    case("a key without its value", store(PAIRS + b"key\0"), "V56b behind.0.data"),
    case("an empty key", store(PAIRS + b"\0value\0"), f"X111 behind.0.data+{len(PAIRS)}"),
    case("an absolute key", store(xenstore_pairs(("/vm", "1"))), "X111 behind.0.data"),
    case("7 bytes of state", hvm(record(rec.EMULATOR_CONTEXT, bytes(7))), "V57 behind.0.length"),
    taken("another emulator", hvm(emulator(rec.EMULATOR_CONTEXT, b"QEVM", id=3)), "V57a behind.0.id"),
    taken(
        "emulator 2, index 1", hvm(emulator(rec.EMULATOR_CONTEXT, b"QEVM", index=1)), "X110 behind.0.index"
    ),
    taken("no state", hvm(emulator(rec.EMULATOR_CONTEXT, b"")), "X112 behind.0.length"),
    case("an optional record", hvm(STATE, record(rec.OPTIONAL | 9, b"")), "V52a behind.1.type"),
    taken("pairs behind the state", hvm(STATE, STORE), "X114 behind.1.type"),
    taken("two states", hvm(STATE, STATE), "X114 behind.1.type"),
    taken("a device model of a PV guest", Libxl(inner=PV, behind=(STATE, END)), "X115 behind.0.type"),
    taken("a converted guest without device model", hvm(options=CONVERTED), "X116 behind.0.type"),
    taken(
        "converted by another program, without device model",
        replace(hvm(), inner=replace(HVM, xen=(0, 1))),
        "X116 behind.0.type",
    ),
    taken("no device model", hvm(), "X117 behind.0.type"),
    case("the end of no checkpoint", hvm(STATE, Record(rec.CHECKPOINT_END)), "X118 behind.1.type"),
    case(
        "CHECKPOINT_END of 8 bytes",
        hvm(STATE, record(rec.CHECKPOINT_END, bytes(8))),
        "V58 behind.1.length",
        "X118 behind.1.type",
    ),
    case(
        "a state of no checkpoint",
        hvm(STATE, record(rec.CHECKPOINT_STATE, bytes(4))),
        "X118 behind.1.type",
    ),
    case(
        "CHECKPOINT_STATE without its id",
        hvm(STATE, Record(rec.CHECKPOINT_STATE)),
        "V59 behind.1.length",
        "X118 behind.1.type",
    ),
)

# ---- the draft --------------------------------------------------------------------------------------------

JSON, DRAFT_CONTEXT, DRAFT_STORE, DRAFT_STATE = range(1, 5)
"""Numbers of the draft."""
CONFIG = record(JSON, b'{"c_info": {}}')


def draft(*behind: Record, before: tuple[Record, ...] = (Record(DRAFT_CONTEXT),), **fields: Any) -> Libxl:
    return Libxl(inner=PV, before=before, behind=(*behind, END), **fields)


NOTE = "X119 before.0.type"
DRAFT_CASES = (
    case("a draft", draft(), NOTE),
    case("a native draft", draft(before=(CONFIG, Record(DRAFT_CONTEXT))), NOTE),
    case(
        "a second configuration without text",
        draft(before=(CONFIG, Record(JSON), Record(DRAFT_CONTEXT))),
        NOTE,
        "V60 before.1.length",
    ),
    case("a toolstack blob without bytes", draft(Record(DRAFT_STORE)), NOTE, "V60a behind.0.length"),
    case(
        "a toolstack blob before the guest",
        draft(before=(CONFIG, record(DRAFT_STORE, bytes(8)), Record(DRAFT_CONTEXT))),
        NOTE,
        "X113 before.1.type",
    ),
)

# ---- xl's header ------------------------------------------------------------------------------------------

TEXT, CONFIG_JSON = b'name = "small"\n', b'{"c_info": {"name": "small"}}\0'


def xl(flags: int, config: bytes | None = TEXT, inner: Built = GOOD_PV, **fields: Any) -> Xl:
    return Xl(inner=inner, header=XlHeader(config=config, mandatory_flags=flags, **fields))


XL_CASES = (
    case("an unknown mandatory flag", xl(6), "X120 xl.mandatory_flags"),
    taken("an optional flag", xl(2, optional_flags=1), "X121 xl.optional_flags"),
    case("no flag of a stream", xl(0), "X122 xl.mandatory_flags"),
    case("a draft with the flag of 4.6", xl(2, inner=draft()), "X122 xl.mandatory_flags", NOTE),
    taken("JSON, then text", xl(3), "X123 xl.mandatory_flags"),
    taken("text, then JSON", xl(2, CONFIG_JSON), "X123 xl.mandatory_flags"),
    taken("JSON without NUL", xl(3, CONFIG_JSON[:-1]), f"X124 xl.config+{len(CONFIG_JSON) - 2}"),
    taken("an empty configuration", xl(2, b""), "X125 xl.optional_data_length"),
    taken("no configuration", xl(2, None), "X125 xl.optional_data_length"),
    taken("a libxc stream", xl(2, inner=PV), "X126 image.marker"),
)

# ---- behind the stream ------------------------------------------------------------------------------------

BYTES = b"QEVM\0\0\0\3 state"
TAILS = {
    "libxl": b"DeviceModelRecord0002" + len(BYTES).to_bytes(4, "little") + BYTES,
    "Remus": b"RemusDeviceModelState" + len(BYTES).to_bytes(4, "little") + BYTES,
    "XenServer": b"QemuDeviceModelRecord\n" + len(BYTES).to_bytes(4, "big") + BYTES,
    "QEMU of version 2": b"QemuDeviceModelRecord" + b"QEVM\0\0\0\2" + (4).to_bytes(8, "big") + b"abcd",
}
TO_THE_END = b"QemuDeviceModelRecord" + BYTES
"""Without a length: all that follows is in it."""
HANDSHAKE = b"domain is yours, you are cleared to unpause\0"


def tail(data: bytes, stream: Stream = HVM) -> Stream:
    return replace(stream, trailing=data)


BEHIND_CASES = (
    taken("half a device-model record", tail(TAILS["libxl"][:-1]), "X127 trailing"),
    taken("half a signature", tail(TAILS["libxl"][:10]), "X127 trailing"),
    taken("half a length", tail(TAILS["Remus"][:23]), "X127 trailing"),
    taken("half a QEMU state", tail(TAILS["QEMU of version 2"][:-1]), "X127 trailing"),
    taken("zeros", tail(bytes(4096)), "X128 trailing"),
    taken("a byte", tail(b"\1"), "X128 trailing"),
    *(
        taken(f"something behind the record of {name}", tail(data + b"more"), f"X128 trailing+{len(data)}")
        for name, data in TAILS.items()
    ),
    taken("a device-model record of a PV guest", tail(TAILS["libxl"], PV), "X128 trailing"),
    taken(
        "a device-model record behind libxl",
        replace(GOOD_HVM, trailing=TAILS["libxl"]),
        "X128 libxl.trailing",
    ),
    taken("a migration", xl(2, inner=replace(GOOD_PV, trailing=HANDSHAKE)), "X128 libxl.trailing"),
)

CASES = (*LIBXL_CASES, *DRAFT_CASES, *XL_CASES, *BEHIND_CASES)
each = pytest.mark.parametrize("case", CASES, ids=lambda it: it.text)


@each
@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_exactly_this_is_told(case: Case, *, pipe: bool) -> None:
    assert places(findings(case.stream.to_bytes(), pipe=pipe)) == case.expected


@each
def test_the_severity_is_that_of_the_rule(case: Case) -> None:
    for finding in findings(case.stream.to_bytes()):
        assert finding.releases or finding.severity is RULES[finding.rule].severity


@each
def test_at_level_reference_rules_of_the_reference_are_errors_and_others_silent(case: Case) -> None:
    found = told(findings(case.stream.to_bytes(), level=Level.REFERENCE))
    expected = {rule for rule, _ in case.broken if rule.startswith("V")}
    assert {(rule, severity) for rule, severity, _ in found} == {(rule, "ERROR") for rule in expected}


def test_every_rule_is_broken_by_a_case() -> None:
    assert {rule for case in CASES for rule, _ in case.broken} >= OURS


@pytest.mark.judge
@pytest.mark.parametrize("case", BEHIND_CASES, ids=lambda it: it.text)
def test_xen_does_not_look_behind_the_stream(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(case.stream.to_bytes())
    assert judged(path)["verdict"] == case.xen


# ---- good streams -----------------------------------------------------------------------------------------

GOOD: dict[str, Built] = {
    "HVM": GOOD_HVM,
    "HVM, version 3": replace(GOOD_HVM, inner=HVM.version3()),
    "PV": GOOD_PV,
    "PV, converted": replace(GOOD_PV, options=CONVERTED),
    "no physmap": hvm(STATE),
    "no pairs": store(b""),
    "xl with text": xl(2),
    "xl with JSON": xl(3, CONFIG_JSON),
    "xl with more than the configuration": xl(2, behind=b"more"),
    "a device model to the end": tail(TO_THE_END),
    **{f"a device model of {name}": tail(data) for name, data in TAILS.items()},
}


@pytest.mark.parametrize("stream", GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_good_streams_are_clean(stream: Built, level: Level, *, pipe: bool) -> None:
    assert not findings(stream.to_bytes(), level=level, pipe=pipe)


@every_kind
@pytest.mark.parametrize("target", ["xen-4.6", "xen-4.14"])
@pytest.mark.parametrize("format", ["libxl", "libxc"])
@pytest.mark.parametrize("xl", [False, True], ids=["bare", "xl"])
def test_conversions_are_clean(
    guest: str,
    width: int,
    target: str,
    format: str,  # noqa: A002 - the option's name
    *,
    xl: bool,
) -> None:
    made = converted(sample(guest, width, xl=xl), target=target, format=format)
    expected = {"X126"} if (format, xl) == ("libxc", True) else set()
    assert {finding.rule for finding in findings(made) if finding.rule in OURS} == expected


# ---- what the table cannot say ----------------------------------------------------------------------------


def test_a_device_model_of_a_pv_guest_matters_to_later_releases() -> None:
    stream = Libxl(inner=PV, behind=(STATE, END))
    assert told(findings(stream.to_bytes())) == [("X115", "WARNING", FROM_410)]
    assert told(findings(stream.to_bytes(), release="4.17")) == [("X115", "ERROR", FROM_410)]
    assert not findings(stream.to_bytes(), release="4.9")
    version3 = replace(stream, inner=PV.version3())
    assert told(findings(version3.to_bytes())) == [("X115", "ERROR", FROM_410)]


def test_a_draft_is_good_unless_a_release_must_take_it() -> None:
    assert told(findings(draft().to_bytes())) == [("X119", "NOTE", frozenset())]
    assert told(findings(draft().to_bytes(), release="4.6")) == [("X119", "ERROR", ALL)]


def test_records_of_a_checkpoint_stand_in_it() -> None:
    """Only the libxc record is out of place, which is told of it."""
    checkpoint, end = Record(rec.CHECKPOINT), Record(rec.END)
    first = HVM.only(*HVM.records[:-1], checkpoint)
    inside = (record(rec.CHECKPOINT_STATE, bytes(4)), STATE, STORE, Record(rec.CHECKPOINT_END))
    data = Libxl(inner=first, behind=(*inside, end, STATE, END)).to_bytes()
    assert {finding.rule for finding in findings(data)} == {"X22"}


def test_bytes_that_are_somebody_elses_are_left_alone() -> None:
    data = tail(b"the next reader's").to_bytes()
    with open_file(data) as fd:
        assert not list(Verification(open_source(fd, exact=True), 0).findings())


def test_at_level_reference_nothing_behind_the_end_is_read() -> None:
    with open_file(tail(b"more").to_bytes()) as fd:
        run = Verification(open_source(fd), 0, Level.REFERENCE)
        assert not list(run.findings())
        assert run.stream.behind is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(5000), "5,000 bytes: zeros"),
        (HANDSHAKE, "44 bytes: the last message of xl migrate"),
        (TAILS["libxl"], "a device-model record"),
        (b"\1\2", "2 bytes: 01 02"),
    ],
)
def test_what_follows_is_described(data: bytes, words: str) -> None:
    (found,) = findings(tail(data, PV).to_bytes())
    assert words in found.found


def test_a_pipe_is_not_read_to_its_end() -> None:
    (found,) = findings(tail(bytes(1 << 16), PV).to_bytes(), pipe=True)
    assert "more than 16,384 bytes" in found.found
