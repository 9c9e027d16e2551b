"""``xenmig-np dump``: every byte of an input belongs to a line."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest
import real
from conftest import converted, every_kind, open_file, piped, sample, xenmig
from test_checkpoints import remus

from xenmig_np.io.source import open_source
from xenmig_np.read.listing import entries
from xenmig_np.testing.builder import small_image
from xenmig_np.testing.carriers import BANNER, HANDSHAKE, VARSTORED, Carried, StructuredHead, XapiRecord
from xenmig_np.testing.fields import page
from xenmig_np.testing.pieces import DeviceModel, Tmem, TmemExtra, TmemPool, XlHeader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xenmig_np.read.listing import Entry

    Put = Callable[..., Path]


def spans(report: dict[str, list[dict[str, int]]]) -> list[tuple[int, int]]:
    return [(entry["offset"], entry["length"]) for entry in report["entries"]]


def check_covered(found: list[tuple[int, int]], size: int) -> None:
    at = 0
    for offset, length in found:
        assert offset == at
        at += length
    assert at == size


@every_kind
@pytest.mark.parametrize("every", [False, True])
def test_legacy_image_is_covered(guest: str, width: int, put: Put, *, every: bool) -> None:
    image = sample(guest, width, live=True, xl=True)
    ran = xenmig("dump", "--json", *(["--all"] if every else []), put(image))
    assert ran.code == 0
    assert (ran.report["schema"], ran.report["schema_version"]) == ("xenmig-np/dump", 1)
    check_covered(spans(ran.report), len(image))


@pytest.mark.parametrize("target", ["draft-v7", "xen-4.6", "xen-4.14"])
@pytest.mark.parametrize("format_", ["libxl", "libxc"])
def test_stream_is_covered(target: str, format_: str, put: Put) -> None:
    stream = converted(sample("pv64", live=True), target=target, format=format_)
    for every in ([], ["--all"]):
        check_covered(spans(xenmig("dump", "--json", *every, put(stream)).report), len(stream))


def test_batches_are_summed_up(put: Put) -> None:
    image = put(sample("hvm", memory=8 << 20))
    few, many = (xenmig("dump", "--json", *every, image).report["entries"] for every in ([], ["-a"]))
    (together,) = [entry for entry in few if entry["name"] == "page batches"]
    apart = [entry for entry in many if entry["name"].startswith("page batch ")]
    assert together["details"]["count"] == len(apart) > 1
    assert together["details"]["pages"] == sum(entry["details"]["pages"] for entry in apart)


def test_lines(put: Put) -> None:
    lines = xenmig("dump", put(converted(sample()))).out.decode().splitlines()
    assert lines[0].split() == ["0x000000000000", "16", "libxl", "header", "version", "2,", "options", "2"]
    assert any(" HVM_PARAMS " in line and "params 5=" in line for line in lines)


def test_what_can_be_read_is_shown_before_the_error(put: Put) -> None:
    image = sample("pv64")
    ran = xenmig("dump", put(image[:-1]))
    assert ran.code == 1
    assert ran.out.decode().splitlines()[0].endswith("value 256")
    assert "shared info page at" in ran.err


def test_pipe() -> None:
    stream = converted(sample("pv32"))
    assert xenmig("dump", "-", stdin=stream).code == 0


# ---- checkpoints, carriers, what is left out -------------------------------------------------------------


def listed(data: bytes, *, pipe: bool = False, **options: Any) -> list[Entry]:
    with (piped if pipe else open_file)(data) as fd, open_source(fd) as source:
        return list(entries(source, **options))


READ: Final = [one for one in real.ALL if not one.name.startswith("cut-")]


@pytest.mark.parametrize("image", real.each(READ, slow=frozenset({"pv64_linux_xl"})))
def test_every_byte_of_a_sample_is_covered(image: real.Sample) -> None:
    data = image.unpacked()
    for every in (False, True):
        found = listed(data, every=every)
        check_covered([(one.offset, one.length) for one in found], len(data))
    starts = [one for one in found if one.name == "start of checkpoint"]
    remus = None if image.ran else image.truth["remus"]
    assert len(starts) + 1 == (remus["complete_checkpoints"] if remus else 1)
    assert any(one.name == "chunk -12 (compressed_data)" for one in found) == image.compressed


def test_an_incomplete_checkpoint_is_left_out() -> None:
    image = remus("hvm", later=2)
    data = image.to_bytes()[:-1]
    *_, end, rest = listed(data)
    assert (end.name, rest.name, rest.offset + rest.length) == ("end of image", "left out", len(data))
    assert "incomplete checkpoint left out" in rest.details["because"]


def test_tmem() -> None:
    image = small_image("pv64")
    pool = TmemPool(pages=((bytes(24), 0, page(1)), (bytes(24), 1, page(2))))
    extra = TmemExtra(((0, bytes(24), 1),))
    found = listed(replace(image, body=(Tmem((pool,)), extra, *image.body)).to_bytes())
    details = {one.name: one.details for one in found if "tmem" in one.name}
    assert details == {"chunk -5 (tmem)": {"pages": 2}, "chunk -6 (tmem_extra)": {"entries": 1}}


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_records_of_xenserver(*, pipe: bool) -> None:
    old = Carried(StructuredHead(), sample("hvm"), (XapiRecord(VARSTORED, b"abc"), XapiRecord()), bytes(99))
    new = converted(old.to_bytes())
    for data in (new, new + bytes(4096)):
        found = listed(data, pipe=pipe)
        check_covered([(one.offset, one.length) for one in found], len(data))
        head, records = found[0], [one for one in found if one.name.startswith("xapi record ")]
        assert (head.name, head.details["records"]) == ("xapi2 header", ["Xenops", "Libxc"])
        assert [one.name.split()[-1] for one in records] == ["Varstored", "Qemu_trad", "End_of_image"]
        assert records[0].details == {"bytes": 3}
    found = listed(old.to_bytes())
    check_covered([(one.offset, one.length) for one in found], len(old.to_bytes()))
    assert found[-1].details == {"because": "99 bytes behind End_of_image left out (zeros, as on a raw disk)"}


def test_a_capture_of_a_migration() -> None:
    data = Carried(XlHeader(), sample("pv64"), trailing=HANDSHAKE, preamble=BANNER).to_bytes()
    found = listed(data)
    assert (found[0].name, found[0].length, found[1].name) == ("preamble", len(BANNER), "xl header")
    assert "hand-shake" in found[-1].details["because"]
    check_covered([(one.offset, one.length) for one in found], len(data))


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_what_follows_a_libxc_stream(*, pipe: bool) -> None:
    data = converted(sample("hvm"), format="libxc")
    model = listed(data, pipe=pipe)[-1]
    assert (model.name, model.offset + model.length) == ("device-model record", len(data))
    assert model.details["signature"] == "DeviceModelRecord0002"
    rest = listed(data + b"more", pipe=pipe)[-1]
    assert (rest.name, rest.offset, rest.length) == ("left out", len(data), 4)


def test_the_version_of_a_qemu_state() -> None:
    image = replace(small_image("hvm"), device_model=DeviceModel(b"QEVM\0\0\0\3 state"))
    (model,) = [one for one in listed(image.to_bytes()) if one.name == "device-model record"]
    assert model.details["version"] == 3


def test_other_files_are_named(put: Put) -> None:
    assert xenmig("dump", put(b"\x7fELF" + bytes(100))).code == 3
