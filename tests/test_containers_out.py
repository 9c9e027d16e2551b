"""Every container out for every carrier in (containers.md 9.4), byte for byte, and what is refused."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from conftest import converted, open_file, piped, xenmig
from conftest import sample as synthetic
from judge import judged
from real import ALL, Sample, each

import xenmig_np
from xenmig_np.carriers.given import GIVEN_MAX
from xenmig_np.errors import (
    ExitCode,
    InputOutputError,
    InvalidImage,
    NotRecognised,
    NotSupported,
    OutputExists,
    UsageError,
    XenmigError,
)
from xenmig_np.options import Container
from xenmig_np.testing import carriers as built
from xenmig_np.testing.builder import small_image
from xenmig_np.testing.carriers import Carried, LibvirtHead, StructuredHead, XapiHead, XapiRecord, XendHead
from xenmig_np.testing.pieces import DeviceModel, Tmem, XlHeader

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenmig_np.conversion.run import Conversion

SXP: Final = Path(__file__).parents[2] / "shared" / "samples" / "sxp"
STATE: Final = b"QEVM\0\0\0\3\0\0"
TEXT: Final = b"name = 'given'\nmemory = 1\n"
JSON: Final = b'{"c_info": {"type": "hvm", "name": "given"}}'
XML: Final = b"<domain type='xen'>\n  <name>given</name>\n</domain>\n"
OLD_TEXT, OLD_JSON = b'name = "small"\n', b'{"c_info": {"name": "small"}}\0'
VARS: Final = XapiRecord(built.VARSTORED, b"variables")
LONE: Final = replace(small_image("hvm"), device_model=None).to_bytes()
"""An HVM image without a device-model record."""
END: Final = struct.pack("<QQ", 0xFFFF, 0)


@lru_cache
def image(guest: Any = "hvm") -> bytes:
    return small_image(guest).to_bytes()


def inputs(guest: str = "hvm") -> dict[str, bytes]:
    """The image in each carrier, as its savers wrote it; of ``sample``, one that breaks no rule."""
    inner = synthetic() if guest == "sample" else image(guest)
    files = {
        "xl text": Carried(XlHeader(OLD_TEXT), inner),
        "xl json": Carried(XlHeader(OLD_JSON, mandatory_flags=1), inner),
        "xend": Carried(XendHead(), inner),
        "libvirt": Carried(LibvirtHead(unused=bytes(range(40))), inner),
        "xapi": Carried(XapiHead(), inner),
        "xapi2": Carried(STRUCTURED, inner, (VARS, XapiRecord()), bytes(512)),
    }
    return {name: file.to_bytes() for name, file in files.items()} | {"bare": inner}


STRUCTURED: Final = StructuredHead((XapiRecord(0xF, built.XENOPS), XapiRecord(built.LIBXC_LEGACY)))


# ---- what has to come out --------------------------------------------------------------------------------


def xl(guest: str, config: bytes, flags: int = 2) -> bytes:
    head = struct.pack("<6I", 0x01020304, flags, 0, 4 + len(config), len(config), 0)[:-4]
    return b"Xen saved domain, xl format\n \0 \r" + head + config + converted(image(guest), format="libxl")


def libvirt(guest: str, xml: bytes, unused: bytes = bytes(40)) -> bytes:
    head = b"libvirt-xml\n \0 \r" + struct.pack("<II", 2, len(xml)) + unused
    return head + xml + converted(image(guest), format="libxl")


def record(kind: int, body: bytes) -> bytes:
    return struct.pack("<QQ", kind, len(body)) + body


def xapi(guest: str, xenops: bytes, behind: bytes = b"", state: bytes = STATE) -> bytes:
    options: dict[str, Any] = (
        {"format": "libxc", "skip_qemu": True} if guest == "hvm" else {"format": "libxc"}
    )
    head = b"XenSavedDomv2-\n" + record(0xF, xenops) + record(0xF0, b"")
    model = record(0xF00, state) if guest == "hvm" else b""
    return head + converted(image(guest), **options) + behind + model + END


XENOPS: Final = b'((time 19700101T00:00:00Z)(word_size 64)(vm_str "")(xs_subtree()))'


def translated(guest: str) -> bytes:
    """What xl is told of :data:`built.SXP`, which is a PV guest's whatever the image is."""
    lines = (
        b"# there is no uuid: xl makes one at each restore",
        b"name = 'small'",
        b"type = 'pv'",
        b"memory = 1",
        b"maxmem = 1",
        b"kernel = '/boot/vmlinuz'",
    )
    del guest
    return b"".join(line + b"\n" for line in lines)


def to_xl(guest: str, config: bytes | None, name: str) -> bytes | None:
    if config:
        flags, stored = (3, config + b"\0") if config.startswith(b"{") else (2, config)
        return xl(guest, stored, flags)
    own = {
        "xl text": (OLD_TEXT, 2),
        "xl json": (OLD_JSON, 3),
        "bare": (b"", 2),
        "xend": (translated(guest), 2),
    }
    return xl(guest, *own[name]) if name in own else None


