"""The layers of the package hold: who imports whom, what comes from elsewhere, and what code may contain."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import xenmig_np

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(xenmig_np.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LINES_MAX = 500

COMMON: Final = {"errors", "limits", "options"}
"""Single modules that everybody may import, themselves light."""
WORK: Final = {"io", "wire", "carriers", "read", "conversion", "image", "verification"} | COMMON
"""What one input is read, converted and checked with."""
BELOW: Final = {"sample", "salvage", "batch", "report"} | WORK
"""All that the command line and the package itself hand on."""
MAY_IMPORT: Final[dict[str, set[str]]] = {
    "errors": set(),
    "limits": set(),
    "options": set(),
    "wire": {"wire", "options"},
    "io": {"wire", "errors", "limits", "io"},
    "carriers": {"io", "wire", "carriers", "read"} | COMMON,
    "read": {"io", "wire", "carriers", "read"} | COMMON,
    "conversion": {"io", "wire", "carriers", "read", "conversion"} | COMMON,
    "image": {"io", "wire", "carriers", "read", "image"} | COMMON,
    "sample": {"io", "wire", "sample"} | COMMON,
    "verification": {"io", "wire", "carriers", "read", "verification"} | COMMON,
    "salvage": {"salvage"} | WORK,
    "batch": {"batch", "__init__"} | WORK,
    "report": {"report", "batch", "errors", "io"},
    "testing": {"testing"},
    "cli": {"cli", "__init__", *BELOW},
    "__main__": {"cli"},
    "__init__": BELOW,
}
"""A layer by the first part of a module's name, and the layers that its modules import."""
ELSEWHERE: Final = {
    "numpy": set(MAY_IMPORT),
    "typer": {"cli"},
    "tqdm": {"cli"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
}
"""Packages of others, and the layers that use them."""
WITHOUT_NUMPY: Final = {"errors", "limits", "options", "cli", "__main__", "__init__"}
"""Layers whose modules are imported before it is known that there is work."""
FOR_WORK: Final = {
    "cli/batch_progress.py",
    "cli/dropin/stream.py",
    "cli/dropin/lines.py",
    "cli/dropin/verify_stream.py",
    "cli/dropin/verify_lines.py",
}
"""Modules of those layers that the others import when there is."""


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> Iterator[tuple[str, ast.stmt, bool]]:
    """Modules that a file imports: name, where, and whether within a function.

    What only type checkers see counts too: a layer that knows another's types knows that layer.
    """
    tree = ast.parse(path.read_text())
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node, id(node) in inner) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}:{node.lineno}: relative import"
            if node.module == "xenmig_np":  # from xenmig_np import limits
                yield from ((f"xenmig_np.{alias.name}", node, id(node) in inner) for alias in node.names)
            else:
                yield (node.module or "", node, id(node) in inner)


def seen_by_type_checkers(path: Path) -> set[int]:
    """Lines within ``if TYPE_CHECKING``."""
    return {
        line
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def test_every_layer_has_its_row() -> None:
    assert {layer_of(path) for path in FILES} <= set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_stay_within_the_layers(path: Path) -> None:
    allowed = MAY_IMPORT[layer_of(path)]
    for module, node, _ in imports(path):
        top, _, rest = module.partition(".")
        if top == "xenmig_np":
            layer = rest.partition(".")[0] or "__init__"
            layer = layer if layer in MAY_IMPORT else "__init__"  # a name of the package itself
            assert layer in allowed, f"{name_of(path)}:{node.lineno} imports {module}"


def test_nobody_sees_the_command_line() -> None:
    for path in FILES:
        if layer_of(path) not in {"cli", "__main__"}:
            assert not [module for module, _, _ in imports(path) if module.startswith("xenmig_np.cli")]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_packages_of_others(path: Path) -> None:
    for module, node, within in imports(path):
        top = module.partition(".")[0]
        if top == "xenmig_np" or top in sys.stdlib_module_names:
            continue
        where = f"{name_of(path)}:{node.lineno} imports {module}"
        assert layer_of(path) in ELSEWHERE.get(top, set()) or is_testing(path, top), where
        light = top != "tqdm" or within or node.lineno in seen_by_type_checkers(path)
        assert light, where


def is_testing(path: Path, top: str) -> bool:
    """Strategies are there for whoever has hypothesis."""
    return top == "hypothesis" and name_of(path) in {"testing/strategies.py", "testing/checkpoints.py"}


FIRST = [path for path in FILES if layer_of(path) in WITHOUT_NUMPY and name_of(path) not in FOR_WORK]


@pytest.mark.parametrize("path", FIRST, ids=name_of)
def test_modules_that_come_first_are_light(path: Path) -> None:
    """Nothing that brings numpy is imported when such a module is."""
    later = seen_by_type_checkers(path)
    for module, node, within in imports(path):
        if within or node.lineno in later:
            continue
        layer = module.removeprefix("xenmig_np.").partition(".")[0]
        assert module != "numpy"
        assert f"{module.removeprefix('xenmig_np.').replace('.', '/')}.py" not in FOR_WORK, module
        assert not module.startswith("xenmig_np.") or layer in WITHOUT_NUMPY | {"__version__"}, module


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_code(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Assert), f"{name_of(path)}:{node.lineno}: assert"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            forbidden = {"eval", "exec"} | (set() if layer_of(path) == "cli" else {"print", "input"})
            assert node.func.id not in forbidden, f"{name_of(path)}:{node.lineno}: {node.func.id}"
    for module, node, _ in imports(path):
        forbidden = {"pickle", "marshal", "mmap", "subprocess"}
        if name_of(path) == "io/memory.py":
            forbidden -= {"mmap"}  # of no file: arrays that take memory where they are written to
        assert module not in forbidden, f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_module_tells_one_story(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
