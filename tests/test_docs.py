"""What the documents say is true: fields of JSON documents, commands and their output, places, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import xenmig

import xenmig_np
from xenmig_np.batch.manifest import end_line
from xenmig_np.conversion.rewrap import set_config
from xenmig_np.errors import ExitCode
from xenmig_np.options import SampleGuest
from xenmig_np.salvage.run import salvage
from xenmig_np.sample import SampleOptions, sample_image

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
JSON = (ROOT / "docs" / "json.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]


# ---- JSON ------------------------------------------------------------------------------------------------

TYPES: dict[str, set[type]] = {
    "string": {str},
    "integer": {int},
    "number": {int, float},
    "boolean": {bool},
    "null": {type(None)},
    "list of integers": {list},
    "list of strings": {list},
    "list of documents": {list},
    "map": {dict},
    "list": {list},
    "map of integers": {dict},
    "document": {dict},
}
XL_FLAGS_AT = 36
MORE = b"more"
"""Behind an image: readers warn of it."""
TARGETS = ("xen-4.6", "xen-4.14")
DOMAIN_TYPE = 0x18 + 24
"""Offset of the domain header's type in a bare libxl stream."""
FROM_END = 16 + 100
"""Bytes from the end of a PV stream back into its shared info."""


def documented(schema: str) -> dict[str, set[type]]:
    """The fields of a document and their types, as its table says."""
    section = re.split(r"^## ", JSON.partition(f"\n## {schema}\n")[2], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", section, re.MULTILINE)
    return {name: set().union(*(TYPES[kind] for kind in kinds.split(" or "))) for name, kinds in rows}


def fields(document: dict[str, Any], known: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All fields with their values, down to those that are ``known`` and to what has no fields."""
    for key, value in document.items():
        name = prefix + key
        below = value if isinstance(value, list) else [value]
        inner = [one for one in below if isinstance(one, dict)]
        if name in known or not inner:
            yield name, value
        for one in inner if name not in known else ():
            yield from fields(one, known, f"{name}[]." if isinstance(value, list) else f"{name}.")


def compare(schema: str, documents: list[dict[str, Any]]) -> None:
    table = documented(schema)
    seen = set()
    for document in documents:
        assert (document["schema"], document["schema_version"]) == (schema, 1)
        for name, value in fields(json.loads(json.dumps(document)), set(table)):
            if not value and any(key.startswith((f"{name}.", f"{name}[].")) for key in table):
                continue  # empty, null: their fields are told by another document
            assert type(value) in table[name], name
            seen.add(name)
    assert seen == table.keys()


def test_all_documents_are_there_and_compared() -> None:
    code = "".join(path.read_text() for path in ROOT.glob("xenmig_np/**/*.py"))
    known = sorted(set(re.findall(r'"(xenmig-np/[a-z-]+)"', code)))
    assert sorted(re.findall(r"^## (xenmig-np/.*)$", JSON, re.MULTILINE)) == known
    compared = set(
        re.findall(r'^    compare\("(xenmig-np/[a-z-]+)"', Path(__file__).read_text(), re.MULTILINE)
    )
    assert sorted(compared) == known


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An HVM image, and one of a PV guest that gave pages back, with an odd xl header."""
    folder = tmp_path_factory.mktemp("images")
    pv = SampleOptions(SampleGuest.PV64, memory=1 << 20, live=True, xl=True)
    data = bytearray(b"".join(bytes(piece) for piece in sample_image(pv)))
    data[XL_FLAGS_AT + 1] |= 0x80  # a flag that nobody knows
    (folder / "pv").write_bytes(data)
    hvm = SampleOptions(memory=1 << 20)
    (folder / "hvm").write_bytes(b"".join(bytes(piece) for piece in sample_image(hvm)))
    return [folder / "hvm", folder / "pv"]


def test_info_document(images: list[Path]) -> None:
    compare("xenmig-np/info", [xenmig_np.info(path).to_dict() for path in images])


def test_conversion_document(images: list[Path], tmp_path: Path) -> None:
    made = [xenmig_np.convert(path, str(tmp_path / path.name)).to_dict() for path in images]
    compare("xenmig-np/conversion", made)
    for document, path in zip(made, images, strict=True):
        assert document["input"].keys() == xenmig_np.info(path).to_dict().keys() - {"warnings"}


def test_salvage_document(tmp_path: Path) -> None:
    """Of an image that is whole, of one that lost a batch, and of one that lost its end."""
    whole, hole, cut = ways = [tmp_path / name for name in ("whole", "hole", "cut")]
    options = SampleOptions(memory=16 << 20)
    data = bytearray(b"".join(bytes(piece) for piece in sample_image(options)) + MORE)
    whole.write_bytes(data)
    entries = xenmig("dump", "--json", "--all", whole).report["entries"]
    batch = next(entry["offset"] for entry in entries if entry["name"] == "page batch 2")
    cut.write_bytes(data[:batch])
    data[batch : batch + 64] = bytes(64)
    hole.write_bytes(data)
    made = [salvage(path, path.with_suffix(".new"), sync=False).to_dict() for path in ways]
    compare("xenmig-np/salvage", made)
    assert [bool(document["conversion"]) for document in made] == [True, False, False]
    assert [bool(document["stream"]) for document in made] == [False, True, False]


def test_documents_of_configurations(images: list[Path], tmp_path: Path) -> None:
    wanted = tmp_path / "wanted"
    wanted.write_text('name = "web01"\n')
    told = xenmig("config", "set", "--json", images[1], "--config", wanted, "-o", tmp_path / "new").report
    compare("xenmig-np/rewrapped", [told])
    assert told == json.loads(
        json.dumps(set_config(images[1], tmp_path / "new", wanted, force=True, sync=False).to_dict())
    )
    shown = [xenmig("config", "show", "--as", "json", path).report for path in (images[1], tmp_path / "new")]
    compare("xenmig-np/config", shown)
    assert [document["kind"] for document in shown] == ["json", "text"]
    assert shown[1]["config"] == [["name", "web01"]]


def test_formats_document() -> None:
    compare("xenmig-np/formats", [xenmig("formats", "--json").report])


def test_documents_of_a_batch(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(images[1].read_bytes()[:-1])
    (tmp_path / "more").write_bytes(images[0].read_bytes() + MORE)
    (tmp_path / "text").write_text("no image")
    run = ("batch", "run", tmp_path, "--out", tmp_path / "new", "--json")
    plan = xenmig(*run, "--dry-run").report
    compare("xenmig-np/batch-plan", [plan])
    assert plan["items"][0]["error"].keys() == said_of_an_error()
    made = xenmig(*run, "--shard", "1/1").report
    compare("xenmig-np/batch", [made])
    told = [json.loads(line) for line in Path(made["manifest"]).read_text().splitlines()]
    assert [line["event"] for line in told] == ["run", "image", "image", "end"]
    killed = end_line(made["run"], cut_off=True)
    compare("xenmig-np/manifest", [*told, killed])
    failed = next(line for line in told if line.get("error"))
    assert failed["error"].keys() == said_of_an_error() | {"errno"}


@pytest.fixture(scope="module")
def streams(images: list[Path]) -> list[Path]:
    """The images converted for both released numberings."""
    made = [(path, path.with_name(f"{path.name}.{target}")) for path in images for target in TARGETS]
    for path, new in made:
        xenmig_np.convert(path, str(new), target=new.name.partition(".")[2], sync=False)
    return [new for _, new in made]


def said_of_an_error() -> set[str]:
    """The fields below ``error``."""
    return {name.removeprefix("error.") for name in documented("xenmig-np/error") if "." in name}


def damaged(path: Path, at: int) -> Path:
    """A copy with one byte changed."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    copy = path.with_name(f"{path.name}.damaged")
    copy.write_bytes(data)
    return copy


def test_verify_documents(images: list[Path], streams: list[Path]) -> None:
    missing = images[0].with_name("missing")
    bad = damaged(streams[0], DOMAIN_TYPE)
    made = [
        xenmig("verify", "--json", *more, *images, *streams, bad, missing).report
        for more in ([], ["--for", "4.17"])
    ]
    compare("xenmig-np/verify", made)
    inputs = [one for document in made for one in document["inputs"]]
    compare("xenmig-np/verification", [one for one in inputs if "schema" in one])
    assert [one.keys() for one in inputs if "schema" not in one] == [said_of_an_error()] * 2
    assert xenmig_np.verify(bad).to_dict() == inputs[-2] | {"release": None}


def test_comparison_document(images: list[Path], streams: list[Path]) -> None:
    pairs = [(streams[0], images[0]), (streams[-1], images[1]), (streams[0], images[1])]
    cut = images[0].with_name("cut")
    cut.write_bytes(streams[0].read_bytes()[:-FROM_END])
    pairs += [(damaged(streams[-1], -FROM_END), images[1]), (cut, images[0])]
    made = [xenmig_np.compare(*pair).to_dict() for pair in pairs]
    compare("xenmig-np/comparison", made)
    assert "the end of the input" in made[-1]["broken"]
    told = xenmig("verify", "--json", "--against", images[0], streams[0]).report
    assert told == json.loads(json.dumps(made[0]))


def test_dump_document(images: list[Path], streams: list[Path]) -> None:
    made = [
        xenmig("dump", "--json", *every, path).report
        for path in (*images, *streams)
        for every in ([], ["--all"])
    ]
    compare("xenmig-np/dump", made)
    table = details()
    seen: dict[str, set[str]] = {}
    for entry in (entry for document in made for entry in document["entries"] if entry["details"]):
        name = next(name for name in general(entry["name"]) if name in table)
        seen.setdefault(name, set()).update(entry["details"])
    assert seen == table


def details() -> dict[str, set[str]]:
    """Names of the details of each kind of entry, as their table says."""
    section = JSON.partition("\n## Details of a dump\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \| (`[^|]+) \|", section, re.MULTILINE)
    quoted = [(re.findall("`([^`]+)`", names), re.findall("`([^`]+)`", known)) for names, known in rows]
    return {name: set(known) for names, known in quoted for name in names}


def general(name: str) -> list[str]:
    """The name of an entry, and what it is called among others of its kind."""
    return [name, re.sub(r"-?[0-9]+( \(.*\))?$", "N", name)]


def test_error_document(tmp_path: Path) -> None:
    (tmp_path / "blank").write_bytes(bytes(4096))
    command = [sys.executable, "-m", "xenmig_np", "info", "--json"]
    made = []
    for name in ("blank", "missing"):
        told = subprocess.run([*command, tmp_path / name], cwd=ROOT, capture_output=True, check=False)
        made.append(json.loads(told.stdout))
        assert made[-1]["error"]["exit_code"] == told.returncode
    compare("xenmig-np/error", made)


# ---- README ----------------------------------------------------------------------------------------------


COMMANDS = {
    "xenmig-np": "xenmig_np",
    "convert-legacy-stream": "xenmig_np.cli.dropin.convert",
    "verify-stream-v2": "xenmig_np.cli.dropin.verify",
}


class Shell:
    """Runs commands in one folder, where those of :data:`COMMANDS` are this tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        commands = folder / "bin"
        commands.mkdir()
        for name, module in COMMANDS.items():
            (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
            (commands / name).chmod(0o755)
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def timeless(text: str) -> str:
    return re.sub(r"\b\d+\.\d s\b", "* s", text)


def test_readme_shows_what_commands_print(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    commands = ("\n" + "".join(blocks("console"))).split("\n$ ")[1:]
    assert len(commands) > 5
    for command, _, printed in (text.partition("\n") for text in commands):
        assert timeless(shell.run("bash", "-c", command).stdout.rstrip("\n")) == timeless(
            printed.rstrip("\n")
        )


def test_readme_python_runs(tmp_path: Path) -> None:
    (code,) = blocks("python")
    shell = Shell(tmp_path)
    assert shell.run("xenmig-np", "sample", "--quiet", "--guest", "pv64", "old.save").returncode == 0
    ran = shell.run(sys.executable, "-W", "error", "-c", code)
    assert (ran.returncode, "pv64 (0, 1)" in ran.stdout) == (0, True), ran.stdout
    assert "True the original can be deleted: " in ran.stdout


@pytest.mark.parametrize("name", ["main", "test"])
def test_readme_set_up_is_one_line(name: str) -> None:
    (command,) = re.findall(rf"^<!-- {name} command -->\n```sh\n(.*)\n```$", README, re.MULTILINE)
    assert command.startswith("python3 -m venv .venv && ")


def test_readme_main_command_gives_a_stream(tmp_path: Path) -> None:
    """Without the environment, which takes the network."""
    (command,) = re.findall(r"^<!-- main command -->\n```sh\n(.*)\n```$", README, re.MULTILINE)
    kept = [part for part in command.split(" && ") if "venv .venv" not in part and "pip" not in part]
    shell = Shell(tmp_path)
    for _ in range(2):  # it can be given again
        ran = shell.run("bash", "-c", " && ".join(kept).replace(".venv/bin/", ""))
        assert ran.returncode == 0, ran.stdout
    assert "convert it: xenmig-np convert" in ran.stdout
    assert shell.run("xenmig-np", "info", "build/new.xl").stdout.count("migration v2 stream") == 1


def test_ci_calls_the_test_command() -> None:
    """It takes the line out of README.md; environment and place apart, nothing is said twice."""
    script = (ROOT / ".ci" / "run").read_text()
    (extract,) = re.findall(r"^command=\$\((.*)\)$", script, re.MULTILINE)
    (command,) = re.findall(r"^<!-- test command -->\n```sh\n(.*)\n```$", README, re.MULTILINE)
    found = subprocess.run(["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == command + "\n"
    assert "pytest" not in script


def test_exit_codes() -> None:
    table = README.partition("## Exit codes")[2].partition("##")[0]
    rows = re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
    said = {int(code) for row in rows for code in row.split(", ")}
    assert said == set(ExitCode) | {128 + signal.SIGHUP}


# ---- places ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    local = [link for link in links if not link.startswith("https://")]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_architecture_names_what_is_there() -> None:
    named = set(re.findall(r"`((?:xenmig_np|tests)/[\w/.]*)`", ARCHITECTURE))
    assert [place for place in sorted(named) if not (ROOT / place).exists()] == []
    packages = {f"xenmig_np/{path.parent.name}/" for path in ROOT.glob("xenmig_np/*/__init__.py")}
    assert packages - named == set()