def to_libvirt(guest: str, config: bytes | None, name: str) -> bytes | None:
    unused = bytes(range(40)) if name == "libvirt" else bytes(40)
    xml = config + b"\0" if config else built.XML
    return libvirt(guest, xml, unused) if config or name == "libvirt" else None


def to_xapi(guest: str, name: str) -> bytes:
    if name == "xapi2":
        return xapi(guest, built.XENOPS, record(built.VARSTORED, b"variables"))
    return xapi(guest, XENOPS)


AUTO: Final = {
    "xl text": "xl",
    "xl json": "xl",
    "xend": "xl",
    "libvirt": "libvirt",
    "xapi": "xapi",
    "xapi2": "xapi",
    "bare": "none",
}
CARRIERS: Final = {"xl": "xl", "libvirt": "libvirt", "xapi": "xapi2", "none": "bare"}
PLACES: Final = {"xl": (TEXT, JSON), "libvirt": (XML,), "xapi": (), "none": ()}
"""Configurations that go into each container."""


def expected(guest: str, name: str, container: str, config: bytes | None) -> bytes | None:
    """The output; None: refused as wrong use."""
    if container == "auto":
        container = "xl" if config and name == "bare" else AUTO[name]
    if config and config not in PLACES[container]:
        return None
    if container == "xl":
        return to_xl(guest, config, name)
    if container == "libvirt":
        return to_libvirt(guest, config, name)
    return to_xapi(guest, name) if container == "xapi" else converted(image(guest), format="libxl")


CELLS: Final = [(name, container) for name in AUTO for container in Container]


def run(data: bytes, *, pipe: bool = False, **options: Any) -> tuple[bytes, Conversion]:
    """What the library makes of it, and its report."""
    with (piped if pipe else open_file)(data) as old, open_file() as new:
        made = xenmig_np.convert(old, new, **options)
        return os.pread(new, os.fstat(new).st_size, 0), made


def refused(error: type[XenmigError], data: bytes, *, pipe: bool = False, **options: Any) -> XenmigError:
    with pytest.raises(error) as caught:
        run(data, pipe=pipe, **options)
    return caught.value


@pytest.mark.parametrize(("name", "container"), CELLS)
def test_cell_by_the_command(name: str, container: str, put: Callable[..., Path], tmp_path: Path) -> None:
    """As it is, and with the configuration that goes there."""
    old, new = put(inputs()[name]), tmp_path / "new"
    for config in (None, *PLACES.get(container, ())[:1]):
        wanted = expected("hvm", name, container, config)
        given: list[str | Path] = [] if config is None else ["--config", put(config, "config")]
        ran = xenmig("convert", "--json", "--force", "--container", container, *given, old, new)
        if wanted is None:
            assert ran.code == ExitCode.USAGE
            assert ran.lines[-1] == "hint: give one with --config FILE"
            assert not new.exists()
        else:
            assert (ran.code, new.read_bytes()) == (0, wanted)
            really = AUTO[name] if container == "auto" else container
            assert ran.report["carrier"] == CARRIERS[really]
            assert ran.report["format"] == ("libxc" if really == "xapi" else "libxl")
            assert ran.report["bytes"] == len(wanted)


@pytest.mark.parametrize("guest", ["hvm", "pv64", "pv32"])
@pytest.mark.parametrize("config", [None, TEXT, JSON, XML], ids=["none", "text", "json", "xml"])
@pytest.mark.parametrize(("name", "container"), CELLS)
def test_cell(name: str, container: str, config: bytes | None, guest: str) -> None:
    """From a file and from a pipe."""
    data = inputs(guest)[name]
    wanted = expected(guest, name, container, config)
    for pipe in (False, True):
        options: dict[str, Any] = {"pipe": pipe, "container": container, "config": config}
        if wanted is None:
            assert "--config" in f"{(error := refused(UsageError, data, **options))} {error.hint}"
        else:
            assert run(data, **options)[0] == wanted


@pytest.mark.parametrize("container", Container)
def test_without_a_device_model(container: str) -> None:
    """A bare libxc stream by itself; nothing else can hold such a guest but XenServer's image."""
    data = LONE
    libxc = converted(data, format="libxc")
    if container in {"auto", "none"}:
        made, report = run(data, container=container)
        assert (made, report.format) == (libxc, "libxc")
    elif container == "xapi":
        made, report = run(data, container=container)
        assert made == b"XenSavedDomv2-\n" + record(0xF, XENOPS) + record(0xF0, b"") + libxc + END
        assert "19.9" in {note.rule for note in report.warnings}
    else:
        error = refused(InvalidImage, data, container=container, config=TEXT if container == "xl" else XML)
        assert (error.item, error.hint) == ("device-model record", "give --format libxc")


