"""Text for xl: what is written is what xl's own parser reads; secrets are not shown."""

from __future__ import annotations

import time

import libxlutil
import plain.sxp
import pytest
from drawn import drawn
from hypothesis import example, given
from hypothesis import strategies as st

from xenmig_np.carriers.config import xlcfg
from xenmig_np.carriers.config.secrets import mask_secrets

SECONDS = 30
LARGE = 1 << 22

strings = st.binary(max_size=20).map(lambda text: text.replace(b"\0", b"")) | st.text(
    "\\'\"\n\t\r,;#[]=xn01 ä", max_size=12
).map(str.encode)
numbers = st.integers(-(1 << 62), 1 << 62)
written = st.dictionaries(
    st.from_regex("[a-z][_0-9a-z]{0,6}", fullmatch=True),
    strings | numbers | st.lists(strings | numbers, min_size=1, max_size=4).map(tuple),
    max_size=5,
)


def as_read(value: xlcfg.Value) -> bytes | list[bytes]:
    if isinstance(value, tuple):
        return [item if isinstance(item, bytes) else b"%d" % item for item in value]
    return value if isinstance(value, bytes) else b"%d" % value


def text_of(settings: dict[str, xlcfg.Value]) -> bytes:
    return b"# it\n" + b"".join(xlcfg.line(key, value) for key, value in settings.items())


@drawn(300)
@given(written)
@example({"a": bytes(range(1, 256))})
def test_xl_reads_what_is_written(settings: dict[str, xlcfg.Value]) -> None:
    libxlutil.needed()
    found = libxlutil.read(text_of(settings), list(settings))
    assert found == {key: as_read(value) for key, value in settings.items()}


@drawn(300)
@given(written)
def test_we_read_what_is_written(settings: dict[str, xlcfg.Value]) -> None:
    found = {key: list(v) if isinstance(v, tuple) else v for key, v in xlcfg.read(text_of(settings))}
    assert found == {key: as_read(value) for key, value in settings.items()}


def test_escapes_are_the_five_that_work() -> None:
    assert xlcfg.line("a", b"\\'\n\t\r\"\a\x01\xff") == b"a = '\\\\\\'\\n\\t\\r\"\a\x01\xff'\n"
    assert xlcfg.line("a", -3600) == b"a = '-3600'\n"
    assert xlcfg.line("a", -1) + xlcfg.line("a", 0) == b"a = '-1'\na = 0\n"
    assert xlcfg.line("a", (b"b", 7, -7)) == b"a = [ 'b', 7, '-7' ]\n"


TEXT = b"""
name="old" ; uuid = '00' # comment = 1
disk = [ 'a,b', # one
  "c",

  'd', ]
memory = 512
vif=[]
on_crash = 'it\\'s'
extra += "more"
broken = 'no end
name = new = x
nested = [ [ 'a' ], 'b' ]
lonely
=
last = 0x10"""


def test_reads_what_people_write() -> None:
    assert list(xlcfg.read(TEXT)) == [
        ("name", b"old"),
        ("uuid", b"00"),
        ("disk", (b"a,b", b"c", b"d")),
        ("memory", b"512"),
        ("vif", ()),
        ("on_crash", b"it's"),
        ("extra", b"more"),
        ("name", b"new"),
        ("nested", (b"a", b"b")),
        ("last", b"0x10"),
    ]


@drawn(300)
@given(st.binary(max_size=60) | st.text("ab=+[],;#'\"\\\n 1", max_size=60).map(str.encode))
def test_reads_anything(text: bytes) -> None:
    for key, value in xlcfg.read(text):
        assert key
        assert isinstance(value, bytes | tuple)
    assert b"".join(piece for _, piece, _ in xlcfg.tokens(text)) == text


@drawn(300)
@given(strings, strings)
def test_reads_double_quotes_as_xl_does(first: bytes, second: bytes) -> None:
    libxlutil.needed()
    one, two = (b'"%s"' % xlcfg.quote(text)[1:-1].replace(b'"', b'\\"') for text in (first, second))
    text = b"a\t=%s;b=[\n%s,\t%s\n,]# it\n" % (one, one, two)
    assert libxlutil.read(text, ["a", "b"]) == {"a": first, "b": [first, second]}
    assert dict(xlcfg.read(text)) == {"a": first, "b": (first, second)}


