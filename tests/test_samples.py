"""Images written by Xen's own code: what is converted equals what is known of the guest, all else is named.

The truth was made from the guests, not by parsing the images; what the converter makes of these is read by
`real.taken_apart`.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import Counter
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Final

import pytest
from conftest import open_file
from drawn import TARGETS, converted, twin
from real import (
    ALL,
    BROKEN,
    COVERED,
    PAGE,
    WHOLE,
    XALLOC,
    XTAB,
    Memory,
    Sample,
    Stream,
    each,
    memory,
    taken_apart,
)

import xenmig_np
from xenmig_np.errors import ExitCode, XenmigError

if TYPE_CHECKING:
    from collections.abc import Iterable

X86_PV_INFO, P2M_FRAMES, BASIC, EXTENDED, XSAVE, SHARED_INFO = 2, 3, 4, 5, 6, 7
TSC_INFO, HVM_CONTEXT, HVM_PARAMS, VERIFY, STATIC_DATA_END = 8, 9, 10, 13, 16
XENSTORE_DATA, EMULATOR_CONTEXT = 2, 3
TYPES: Final = {
    "NOTAB": 0, "L1TAB": 1, "L2TAB": 2, "L3TAB": 3, "L4TAB": 4, "L1TAB|LPINTAB": 9, "L2TAB|LPINTAB": 10,
    "L3TAB|LPINTAB": 11, "L4TAB|LPINTAB": 12, "BROKEN": 13, "XALLOC": 14, "XTAB": 15,
}  # fmt: skip
PARAMS: Final = {-3: 12, -8: 17, -15: 27, -16: 28, -17: 29, -19: 32, -20: 33}
"""HVM parameters of the chunks that images of guests that ran have."""


LARGE: Final = frozenset({"hvm-45-t64-64mib", "real_pv64_linux_xl"})


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def runs(pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Pfns of (first, count)."""
    return [pfn for first, count in pairs for pfn in range(first, first + count)]


def only(bodies: list[bytes]) -> bytes:
    (body,) = bodies
    return body


def params(stream: Stream) -> dict[int, int]:
    """HVM parameters as restore leaves them."""
    found = {}
    for body in stream.of(HVM_PARAMS):
        count = int.from_bytes(body[:4], "little")
        for index in range(count):
            number, value = struct.unpack_from("<QQ", body, 8 + 16 * index)
            found[number] = value
    return found


def tsc(stream: Stream) -> dict[str, int] | None:
    if not stream.of(TSC_INFO):
        return None
    mode, khz, nsec, incarnation, _ = struct.unpack("<IIQII", stream.of(TSC_INFO)[-1])
    return {"mode": mode, "khz": khz, "elapsed_nsec": nsec, "incarnation": incarnation}


def vcpu_blobs(stream: Stream, kind: int) -> dict[int, bytes]:
    return {int.from_bytes(body[:8], "little"): body[8:] for body in stream.of(kind)}


def physmaps(stream: Stream) -> list[dict[str, str]]:
    """What EMULATOR_XENSTORE_DATA says, as the truth has it."""
    found: dict[str, dict[str, str]] = {}
    for number, body in stream.outer:
        if number == XENSTORE_DATA:
            texts = body[8:].decode().split("\0")
            for key, value in zip(texts[0:-1:2], texts[1::2], strict=True):
                _, offset, field = key.split("/")
                said = value if field == "name" else f"0x{value}"
                found.setdefault(offset, {"phys_offset": f"0x{offset}"})[field] = said
    return list(found.values())


# ------------------------------------------------------------------------------------------------ guests


@pytest.mark.parametrize("target", ["xen-4.6", "xen-4.14"])
@pytest.mark.parametrize("sample", each([sample for sample in WHOLE if not sample.ran]))
def test_guest_is_the_same(sample: Sample, target: str) -> None:
    truth = sample.truth
    assert sha256(sample.unpacked()) == truth["image"]["sha256"]
    made = converted(sample.image(), target=target, format="libxl")
    assert isinstance(made, bytes)
    stream = taken_apart(made)
    assert stream.version == {"xen-4.6": 2, "xen-4.14": 3}[target]
    assert stream.kinds[STATIC_DATA_END] == (target == "xen-4.14")
    assert stream.guest == sample.kind
    assert stream.kinds[VERIFY] == truth["verify_mode"]
    assert tsc(stream) == truth["tsc"]
    _xl_is_the_same(stream, sample)
    _memory_is_the_same(memory(stream), truth)
    (_hvm_is_the_same if sample.kind == "hvm" else _pv_is_the_same)(stream, truth)


def _xl_is_the_same(stream: Stream, sample: Sample) -> None:
    assert bool(stream.xl) == (sample.carrier == "xl")
    if stream.xl:
        known = sample.truth["carrier_info"]
        flags, optional_flags, length, config = struct.unpack_from("<IIII", stream.xl, 36)
        assert (flags, optional_flags, length, config) == (
            known["mandatory_flags"] | 2,
            0,
            known["optional_data_len"],
            known["config_len"],
        )
        assert sha256(stream.xl[52 : 52 + config]) == known["config_sha256"]


