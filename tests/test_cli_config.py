"""``xenmig-np config``: what a file carries is shown whole, and replaced with nothing else changed."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from conftest import COMMAND, ENVIRONMENT, PATIENCE, Argument, converted, open_file, piped, sample, xenmig

import xenmig_np
from xenmig_np.conversion.rewrap import Rewrapped, set_config
from xenmig_np.errors import ExitCode, InvalidImage, NotSupported, OutputExists, Refused, UsageError
from xenmig_np.testing import carriers as built
from xenmig_np.testing.carriers import Carried, LibvirtHead, StructuredHead, XapiHead, XapiRecord, XendHead
from xenmig_np.testing.pieces import Piece, XlHeader

if TYPE_CHECKING:
    from collections.abc import Callable

SXP: Final = Path(__file__).parents[2] / "shared" / "samples" / "sxp"
IMAGE: Final = sample("hvm")
TEXT: Final = b"name = 'other'\ndisk = [ 'a', 'b' ]\nname = 'last'\n"
JSON: Final = b'{"c_info": {"type": "hvm", "name": "other"}}'
XML: Final = b"<domain type='xen'>\n  <name>other</name>\n</domain>\n"
SECRET: Final = {
    "text": b"vncpasswd = 'geheim'\nname = 'a'\n",
    "json": b'{"d_config": {"vncpasswd": "geheim"}}\0',
    "xml": b"<domain><name>a</name><graphics passwd='geheim'/></domain>\n\0",
    "sxp": b"(domain (name a) (memory 1) (image (hvm (vnc 1) (vncpasswd geheim))))",
}
HEADS: Final = {"text": XlHeader, "json": XlHeader, "xml": LibvirtHead, "sxp": XendHead}


def carried(head: Piece, stream: bytes = IMAGE) -> bytes:
    return Carried(head, stream).to_bytes()


STRUCTURED: Final = carried(StructuredHead((XapiRecord(0xF, built.XENOPS), XapiRecord(built.LIBXC_LEGACY))))


def shown(data: bytes, *arguments: Argument) -> bytes:
    """What ``config show`` prints, of a pipe."""
    ran = xenmig("config", "show", "-", *arguments, stdin=data)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


# ---- show ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "config"),
    [
        (carried(XlHeader(TEXT)), TEXT),
        (carried(XlHeader(JSON + b"\0", mandatory_flags=1)), JSON),
        (carried(XendHead()), built.SXP),
        (carried(LibvirtHead()), built.XML[:-1]),
        (STRUCTURED, built.XENOPS),
        (carried(XlHeader(TEXT, mandatory_flags=2), converted(IMAGE, format="libxl")), TEXT),
        (carried(XlHeader(b"name = '\xff\x1b[31m'\n")), b"name = '\xff\x1b[31m'\n"),
    ],
    ids=["text", "json", "sxp", "xml", "xenops", "v2", "odd bytes"],
)
def test_original(data: bytes, config: bytes, put: Callable[..., Path]) -> None:
    ran = xenmig("config", "show", put(data))
    assert (ran.code, ran.out, ran.err) == (0, config, "")
    assert shown(data, "--as", "original") == config
    assert shown(b"junk" + data, "--skip", "4") == config


@pytest.mark.skipif(not SXP.is_dir(), reason=f"no samples: {SXP}")
def test_for_xl() -> None:
    for path in sorted(SXP.glob("*.sxp")):
        data = carried(XendHead(path.read_bytes()))
        ran = xenmig("config", "show", "-", "--as", "xl", stdin=data)
        wanted = path.with_suffix(".cfg").read_bytes().splitlines()
        lines = ran.out.splitlines()
        assert ran.code == 0
        assert [line for line in lines if line[:1] != b"#"] == [line for line in wanted if line[:1] != b"#"]
        lost = {line[2:] for line in wanted if line[:1] == b"#"}
        assert {line[2:] for line in lines if line[:1] == b"#"} == lost
        assert all(any(what.decode() in line for line in ran.lines) for what in lost)
        assert len(ran.lines) == len(lost)
    assert shown(carried(XlHeader(TEXT)), "--as", "xl") == TEXT


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (XlHeader(JSON + b"\0", mandatory_flags=1), "a configuration of xl in JSON"),
        (LibvirtHead(), "a domain XML of libvirt"),
        (StructuredHead(), "a record of XenServer"),
    ],
)
def test_nothing_else_is_translated(head: Piece, kind: str) -> None:
    ran = xenmig("config", "show", "-", "--as", "xl", stdin=carried(head))
    assert (ran.code, ran.out) == (ExitCode.USAGE, b"")
    assert ran.lines[0] == (
        f"error: standard input: no translation for xl, found {kind}, expected an s-expression of xend"
    )


@pytest.mark.parametrize(
    "data", [IMAGE, carried(XapiHead()), carried(XlHeader(b"")), carried(XlHeader(None))]
)
def test_no_configuration(data: bytes) -> None:
    ran = xenmig("config", "show", "-", stdin=data)
    assert (ran.code, ran.out) == (ExitCode.USAGE, b"")
    assert "there is no configuration" in ran.lines[0]


def test_an_expression_that_cannot_be_read() -> None:
    data = carried(XendHead(b"(domain (name 'a)"))
    ran = xenmig("config", "show", "-", stdin=data)
    assert (ran.code, ran.out) == (0, b"(domain (name 'a)")
    assert "warning: standard input: at 0x22: not to be read" in ran.lines[0]
    for form in ("xl", "json"):
        ran = xenmig("config", "show", "-", "--as", form, stdin=data)
        assert (ran.code, ran.out) == (ExitCode.INVALID, b"")
        assert "configuration at 0x22" in ran.lines[-1]


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (
            carried(XlHeader(TEXT)),
            {
                "carrier": "xl",
                "kind": "text",
                "name": "other",
                "bytes": len(TEXT),
                "config": [["name", "other"], ["disk", ["a", "b"]], ["name", "last"]],
            },
        ),
        (
            carried(XlHeader(JSON + b"\0", mandatory_flags=1)),
            {
                "carrier": "xl",
                "kind": "json",
                "name": "other",
                "bytes": len(JSON) + 1,
                "config": json.loads(JSON),
            },
        ),
        (
            carried(XendHead(b"(domain (name 'a b') () (x (y \xff)))")),
            {
                "carrier": "xend",
                "kind": "sxp",
                "name": "a b",
                "bytes": 34,
                "config": ["domain", ["name", "a b"], [], ["x", ["y", "\xff"]]],
            },
        ),
        (
            carried(LibvirtHead()),
            {
                "carrier": "libvirt",
                "kind": "xml",
                "name": "small",
                "bytes": len(built.XML),
                "config": built.XML[:-1].decode(),
            },
        ),
        (
            carried(XlHeader(b"{broken\0", mandatory_flags=1)),
            {"carrier": "xl", "kind": "json", "name": None, "bytes": 8, "config": "{broken"},
        ),
    ],
    ids=["text", "json", "sxp", "xml", "broken"],
)
def test_json(data: bytes, known: dict[str, object]) -> None:
    found = json.loads(shown(data, "--as", "json"))
    assert found == {"schema": "xenmig-np/config", "schema_version": 1, "path": "standard input", **known}


# ---- secrets ---------------------------------------------------------------------------------------------


def on_a_terminal(*arguments: Argument) -> bytes:
    """What the command prints where stdout is a terminal."""
    outer, inner = pty.openpty()
    try:
        command = [*COMMAND, *arguments]
        done = subprocess.run(command, stdout=inner, env=ENVIRONMENT, timeout=PATIENCE, check=False)
        assert done.returncode == 0
        return os.read(outer, 1 << 16)
    finally:
        os.close(inner)
        os.close(outer)


@pytest.mark.parametrize("kind", SECRET)
def test_passwords_are_for_files(kind: str, put: Callable[..., Path]) -> None:
    old = put(carried(HEADS[kind](SECRET[kind])))
    assert xenmig("config", "show", old).out == SECRET[kind].removesuffix(b"\0")
    seen = on_a_terminal("config", "show", old)
    assert b"geheim" not in seen
    assert b"***" in seen
    assert b"geheim" not in xenmig("info", "-v", old).out
    assert b"geheim" not in xenmig("info", "--json", old).out
    if kind == "sxp":
        assert b"vncpasswd = 'geheim'" in xenmig("config", "show", "--as", "xl", old).out
        assert b"geheim" not in on_a_terminal("config", "show", "--as", "xl", old)


def test_a_terminal_is_not_steered(put: Callable[..., Path]) -> None:
    seen = on_a_terminal("config", "show", put(carried(XlHeader(b"name = '\xff\x1b[31m\xc2\x9b'\n"))))
    assert seen == b"name = '\\xff\\x1b[31m\\x9b'\r\n"


# ---- set -------------------------------------------------------------------------------------------------

STREAMS: Final = {
    "legacy": IMAGE,
    "libxl": converted(IMAGE, format="libxl"),
    "libxc": converted(IMAGE, format="libxc"),
}


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    ("old", "config", "new"),
    [
        (XlHeader(b"a = 1\n"), TEXT, XlHeader(TEXT)),
        (XlHeader(b"{}\0", mandatory_flags=1), TEXT, XlHeader(TEXT)),
        (XlHeader(b"a = 1\n"), JSON, XlHeader(JSON + b"\0", mandatory_flags=1)),
        (XlHeader(b"{}\0", mandatory_flags=3), JSON + b"\0", XlHeader(JSON + b"\0", mandatory_flags=3)),
        (XlHeader(b"", mandatory_flags=2), TEXT, XlHeader(TEXT, mandatory_flags=2)),
        (XlHeader(None), TEXT, XlHeader(TEXT)),
        (XlHeader(b"a = 1", b"more", 2, 9), TEXT, XlHeader(TEXT, b"more", 2, 9)),
        (LibvirtHead(unused=b"x" * 40), XML, LibvirtHead(XML + b"\0", unused=b"x" * 40)),
        (LibvirtHead(version=2), XML + b"\0", LibvirtHead(XML + b"\0", version=2)),
    ],
)
def test_only_the_configuration_changes(
    old: Piece,
    config: bytes,
    new: Piece,
    stream: str,
    pipe: bool,  # noqa: FBT001
) -> None:
    following = STREAMS[stream] + b"and what follows"
    with (piped if pipe else open_file)(carried(old, following)) as source, open_file() as out:
        made = set_config(source, out, config)
        found = os.pread(out, 1 << 22, 0)
    assert found == carried(new, following)
    assert (made.stream, made.bytes) == (stream, len(found))


def test_set_by_the_command(put: Callable[..., Path], tmp_path: Path) -> None:
    old, config, new = put(carried(XlHeader(b"a = 1\n"))), put(TEXT, "config"), tmp_path / "new"
    ran = xenmig("config", "set", old, "--config", config, "-o", new)
    assert (ran.code, ran.out, new.read_bytes()) == (0, b"", carried(XlHeader(TEXT)))
    assert ran.lines == [
        f"{new}: {new.stat().st_size / 1024 / 1024:,.1f} MiB, xl file, configuration: text, {len(TEXT)} bytes"
    ]
    assert shown(new.read_bytes()) == TEXT
    assert new.stat().st_mode == old.stat().st_mode
    ran = xenmig("config", "set", old, "--config", config, "-o", new)
    assert (ran.code, ran.lines[0]) == (ExitCode.REFUSED, f"error: {new}: exists already")
    ran = xenmig("config", "set", "-f", "--json", "--skip", "3", "-", "--config", config, "-o", new,
                 stdin=b"abc" + old.read_bytes())  # fmt: skip
    assert (ran.code, new.read_bytes()) == (0, carried(XlHeader(TEXT)))
    assert ran.report == {
        "schema": "xenmig-np/rewrapped",
        "schema_version": 1,
        "path": "standard input",
        "output": str(new),
        "carrier": "xl",
        "stream": "legacy",
        "config_kind": "text",
        "config_bytes": len(TEXT),
        "bytes": new.stat().st_size,
        "warnings": [],
    }
    ran = xenmig("config", "set", old, "--config", config, "-o", "-")
    assert (ran.code, ran.out) == (0, carried(XlHeader(TEXT)))
    assert sorted(os.listdir(tmp_path)) == ["config", "new", "old"]


def test_what_was_set_is_converted(put: Callable[..., Path], tmp_path: Path) -> None:
    """The configuration of a saved guest whose disks have moved, before and after conversion."""
    old = str(put(carried(XlHeader(b"a = 1\n"))))
    names = [str(tmp_path / name) for name in ("set", "set, converted", "converted", "converted, set")]
    set_config(old, names[0], TEXT)
    xenmig_np.convert(names[0], names[1])
    xenmig_np.convert(old, names[2])
    set_config(names[2], names[3], TEXT)
    assert Path(names[1]).read_bytes() == Path(names[3]).read_bytes()
    assert xenmig_np.verify(names[3]).good()


@pytest.mark.parametrize("head", [XendHead(), XapiHead(), StructuredHead(), None])
def test_no_place_for_a_configuration(head: Piece | None, tmp_path: Path) -> None:
    data = carried(head) if head else IMAGE
    with open_file(data) as old, pytest.raises(UsageError, match="only xl and libvirt files") as caught:
        set_config(old, str(tmp_path / "new"), TEXT)
    assert caught.value.hint == "convert it with --container xl --config FILE"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("head", "config", "words"),
    [
        (XlHeader(), XML, "--config for an xl file, found a domain XML of libvirt"),
        (LibvirtHead(), TEXT, "--config for a libvirt file, found a configuration of xl"),
        (LibvirtHead(), JSON, "--config for a libvirt file, found a configuration of xl in JSON"),
        (XlHeader(), built.SXP, "--config for an xl file, found an s-expression of xend"),
        (XlHeader(), b"", "--config, found nothing in it"),
        (XlHeader(), b"name = 'a'\0\n", "--config, found a byte 0"),
        (XlHeader(), b"{", "--config, found no JSON"),
        (XlHeader(), b'{"a": "\xff"}', "--config, found no JSON"),
        (XlHeader(), b" " * (1 << 24), "--config, found more bytes"),
    ],
    ids=range(9),
)
def test_wrong_configurations(
    head: Piece, config: bytes, words: str, put: Callable[..., Path], tmp_path: Path
) -> None:
    old = put(carried(head))
    ran = xenmig("config", "set", old, "--config", put(config, "config"), "-o", tmp_path / "new")
    assert (ran.code, words in ran.lines[0]) == (ExitCode.USAGE, True)
    assert sorted(os.listdir(tmp_path)) == ["config", "old"]


def test_the_draft_has_no_json() -> None:
    """The flag of JSON means another thing there (containers.md 1.2)."""
    image = sample("pv64")
    draft = converted(carried(XlHeader(b"a = 1\n"), image), target="draft-v7")
    assert struct.unpack_from("<I", draft, 36) == (1,)
    with open_file(draft) as old, open_file() as new:
        set_config(old, new, TEXT)
        made = os.pread(new, 1 << 22, 0)
    assert made == converted(carried(XlHeader(TEXT), image), target="draft-v7")
    with open_file(draft) as old, open_file() as new, pytest.raises(UsageError, match="2014 draft"):
        set_config(old, new, JSON)


def test_outputs_are_whole_or_not_there(tmp_path: Path, put: Callable[..., Path]) -> None:
    old = put(carried(XlHeader()))
    mine = put(b"mine", "mine")
    with pytest.raises(OutputExists):
        set_config(str(old), str(mine), TEXT)
    with pytest.raises(Refused, match="is the input itself"):
        set_config(str(old), str(old), TEXT, force=True)
    with pytest.raises(InvalidImage):
        set_config(str(put(carried(XlHeader())[:50], "cut")), str(tmp_path / "new"), TEXT)
    with pytest.raises(NotSupported):
        set_config(str(put(b"\x89LZO\0\r\n\x1a\n" * 9, "lzop")), str(tmp_path / "new"), TEXT)
    assert (mine.read_bytes(), old.read_bytes()) == (b"mine", carried(XlHeader()))
    assert sorted(os.listdir(tmp_path)) == ["cut", "lzop", "mine", "old"]


def test_captures_and_odd_labels_are_told() -> None:
    file = Carried(LibvirtHead(), STREAMS["libxl"], preamble=built.BANNER)
    with open_file(file.to_bytes()) as old, open_file() as new:
        made = set_config(old, new, XML)
        assert os.pread(new, 1 << 22, 0) == carried(LibvirtHead(XML + b"\0"), STREAMS["libxl"])
    assert isinstance(made, Rewrapped)
    assert [note.rule for note in made.warnings] == ["containers 9.1", "containers 3.2"]


def test_help() -> None:
    listed = xenmig("--help").out.decode()
    assert "config   Show the configuration of a saved guest, or set another one." in listed
    for arguments in (["config", "--help"], ["config", "-h"]):
        text = xenmig(*arguments).out.decode()
        assert "show  Print the configuration" in text
        assert "set   Copy an xl or libvirt file" in text
    for command in ("show", "set"):
        assert xenmig("config", command, "--help").code == 0
    assert xenmig("config", "no").code == ExitCode.USAGE
    assert xenmig("config", "set", "old").code == ExitCode.USAGE