# ---- secrets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "masked"),
    [
        (b"vncpasswd = 'x'\nname='y'", b"vncpasswd = '***'\nname='y'"),
        (b'spicepasswd="it\\"s" ; a = 1', b"spicepasswd='***' ; a = 1"),
        (b"vncpasswd = 123\n", b"vncpasswd = '***'\n"),
        (b"vncpasswd = 'no end\na = 'b'\n", b"vncpasswd = '***'\na = 'b'\n"),
        (b"name = 'a'; vncpasswd += 'b'", b"name = 'a'; vncpasswd += '***'"),
        (b"vfb = [ 'vnc=1,vncpasswd=s e,keymap=de' ]\n", b"vfb = [ 'vnc=1,vncpasswd=***,keymap=de' ]\n"),
        (b"vfb = [\n 'vncpasswd=it\\'s\"x' ]\n", b"vfb = [\n 'vncpasswd=***' ]\n"),
        (b"vfb = [ 'vnc=1,vncpasswd=no end\na = 'b'", b"vfb = [ 'vnc=1,vncpasswd=***\na = 'b'"),
        (b"# vncpasswd = 'x', y\na = 1", b"# vncpasswd =***\na = 1"),
        (b"VNCPASSWD='x'", b"VNCPASSWD='***'"),
        (b"name = 'vncpasswd'\n", b"name = 'vncpasswd'\n"),
        (b"(domain (vncpasswd x) (name y))", b"(domain (vncpasswd ***) (name y))"),
        (b"(domain (vncpasswd 'x y' \"z\")(a b))", b"(domain (vncpasswd *** ***)(a b))"),
        (
            b"(domain (device (vfb ('vncpasswd' (x (y))) (a b))))",
            b"(domain (device (vfb ('vncpasswd' (*** (***))) (a b))))",
        ),
        (b"(domain ( # it\n vncpasswd x) (a b))", b"(domain ( # it\n vncpasswd ***) (a b))"),
        (b"(domain (vncpasswd 'x", b"(domain (vncpasswd ***"),
        (b"(domain (name 'x (vncpasswd y))", b"(domain (name ***"),
        (b"(domain (name vncpasswd) (a b))", b"(domain (name vncpasswd) (a b))"),
        (b' {"vnc": {"passwd": "x\\"y", "a": "b"}}', b' {"vnc": {"passwd": "***", "a": "b"}}'),
        (b'{"vncpasswd" : 12, "a": 1}', b'{"vncpasswd" : "***", "a": 1}'),
        (b'{"passwd": "no end', b'{"passwd": "***"'),
        (b"<a passwd='x' b='c'/>", b"<a passwd=\"***\" b='c'/>"),
        (b'<a passwd = "no end', b'<a passwd = "***"'),
        (b"", b""),
    ],
)
def test_secrets_are_masked(config: bytes, masked: bytes) -> None:
    assert mask_secrets(config) == masked


SECRET = b"hUnter2"


@drawn(300)
@given(written, strings, strings)
def test_no_secret_is_left_in_text(settings: dict[str, xlcfg.Value], before: bytes, after: bytes) -> None:
    password = before.replace(b",", b"") + SECRET + after.replace(b",", b"")
    items = (b"vnc=1,vncpasswd=" + password, b"vncpasswd=" + password + b",keymap=de")
    text = text_of(settings) + text_of({"vncpasswd": password, "vfb": items, "name": b"kept"})
    masked = mask_secrets(text)
    assert SECRET not in masked
    assert dict(xlcfg.read(masked))["name"] == b"kept"


@drawn(300)
@given(strings, strings)
def test_no_secret_is_left_in_an_expression(before: bytes, after: bytes) -> None:
    password = before + SECRET + after
    tree = (b"domain", (b"name", b"kept"), (b"device", (b"vfb", (b"vncpasswd", password))), (b"a", b"kept"))
    masked = mask_secrets(plain.sxp.write(tree))
    assert SECRET not in masked
    assert masked.count(b"kept") == 2


@pytest.mark.parametrize(
    "piece", [b"'", b"\\", b"[", b"=", b"passwd", b"passwd=", b'"passwd":"', b"a", b"(", b"#"]
)
@pytest.mark.parametrize("begin", [b"a='", b"(", b"{", b"<"])
def test_large_nonsense_is_masked_in_time(piece: bytes, begin: bytes) -> None:
    data = (begin + piece * LARGE)[:LARGE]
    before = time.monotonic()
    mask_secrets(data)
    assert time.monotonic() - before < SECONDS