def _memory_is_the_same(found: Memory, truth: dict[str, Any]) -> None:
    known = truth["memory"]
    pfns = runs(known["present_runs"])
    types = {
        pfn: int(bits, 16) >> 28
        for first, count, bits in known["type_runs"]
        for pfn in runs([(first, count)])
    }
    crcs = [int(known["crc32"][at : at + 8], 16) for at in range(0, len(known["crc32"]), 8)]
    assert sorted(found.pages) == pfns
    assert [zlib.crc32(found.pages[pfn]) for pfn in pfns] == crcs
    assert found.types == {pfn: kind for pfn, kind in types.items() if kind != XTAB}
    assert {
        pfn for pfn, kind in found.types.items() if kind == BROKEN
    } == found.types.keys() - found.pages.keys()
    digest = hashlib.sha256()
    for pfn in pfns:
        digest.update(struct.pack("<QI", pfn, found.types[pfn] << 28))
        digest.update(found.pages[pfn])
    assert digest.hexdigest() == known["sha256"]
    assert found.differing == []
    if "pv" in truth:
        assert found.mentioned.isdisjoint(runs(truth["pv"]["unmapped_pfn_runs"]))


def _hvm_is_the_same(stream: Stream, truth: dict[str, Any]) -> None:
    known = truth["hvm"]
    assert params(stream) == {int(number): int(it["value"], 16) for number, it in known["params"].items()}
    magic = {
        5: known["magic_pfns"]["ioreq"],
        6: known["magic_pfns"]["bufioreq"],
        1: known["magic_pfns"]["store"],
    }
    assert params(stream).items() >= magic.items()
    context = only(stream.of(HVM_CONTEXT))
    assert (len(context), sha256(context)) == (known["context"]["len"], known["context"]["sha256"])
    (state,) = [body[8:] for number, body in stream.outer if number == EMULATOR_CONTEXT]
    assert (len(state), sha256(state)) == (known["device_model"]["len"], known["device_model"]["sha256"])
    assert physmaps(stream) == ((truth["toolstack"] or {}).get("physmaps") or [])


def _pv_is_the_same(stream: Stream, truth: dict[str, Any]) -> None:
    known, guest = truth["pv"], truth["guest"]
    width, levels = only(stream.of(X86_PV_INFO))[:2]
    assert (8 * width, levels) == (guest["width"], guest["pt_levels"])
    p2m = only(stream.of(P2M_FRAMES))
    first, last, *frames = struct.unpack(f"<II{len(p2m) // 8 - 1}Q", p2m)
    assert (first, last, frames) == (0, guest["p2m_size"] - 1, known["p2m_frame_list"])
    assert sha256(only(stream.of(SHARED_INFO))) == known["shared_info"]["sha256"]
    assert stream.outer == []

    contexts, extended, xsaves = (vcpu_blobs(stream, kind) for kind in (BASIC, EXTENDED, XSAVE))
    vcpus = {vcpu["id"]: vcpu for vcpu in known["vcpus"]}
    assert list(contexts) == list(vcpus) == guest["vcpus_online"]
    for number, vcpu in vcpus.items():
        assert len(contexts[number]) == vcpu["context_len"]
        assert sha256(contexts[number]) == vcpu["context_sha256"]
    assert {n: sha256(blob) for n, blob in extended.items()} == {
        n: vcpu["ext_sha256"] for n, vcpu in vcpus.items() if "ext_sha256" in vcpu
    }
    assert {n: (len(blob), sha256(blob)) for n, blob in xsaves.items()} == {
        n: (vcpu["xsave"]["size"], vcpu["xsave"]["sha256"]) for n, vcpu in vcpus.items() if vcpu.get("xsave")
    }


# ------------------------------------------------------------------------------------------------ that ran


@pytest.mark.parametrize("target", ["xen-4.6", "xen-4.14"])
@pytest.mark.parametrize("sample", each([sample for sample in COVERED if sample.ran]))
def test_guest_that_ran(sample: Sample, target: str) -> None:
    data, truth = sample.unpacked(), sample.truth
    assert (len(data), sha256(data)) == (truth["bytes"], truth["sha256"])
    made = converted(data, target=target)
    assert isinstance(made, bytes)
    stream = taken_apart(made)
    assert (stream.guest, len(stream.xl)) == (sample.kind, truth["stream_offset"])
    assert stream.xl[:36] + stream.xl[40:] == data[:36] + data[40 : len(stream.xl)]
    assert stream.xl[36] == truth["xl_header"]["mandatory_flags"] | 2

    chunks: dict[int, list[Any]] = {number: rest for number, *rest in truth["chunks"]}
    assert stream.kinds[VERIFY] == (-1 in chunks)
    mode, nsec, khz, incarnation = chunks[-7]
    assert tsc(stream) == {"mode": mode, "khz": khz, "elapsed_nsec": nsec, "incarnation": incarnation}
    found = memory(stream)
    sent = {TYPES[name]: count for name, count in truth["entry_types_as_sent"].items() if name != "XTAB"}
    assert Counter(kind for _, kind, _, _ in stream.words()) == sent
    assert sum(page is not None for _, _, _, page in stream.words()) == truth["pages_sent"]
    assert len(found.types) == truth["distinct_pfns"]
    assert XALLOC not in found.types.values()
    assert sum(page == bytes(PAGE) for page in found.pages.values()) == truth["zero_pages"]
    assert found.differing == []
    if sample.kind == "hvm":
        _hvm_ran(stream, data, truth, chunks)
    else:
        _pv_ran(stream, found, data, truth)