def test_wrong_label_of_libvirt_is_set_right(put: Callable[..., Path], tmp_path: Path) -> None:
    stream = converted(image(), format="libxl")
    old, new = put(Carried(LibvirtHead(), stream).to_bytes()), tmp_path / "new"
    for container in ("auto", "libvirt"):
        ran = xenmig("convert", "--force", "--container", container, old, new)
        assert (ran.code, new.read_bytes()) == (0, Carried(LibvirtHead(version=2), stream).to_bytes())
        assert "no libvirt restores that, convert sets it to 2" in ran.lines[0]
        assert ran.lines[1] == (
            f"{new}: {len(new.read_bytes()) / 1024:,.1f} KiB, the libvirt file with version 2 in its header, "
            "else as it was"
        )
    report = xenmig("convert", "--force", "--json", old, new).report
    assert (report["schema"], report["stream"], report["carrier"]) == (
        "xenmig-np/rewrapped",
        "libxl",
        "libvirt",
    )
    new.unlink()
    for arguments in (["--container", "xl"], ["--compress", "gzip"]):
        ran = xenmig("convert", *arguments, old, new)
        assert (ran.code, new.exists()) == (ExitCode.UNSUPPORTED, False)
    ran = xenmig("convert", "-", new, stdin=old.read_bytes())
    assert (ran.code, new.exists()) == (ExitCode.UNSUPPORTED, False)
    assert "convert sets it to 2" in ran.lines[-1]


# ---- format and target -----------------------------------------------------------------------------------


def test_libxc_format_leaves_carriers_but_that_of_xl() -> None:
    files = inputs()
    bare = converted(image(), format="libxc")
    for name in ("xend", "libvirt", "bare"):
        made, report = run(files[name], format="libxc")
        assert (made, report.carrier) == (bare, "bare")
    for name, flags, config in (("xl text", 0, OLD_TEXT), ("xl json", 1, OLD_JSON)):
        made, report = run(files[name], format="libxc")
        assert made == xl("hvm", config, flags)[: 52 + len(config)] + bare
        assert (report.carrier, report.format) == ("xl", "libxc")
    for name in ("xapi", "xapi2"):
        assert run(files[name], format="libxl")[0] == converted(image(), format="libxl")
        assert run(files[name], format="libxc")[0] == to_xapi("hvm", name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("xend", {"container": "xl", "format": "libxc"}),
        ("libvirt", {"container": "libvirt", "format": "libxc"}),
        ("xapi", {"container": "xapi", "format": "libxl"}),
        ("bare", {"config": TEXT, "format": "libxc"}),
    ],
)
def test_format_and_container_contradict_each_other(name: str, options: dict[str, Any]) -> None:
    error = refused(UsageError, inputs()[name], **options)
    assert "holds a lib" in str(error)
    assert error.hint == "leave --format away"


def test_the_flag_of_the_draft() -> None:
    for name, before in (("xl text", 0), ("xl json", 1), ("xend", 0), ("bare", 0)):
        made, _ = run(inputs()[name], target="draft-v7", container="xl")
        assert struct.unpack_from("<I", made, 36) == (before | 1,)


def test_what_restores_it_is_told(put: Callable[..., Path], tmp_path: Path) -> None:
    told = {
        "libvirt": "a libvirt file with a libxl stream, target xen-4.6 "
        "(Xen 4.6 and later, with libvirt 1.3.5 or later)",
        "xapi2": "a structured XenServer image with a libxc stream, target xen-4.6 "
        "(Xen 4.6 and later, with xenopsd 0.9.38 or later)",
    }
    for name, words in told.items():
        old = put(inputs("pv64")[name], name)
        planned = xenmig("convert", "-n", "--force", old, tmp_path / "new")
        assert f"  output       {words}" in planned.out.decode().splitlines()
        ran = xenmig("convert", "--force", old, tmp_path / "new")
        assert words in ran.lines[-1]
        assert f"{(tmp_path / 'new').stat().st_size:,} bytes" in planned.out.decode()


# ---- records of XenServer --------------------------------------------------------------------------------


def structured(stream: bytes, *behind: XapiRecord, trailing: bytes = b"") -> bytes:
    return Carried(STRUCTURED, stream, behind, trailing).to_bytes()


def both_ways(data: bytes, **options: Any) -> bytes:
    """The same from a file and from a pipe."""
    made = run(data, **options)[0]
    assert run(data, pipe=True, **options)[0] == made
    return made


def test_a_state_that_is_a_record_already_stays_one() -> None:
    data = structured(LONE, XapiRecord(built.QEMU_TRAD, b"state"), VARS, XapiRecord())
    behind = record(built.QEMU_TRAD, b"state") + record(built.VARSTORED, b"variables") + END
    head = b"XenSavedDomv2-\n" + record(0xF, built.XENOPS) + record(0xF0, b"")
    assert both_ways(data) == head + converted(LONE, format="libxc") + behind
    without = both_ways(data, container="xapi", format="libxc", skip_qemu=True)
    assert without == head + converted(LONE, format="libxc") + behind[16 + 5 :]


