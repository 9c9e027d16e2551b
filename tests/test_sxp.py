"""xend's s-expressions: what is accepted, what it means, and that nothing else comes of anything else."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import plain.sxp
import pytest
from drawn import drawn
from hypothesis import example, given
from hypothesis import strategies as st

from xenmig_np import limits
from xenmig_np.carriers.config.sxp import ENTRIES_MAX, NESTING_MAX, decode, parse, shown
from xenmig_np.errors import InvalidImage, XenmigError

SECONDS = 20
"""That anything up to the largest configuration may take, on a busy machine."""

texts = st.binary(max_size=12) | st.sampled_from(
    [b"", b"None", b"w!", b"it's", b'"', b"\\", b"#", b"(", b"\xc3\xaf"]
)
trees: st.SearchStrategy[Any] = st.recursive(
    texts, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=20
).map(lambda tree: tree if isinstance(tree, tuple) else (tree,))
SNIPPETS = [*b"( ) ( ) # ' \" \\ x4 101 [ ; a \xff \0".split(), b" ", b"\n"]
snippets = st.lists(st.sampled_from(SNIPPETS), max_size=30).map(b"".join)


@drawn(300)
@given(trees)
def test_what_xend_writes_is_read(tree: Any) -> None:
    expression = parse(plain.sxp.write(tree))
    assert expression.tree == tree
    assert expression.notes == ()


@drawn(500)
@given(st.binary(max_size=40) | snippets | snippets.map(lambda text: b"(" + text + b")"))
@example(b"('\\")
@example(b"('\\777\\8\\x\\xg\\x1')")
@example(b"(a'b \"c\"d 'e'f)")
def test_as_the_plain_reader_reads_it(data: bytes) -> None:
    try:
        tree, end = plain.sxp.read(data)
    except plain.sxp.Wrong:
        try:
            notes = parse(data).notes
        except XenmigError:
            return
        assert [note.text for note in notes] == ["the last ) of the configuration is missing"]
        assert plain.sxp.read(data + b"\n)")[0] == parse(data).tree
    else:
        expression = parse(data, offset=20)
        assert expression.tree == tree
        assert bool(expression.notes) == bool(data[end:].strip(plain.sxp.BLANKS + b"\0"))
        assert all(note.offset == 20 + end for note in expression.notes)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"()", ()),
        (b"(a)", (b"a",)),
        (b"(a '')", (b"a", b"")),
        (b"(a b)(c d)", (b"a", b"b")),
        (b"\n ( a\tb\r\n( )\v)\f", (b"a", b"b", ())),
        (b"(a # (b\n c)", (b"a", b"c")),
        (b"(a#b\n c)", (b"a", b"c")),
        (b"(a '#b')", (b"a", b"#b")),
        (b"(1 -2 3.5 1e-05 18446744071562067968)", (b"1", b"-2", b"3.5", b"1e-05", b"18446744071562067968")),
        (b"(mode w!)", (b"mode", b"w!")),
        (b"(it's)", (b"it's",)),
        (b"(a{b}c<d>e[f];g)", (b"a", b"{b", b"}c", b"<d", b">e", b"[f", b"]", b";g")),
        (rb"('\a\b\t\n\v\f\r\\\'\"')", (b"\a\b\t\n\v\f\r\\'\"",)),
        (rb"('\x41\xc3\xaf\101\0\7')", (b"A\xc3\xafA\0\7",)),
        (rb"('a\qb')", (b"a\\b",)),
        (rb"""("it's" 'a "b"')""", (b"it's", b'a "b"')),
        (b"('a\nb')", (b"a\nb",)),
        (b"(\xff\xfe)", (b"\xff\xfe",)),
    ],
)
def test_means(text: bytes, value: Any) -> None:
    assert parse(text).tree == value


@pytest.mark.parametrize(
    ("text", "at", "found", "expected"),
    [
        (b"", 0, "its end", "("),
        (b" \n# nothing", 11, "its end", "("),
        (b" domain", 1, "domain", "("),
        (b"'domain'", 0, "'domain'", "("),
        (b" )", 1, ")", "("),
        (b"(a (b", 5, "its end", "))"),
        (b"(a (b 'c)", 6, "'c)", "its closing quote"),
        (b'(a "b\\"', 3, '"b\\"', "its closing quote"),
        (b"(" * (NESTING_MAX + 1), NESTING_MAX, "more", "at most"),
        (b"(" + b"a " * ENTRIES_MAX + b")", 2 * ENTRIES_MAX - 1, "more", "at most"),
    ],
)
def test_refused(text: bytes, at: int, found: str, expected: str) -> None:
    with pytest.raises(InvalidImage) as refused:
        parse(text, path="old", offset=20)
    error = refused.value
    assert (error.path, error.offset, error.item) == ("old", 20 + at, "configuration")
    assert error.found == found
    assert (error.expected or "").startswith(expected)


def test_bounds_are_the_last_that_pass() -> None:
    deepest = parse(b"(" * NESTING_MAX + b")" * NESTING_MAX)
    assert deepest.notes == ()
    assert len(parse(b"(" + b"a " * (ENTRIES_MAX - 1) + b")").tree) == ENTRIES_MAX - 1


def test_missing_last_bracket_is_noted() -> None:
    expression = parse(b"(domain (name a)", offset=20)
    assert expression.tree == (b"domain", (b"name", b"a"))
    assert [(note.text, note.offset) for note in expression.notes] == [
        ("the last ) of the configuration is missing", 36)
    ]


@pytest.mark.parametrize("rest", [b")", b"(b)", b"\0x"])
def test_what_follows_is_noted(rest: bytes) -> None:
    (note,) = parse(b"(a)" + rest, offset=20).notes
    assert note.offset == 23
    assert "behind the last )" in note.text
    assert parse(b"(a)\n\0\0").notes == ()


@pytest.mark.parametrize("piece", [*SNIPPETS, b"(\\", b"()", b"a ", b"#\n", b"'\\'", b"'a'", b"'\\x"])
@pytest.mark.parametrize("begin", [b"", b"(", b"('"])
def test_large_nonsense_takes_no_time(piece: bytes, begin: bytes) -> None:
    data = (begin + piece * limits.CONFIG_MAX)[: limits.CONFIG_MAX]
    before = time.monotonic()
    with contextlib.suppress(InvalidImage):
        parse(data)
    assert time.monotonic() - before < SECONDS


def test_too_large() -> None:
    with pytest.raises(InvalidImage, match="found 16,777,217 bytes, expected at most 16,777,216"):
        parse(b"(" + bytes(limits.CONFIG_MAX))


def test_decode() -> None:
    assert decode(b"ma\xc3\xaf") == "maï"
    assert decode(b"ma\xef") == "maï"


def test_shown_is_one_short_line() -> None:
    assert shown(b"a\nb\x1b[0m \xff") == "a\\x0ab\\x1b[0m ÿ"
    assert shown((b"a",)) == "a list"
    assert shown(b"x" * 100) == "x" * 60 + "..."