def _hvm_ran(stream: Stream, data: bytes, truth: dict[str, Any], chunks: dict[int, list[Any]]) -> None:
    magic, context, record = truth["magic_pfns"], truth["hvm_context"], truth["device_model_record"]
    known = {5: magic["ioreq"], 6: magic["bufioreq"], 1: magic["store"]}
    known |= {PARAMS[number]: rest[0] for number, rest in chunks.items() if number in PARAMS}
    assert params(stream) == known
    assert only(stream.of(HVM_CONTEXT)) == data[context["offset"] :][: context["bytes"]]
    (state,) = [body[8:] for number, body in stream.outer if number == EMULATOR_CONTEXT]
    assert (len(state), sha256(state)) == (record["bytes"], record["sha256"])


def _pv_ran(stream: Stream, found: Memory, data: bytes, truth: dict[str, Any]) -> None:
    assert Counter(found.types.values()) == {
        TYPES[n]: count for n, count in truth["page_types_final"].items()
    }
    assert found.mentioned.isdisjoint(truth["unmapped_pfns"])
    contexts, xsaves = vcpu_blobs(stream, BASIC), vcpu_blobs(stream, XSAVE)
    assert list(contexts) == [vcpu["vcpu"] for vcpu in truth["vcpus"]]
    for vcpu in truth["vcpus"]:
        context = contexts[vcpu["vcpu"]]
        assert context == data[vcpu["context_offset"] :][: len(context)]
        xsave = xsaves[vcpu["vcpu"]]
        assert len(xsave) == vcpu["xsave_size"]
        assert xsave[:16] == struct.pack("<QQ", int(vcpu["xcr0"], 16), int(vcpu["xcr0_accum"], 16))
        if "cr3_pfn" in vcpu:
            assert found.types[vcpu["cr3_pfn"]] & 7 == only(stream.of(X86_PV_INFO))[1]
    assert only(stream.of(SHARED_INFO)) == data[truth["shared_info_offset"] :][:PAGE]
    for place in truth.get("banner", {}).get("found", ()):
        text = place["text"].encode()
        at = place["physical_address"] % PAGE
        assert found.pages[place["pfn"]][at : at + len(text)] == text[: PAGE - at]
    if marked := truth.get("marked_pages"):
        assert sum(bytes(page[:13]) == b"GUESTLAB-PAGE" for page in found.pages.values()) == marked["pages"]


# ------------------------------------------------------------------------------------------------ all else


AMBIGUOUS: Final = frozenset({"pv32-302-t32-live", "pv32-304-t32-noext"})
"""Their beginnings read as HVM too, and a pipe is not read further to find out."""


@pytest.mark.parametrize("sample", each(WHOLE, slow=LARGE))
def test_the_plain_twin_agrees(sample: Sample) -> None:
    data = sample.image()
    shape: dict[str, Any] = {"width": sample.width, "guest": sample.kind}
    for target in TARGETS:
        assert converted(data, target=target) == twin(data, target=target, format="libxl", **shape)
    wanted = {"target": "xen-4.6", "format": "libxl"} | shape
    said = shape if sample.name in AMBIGUOUS else {}
    assert converted(data, pipe=True, target="xen-4.6", **said) == twin(data, pipe=True, **wanted)


REFUSED: Final = {
    "cut-hvm-45-t64": (ExitCode.INVALID, "page batch 0, pages at 0xca4: found the end of the input"),
    "cut-pv64-45-t64": (ExitCode.INVALID, "shared info page at 0x194a74: found the end of the input"),
    "*-tmem*": (ExitCode.UNSUPPORTED, "transcendent memory (tmem)"),
    "pv32-*-t32-2level": (ExitCode.UNSUPPORTED, "two-level page tables"),
}
"""Samples of other kinds by the pattern of their names, first match: exit code, and words of the reason."""


@pytest.mark.parametrize("sample", each([sample for sample in ALL if not sample.whole]))
def test_others_are_refused_by_name(sample: Sample) -> None:
    code, words = next(row for pattern, row in REFUSED.items() if fnmatch(sample.name, pattern))
    with open_file(sample.image()) as old, open_file() as new, pytest.raises(XenmigError) as caught:
        xenmig_np.convert(old, new)
    assert caught.value.exit_code == code
    assert words in str(caught.value)