def test_two_states_are_refused() -> None:
    data = structured(image(), XapiRecord(built.QEMU_TRAD, b"state"), XapiRecord())
    for pipe in (False, True):
        error = refused(NotSupported, data, pipe=pipe)
        assert "two states of a device model" in str(error)
        assert error.item == "xapi record Qemu_trad"
    assert both_ways(data, container="none") == converted(image(), format="libxl")


@pytest.mark.parametrize(
    "behind",
    [
        (),
        (XapiRecord(built.DEMU), XapiRecord()),
        (VARS,),
        (XapiRecord(built.VARSTORED, b"cut", 4),),
        (XapiRecord(0x1234), XapiRecord()),
    ],
    ids=["nothing", "Demu", "no end", "cut", "unknown"],
)
def test_records_that_cannot_be_copied(behind: tuple[XapiRecord, ...]) -> None:
    data = structured(image(), *behind)
    for pipe in (False, True):
        error = refused(InvalidImage, data, pipe=pipe)
        assert error.hint == "--container none leaves them out"
        assert error.offset == len(structured(image()))
    assert both_ways(data, container="none") == converted(image(), format="libxl")


def test_records_that_other_containers_lose_are_told() -> None:
    data = structured(image(), VARS, XapiRecord())
    for pipe in (False, True):
        notes = [note.text for note in run(data, pipe=pipe, container="none")[1].warnings]
        assert "not carried: xapi record Varstored, 9 bytes" in notes
        assert f"not carried: the configuration of {len(built.XENOPS)} bytes (xenops)" in notes
        kept = [note.text for note in run(data, pipe=pipe)[1].warnings]
        assert not [text for text in kept if text.startswith("not carried")]


def test_the_last_checkpoint_goes_into_records() -> None:
    one = small_image("hvm")
    first = replace(one, body=one.body[:-1], device_model=DeviceModel(b"QEVM\0\0\0\3first"))
    second = replace(one, device_model=DeviceModel(b"QEVM\0\0\0\3the second"))
    remus = replace(first, later=(second,)).to_bytes()
    made = both_ways(Carried(XapiHead(), remus).to_bytes())
    assert made.endswith(record(0xF00, b"QEVM\0\0\0\3the second") + END)
    assert b"first" not in made


@pytest.mark.parametrize("signature", [b"QemuDeviceModelRecord", b"QemuDeviceModelRecord\n"])
def test_every_form_of_the_state_becomes_a_record(signature: bytes) -> None:
    old = replace(small_image("hvm"), device_model=DeviceModel(STATE + b"more", signature)).to_bytes()
    for head in (XapiHead(), XlHeader()):
        made = both_ways(Carried(head, old).to_bytes(), container="xapi")
        assert made.endswith(record(0xF00, STATE + b"more") + END)


def test_word_size_is_that_of_the_tools() -> None:
    made, _ = run(Carried(XapiHead(), small_image("pv32", 32).to_bytes()).to_bytes())
    assert b"(word_size 32)" in made


def test_written_records_are_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("xenmig_np.carriers.xapi.end", lambda: b"\xff" * 16)
    with open_file(inputs()["xapi"]) as old, pytest.raises(InputOutputError, match="does not read back"):
        xenmig_np.convert(old, str(tmp_path / "new"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", [name for name in AUTO if name != "xend"])
@pytest.mark.parametrize("compress", ["gzip", "xz"])
def test_compressed_outputs_are_checked_and_read(name: str, compress: str, tmp_path: Path) -> None:
    new = str(tmp_path / "new")
    with open_file(inputs("sample")[name]) as old:
        made = xenmig_np.convert(old, new, compress=compress)
    assert made.carrier == CARRIERS[AUTO[name]]
    assert xenmig_np.verify(new).good()


# ---- configurations --------------------------------------------------------------------------------------

WRONG: Final[dict[str, tuple[bytes, str]]] = {
    "empty": (b"", "found nothing in it"),
    "blank": (b" \n\0", "found nothing in it"),
    "a byte 0": (b"name = 'a'\n\0b", "found a byte 0 at 0xb, expected a configuration"),
    "a program": (b"\x7fELF\2\1\1\0\0", "found a byte 0 at 0x7"),
    "an xl file": (inputs()["xl text"], "found a byte 0"),
    "no setting": (b"just words, no more\n", "found no setting, expected a configuration of xl"),
    "an open string": (b"name = 'a\nmemory = 1\n", "found a string without its closing quote"),
    "open JSON": (b'{"c_info": ', "found no JSON: Expecting value"),
    "no UTF-8 in JSON": (b'{"name": "\xff"}', "found no JSON: 'utf-8' codec can't decode"),
    "deep JSON": (b'{"a": ' + b"[" * 100_000, "found lists within lists, too deep"),
    "XML of another kind": (b"<html>\n", "found no <domain, expected a domain XML of libvirt"),
    "an s-expression": (built.SXP, "found an s-expression of xend, expected a configuration of xl or"),
    "too long": (b"#" * (GIVEN_MAX + 1), f"found more bytes, expected at most {GIVEN_MAX:,}"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_configuration(name: str, put: Callable[..., Path], tmp_path: Path) -> None:
    config, words = WRONG[name]
    old, path = put(inputs()["bare"]), put(config, "config")
    for given in (config, str(path)):
        error = refused(UsageError, inputs()["bare"], config=given)
        assert words in str(error)
    ran = xenmig("convert", old, tmp_path / "new", "--config", path)
    assert (ran.code, (tmp_path / "new").exists()) == (ExitCode.USAGE, False)
    assert ran.lines[0].startswith(f"error: {path}: ")


def test_no_file_of_that_name(put: Callable[..., Path], tmp_path: Path) -> None:
    ran = xenmig("convert", put(inputs()["bare"]), tmp_path / "new", "--config", tmp_path / "none")
    assert (ran.code, ran.lines[0]) == (
        ExitCode.IO,
        f"error: {tmp_path / 'none'}: cannot be opened: No such file or directory",
    )


def test_the_kind_that_fits_is_told() -> None:
    for config, container in (
        (TEXT, "libvirt"),
        (JSON, "libvirt"),
        (XML, "xl"),
        (TEXT, "xapi"),
        (XML, "none"),
    ):
        error = refused(UsageError, inputs()["libvirt"], config=config, container=container)
        assert error.hint == f"it goes with --container {'libvirt' if config is XML else 'xl'}"


def test_text_is_bytes() -> None:
    """What is no UTF-8 goes through, and what is longer than usual."""
    for text in (b"name = '\xff\xe9'\n", b"name = 'a'\n" + b"#" * (GIVEN_MAX - 11)):
        assert run(image(), config=text)[0] == xl("hvm", text)


def test_a_configuration_through_a_pipe_or_an_archive(put: Callable[..., Path], tmp_path: Path) -> None:
    old, new = put(image()), tmp_path / "new"
    ran = xenmig("convert", old, new, "--config", "-", stdin=TEXT)
    assert (ran.code, new.read_bytes()) == (0, xl("hvm", TEXT))
    ran = xenmig("convert", "-", new, "--force", "--config", "-", stdin=TEXT)
    assert (ran.code, ran.lines[0]) == (ExitCode.USAGE, "error: --config and INPUT are both stdin")


def test_nul_behind_a_json_or_xml_is_one() -> None:
    for given in (JSON, JSON + b"\0", JSON + b"\0\0"):
        assert run(image(), config=given)[0] == xl("hvm", JSON + b"\0", 3)
    for given in (XML, XML + b"\0"):
        assert run(image(), config=given, container="libvirt")[0] == libvirt("hvm", XML + b"\0")


def texts(made: Conversion) -> list[str]:
    return [note.text for note in made.warnings]


def test_what_is_odd_about_a_configuration_is_told() -> None:
    assert "--config names no guest: xl restore refuses it" in texts(run(image(), config=b"memory = 1\n")[1])
    contradiction = "--config is for a PV guest, the image of the other kind"
    assert contradiction in texts(run(image(), config=b"name = 'a'\ntype = 'pv'\n")[1])
    assert contradiction not in texts(run(image("pv64"), config=b"name = 'a'\ntype = 'pv'\n")[1])
    xml = b"<domain><os><type>xen</type></os></domain>"
    assert contradiction in texts(run(image(), config=xml, container="libvirt")[1])
    alone = "without a configuration xl takes it as xl restore CONFIG FILE alone"
    assert alone in texts(run(image(), container="xl")[1])


@pytest.mark.parametrize("name", AUTO)
def test_a_configuration_that_is_left_out_is_told(name: str) -> None:
    sizes = {
        "xl text": (len(OLD_TEXT), "text"),
        "xl json": (len(OLD_JSON), "json"),
        "xend": (len(built.SXP), "sxp"),
        "libvirt": (len(built.XML), "xml"),
        "xapi2": (len(built.XENOPS), "xenops"),
    }
    data = inputs()[name]
    for options in ({}, {"container": "none"}, {"container": "xl", "config": TEXT}):
        told = [text for text in texts(run(data, **options)[1]) if "not carried: the configuration" in text]
        size, kind = sizes.get(name, (0, ""))
        wanted = [f"not carried: the configuration of {size:,} bytes ({kind})"] if options and size else []
        assert told == wanted


def test_further_data_of_an_xl_header_stays() -> None:
    old = Carried(XlHeader(OLD_TEXT, behind=b"further", optional_flags=9), image()).to_bytes()
    made, _ = run(old, config=JSON)
    head = struct.pack("<5I", 0x01020304, 3, 9, 4 + len(JSON) + 1 + 7, len(JSON) + 1) + JSON + b"\0further"
    assert made == b"Xen saved domain, xl format\n \0 \r" + head + converted(image(), format="libxl")
    error = refused(UsageError, old, config=b"a = 1\n" + b"#" * (GIVEN_MAX - 6))
    assert "xl header, found 16,777,219 bytes of optional data" in str(error)


# ---- xend ------------------------------------------------------------------------------------------------


def xend(sxp: bytes, guest: str = "pv64") -> bytes:
    return Carried(XendHead(sxp), image(guest)).to_bytes()


def config_of(made: bytes) -> bytes:
    """The configuration in an xl file."""
    return made[52 : 52 + int.from_bytes(made[48:52], "little")]


@pytest.mark.skipif(not SXP.is_dir(), reason=f"no samples: {SXP}")
def test_configurations_of_xend_give_their_text(tmp_path: Path) -> None:
    for path in sorted(SXP.glob("*.sxp")):
        guest = "hvm" if path.stem.startswith("hvm") else "pv64"
        wanted = path.with_suffix(".cfg").read_bytes().splitlines()
        made, report = run(Carried(XendHead(path.read_bytes()), synthetic(guest)).to_bytes())
        lines = config_of(made).splitlines()
        assert [line for line in lines if line[:1] != b"#"] == [line for line in wanted if line[:1] != b"#"]
        lost = {line[2:].decode() for line in wanted if line[:1] == b"#"}
        assert {text for text in texts(report) if text.startswith("not carried")} == lost
        new = tmp_path / "new"
        new.write_bytes(made)
        assert xenmig_np.verify(os.fspath(new)).good()


def test_every_loss_is_listed() -> None:
    devices = b"".join(b"(device (vscsi (feature-host %d)))" % number for number in range(3))
    keys = b"".join(b"(key%d x)" % number for number in range(30))
    for pipe in (False, True):
        _, report = run(xend(b"(domain (name a) (memory 1) %s %s)" % (keys, devices)), pipe=pipe)
        assert {f"not carried: key{number}" for number in range(30)} <= set(texts(report))


def test_a_configuration_that_cannot_be_read() -> None:
    """The guest is not lost with it."""
    broken = xend(b"(domain (name 'a)")
    for pipe in (False, True):
        error = refused(InvalidImage, broken, pipe=pipe)
        assert (error.item, error.offset) == ("configuration", 20 + 14)
        assert error.hint == "give one for xl with --config FILE, or go without: --container none"
    assert both_ways(broken, container="none") == converted(image("pv64"), format="libxl")
    assert both_ways(broken, config=TEXT) == xl("pv64", TEXT)
    error = refused(InvalidImage, xend(b"(something (name a))"))
    assert "found (something, expected (domain or (vm" in str(error)


def test_maxmem_has_room_for_the_pages() -> None:
    big = xenmig_np.sample.sample_image  # 1 MiB of pages, of which the configuration does not know
    options = xenmig_np.sample.SampleOptions(memory=2 << 20)
    inner = b"".join(bytes(piece) for piece in big(options))
    data = Carried(XendHead(b"(domain (name a) (memory 1) (image (hvm)))"), inner).to_bytes()
    made, report = run(data)
    assert b"maxmem = 2\n" in config_of(made)
    raised = [text for text in texts(report) if text.startswith("maxmem raised from 1 to 2")]
    assert len(raised) == 1
    made, report = run(data, pipe=True)
    assert b"maxmem = 1\n" in config_of(made)
    assert f"not done, as the input is a pipe: {raised[0]}" in texts(report)


# ---- the original configuration --------------------------------------------------------------------------


def test_the_configuration_is_kept(put: Callable[..., Path], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for name, config in (
        ("xend", built.SXP),
        ("xl text", OLD_TEXT),
        ("xl json", OLD_JSON[:-1]),
        ("libvirt", built.XML[:-1]),
    ):
        old = put(inputs()[name])
        ran = xenmig("convert", "--force", old, tmp_path / "new", "--keep-config", kept)
        assert (ran.code, kept.read_bytes()) == (0, config)
        ran = xenmig(
            "convert", "--force", "-", tmp_path / "new", "--keep-config", kept, stdin=old.read_bytes()
        )
        assert (ran.code, kept.read_bytes()) == (0, config)
        assert sorted(os.listdir(tmp_path)) == ["kept", "new", "old"]


def test_a_configuration_is_kept_whole_or_not_at_all(put: Callable[..., Path], tmp_path: Path) -> None:
    cut = put(inputs()["xend"][:-3])
    kept, new = str(tmp_path / "kept"), str(tmp_path / "new")
    with pytest.raises(InvalidImage):
        xenmig_np.convert(str(cut), new, keep_config=kept)
    old = put(inputs()["xend"], "good")
    with xenmig_np.plan(str(old), new, keep_config=kept):
        pass
    assert sorted(os.listdir(tmp_path)) == ["good", "old"]
    (tmp_path / "kept").write_bytes(b"mine")
    with pytest.raises(OutputExists):
        xenmig_np.convert(str(old), new, keep_config=kept)
    with pytest.raises(OutputExists), xenmig_np.plan(str(old), new, keep_config=kept):
        pass
    assert (tmp_path / "kept").read_bytes() == b"mine"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["bare", "xapi"])
def test_no_configuration_to_keep(name: str, tmp_path: Path) -> None:
    error = refused(UsageError, inputs()[name], keep_config=str(tmp_path / "kept"))
    assert "--keep-config: there is no configuration" in str(error)


def test_the_configuration_goes_into_a_file_of_its_own(put: Callable[..., Path], tmp_path: Path) -> None:
    old = put(inputs()["xend"])
    before = old.read_bytes()
    for name, code in (("new", ExitCode.USAGE), ("/dev/null", ExitCode.USAGE), ("-", ExitCode.USAGE)):
        ran = xenmig("convert", "--force", "old", "new", "--keep-config", name, cwd=tmp_path)
        assert (ran.code, ran.lines[0].partition(": ")[0]) == (code, "error")
    ran = xenmig("convert", "--force", "old", "new", "--keep-config", "old", cwd=tmp_path)
    assert (ran.code, ran.lines[0]) == (ExitCode.REFUSED, "error: old: is the input itself")
    assert (sorted(os.listdir(tmp_path)), old.read_bytes()) == (["old"], before)


# ---- leading junk ----------------------------------------------------------------------------------------

JUNK: Final = b"mail header\r\n" * 9


@pytest.mark.parametrize("name", AUTO)
def test_junk_is_skipped(name: str, put: Callable[..., Path], tmp_path: Path) -> None:
    data, skip = inputs("sample")[name], ["--skip", str(len(JUNK))]
    old, new, plain = put(JUNK + data), tmp_path / "new", put(data, "plain")
    wanted = run(data)[0]
    for source in (str(old), "-"):
        stdin = JUNK + data if source == "-" else b""
        ran = xenmig("convert", "--force", *skip, source, new, stdin=stdin)
        assert (ran.code, new.read_bytes()) == (0, wanted)
        found = xenmig("info", "--json", *skip, source, stdin=stdin).report
        assert found["stream_offset"] == xenmig_np.info(str(plain)).stream_offset + len(JUNK)
        assert xenmig("verify", *skip, source, stdin=stdin).code == 0
        entries = xenmig("dump", "--json", *skip, source, stdin=stdin).report["entries"]
        assert entries[0]["offset"] == len(JUNK)
    alike, direct = (
        xenmig_np.compare(str(new), str(original), skip=skipped)
        for original, skipped in ((old, len(JUNK)), (plain, 0))
    )
    assert alike.deletable == direct.deletable
    assert (alike.identical, alike.missing, alike.counts) == (direct.identical, direct.missing, {})
    ran = xenmig("verify", "--against", old, *skip, new)
    assert ran.code == (0 if alike.deletable else ExitCode.INVALID)
    with xenmig_np.open_image(str(old), skip=len(JUNK)) as opened, xenmig_np.open_image(str(plain)) as one:
        assert opened.info.pages == one.info.pages
        held = one.page_table["offset"] >= 0
        assert (opened.page_table["offset"][held] == one.page_table["offset"][held] + len(JUNK)).all()


def test_junk_before_a_stream(put: Callable[..., Path]) -> None:
    made = put(JUNK + run(inputs("sample")["xl text"])[0])
    assert xenmig("verify", "--skip", str(len(JUNK)), made).code == 0
    assert xenmig("verify", made).code == ExitCode.INVALID


def test_junk_on_a_pipe_may_be_long_where_it_is_spooled(tmp_path: Path) -> None:
    junk, data = bytes(6 << 20), inputs()["xl text"]
    error = refused(NotSupported, junk + data, pipe=True, skip=len(junk))
    assert error.hint == "give a file, or --spool DIR"
    assert run(junk + data, pipe=True, skip=len(junk), spool=str(tmp_path))[0] == xl("hvm", OLD_TEXT)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("skip", [-1, 1 << 40])
def test_no_such_place(skip: int) -> None:
    data = inputs()["xl text"]
    error = refused(UsageError, data, skip=skip)
    assert error.found == f"{skip:,} bytes"
    assert error.expected == f"0 to the {len(data):,} bytes of the input"
    with open_file(data) as fd, pytest.raises(UsageError, match="--skip"):
        xenmig_np.info(fd, skip=skip)
    assert isinstance(refused(NotRecognised, data, skip=len(data)), NotRecognised)


def test_a_negative_number_on_a_pipe() -> None:
    assert refused(UsageError, image(), pipe=True, skip=-1).expected == "0 bytes or more"
    assert xenmig("convert", "--skip", "-1", "-", "-").code == ExitCode.USAGE


def test_a_descriptor_in_the_middle_of_a_file() -> None:
    with open_file(b"before" + JUNK + image()) as old, open_file() as new:
        os.lseek(old, 6, os.SEEK_SET)
        xenmig_np.convert(old, new, skip=len(JUNK))
        assert os.pread(new, 1 << 20, 0) == converted(image(), format="libxl")


def test_transcendent_memory_is_dropped_by_the_command(put: Callable[..., Path], tmp_path: Path) -> None:
    one = small_image("pv64")
    batch, *rest = one.body
    old = put(replace(one, body=(batch, Tmem(), *rest)).to_bytes())
    ran = xenmig("convert", old, tmp_path / "new")
    assert ran.code == ExitCode.UNSUPPORTED
    assert ran.lines[1].startswith("hint: --drop-tmem converts the rest of the guest")
    ran = xenmig("convert", "--drop-tmem", old, tmp_path / "new")
    assert (ran.code, (tmp_path / "new").read_bytes()) == (0, converted(image("pv64"), format="libxl"))


def test_wrong_words_for_a_container() -> None:
    error = refused(UsageError, image(), container="tar")
    assert error.expected == "auto, xl, libvirt, xapi, none"


# ---- real images -----------------------------------------------------------------------------------------

WHOLE: Final = [sample for sample in ALL if sample.whole]
LARGE: Final = frozenset({"hvm-45-t64-64mib", "real_pv64_linux_xl"})
GIVEN: Final = {"xl": TEXT, "libvirt": XML, "xapi": None, "none": None}


def stream_in(made: bytes, carrier: str) -> bytes:
    """The stream in a libvirt file or a structured image, and nothing else of it."""
    if carrier == "libvirt":
        return made[64 + int.from_bytes(made[20:24], "little") :]
    at = 15
    while (kind := int.from_bytes(made[at : at + 8], "little")) != 0xF0:
        assert kind in {0xF, built.VARSTORED}
        at += 16 + int.from_bytes(made[at + 8 : at + 16], "little")
    return made[at + 16 : _end_of_libxc(made, at + 16)]


def _end_of_libxc(made: bytes, at: int) -> int:
    at += 24 + 16
    while True:
        kind, length = struct.unpack_from("<II", made, at)
        at += 8 + length + -length % 8
        if kind == 0:
            return at


def own_carrier(sample: Sample) -> str:
    return {"bare": "none", "xapi2": "xapi", "xend": "xl"}.get(sample.carrier, sample.carrier)


@pytest.mark.parametrize("container", ["auto", "xl", "libvirt", "xapi", "none"])
@pytest.mark.parametrize("sample", each(WHOLE, slow=LARGE))
def test_samples_in_every_container(sample: Sample, container: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(sample.unpacked())
    really = own_carrier(sample) if container == "auto" else container
    config = None if really == own_carrier(sample) else GIVEN[really]
    made = xenmig_np.convert(str(old), str(new), sync=False, container=container, config=config)
    assert made.carrier == CARRIERS[really]
    assert xenmig_np.verify(str(new)).good()
    compared = xenmig_np.compare(str(new), str(old))
    assert (compared.broken, compared.errors) == (None, 0)
    assert set(compared.counts) <= {"configuration", "xl header field"}
    if container == "auto":
        assert not compared.counts
        assert compared.deletable


@pytest.mark.judge
@pytest.mark.parametrize("container", ["xl", "libvirt", "xapi"])
@pytest.mark.parametrize("sample", each([sample for sample in WHOLE if not sample.ran], slow=LARGE))
def test_xen_restores_samples_in_every_container(sample: Sample, container: str, tmp_path: Path) -> None:
    config = None if container == own_carrier(sample) else GIVEN[container]
    made, _ = run(sample.unpacked(), container=container, config=config)
    path = tmp_path / "stream"
    if container == "xl":
        path.write_bytes(made)
        report = judged(path, "--format", "xl")
    else:
        path.write_bytes(stream_in(made, container))
        report = judged(path, "--format", "libxl" if container == "libvirt" else "libxc")
    assert (report["verdict"], report["errors"], report["mock_refusals"]) == ("accepted", [], [])
    assert report["stream"]["bytes_after_end"] == 0
    assert report["guest"]["pages"] == sample.truth["memory"]["count"]


def test_json_of_a_plan_tells_the_container(put: Callable[..., Path]) -> None:
    ran = xenmig("convert", "-n", "--json", put(inputs()["xend"]), "-", "--container", "xapi")
    document = json.loads(ran.out)
    assert (document["carrier"], document["output"], document["bytes"]) == (
        "xapi2",
        None,
        len(to_xapi("hvm", "xend")),
    )
