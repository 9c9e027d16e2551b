"""The machine that measures, and the folder in which it does: what figures mean nothing without."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

from harness.pairs import MIB
from harness.work import OLD_SCRIPTS, ROOT

TMPFS = "tmpfs"
RESERVE = 256 * MIB
"""Of memory, for everybody else."""


def filesystem(folder: str) -> str:
    """The kind of file system that holds a folder, "unknown" where /proc does not say."""
    best, kind = "", "unknown"
    place = os.path.realpath(folder) + "/"
    for line in _lines("/proc/self/mounts"):
        _, mounted, name, *_ = line.split()
        if place.startswith(mounted.rstrip("/") + "/") and len(mounted) >= len(best):
            best, kind = mounted, name
    return kind


def room(folder: str) -> int:
    """Bytes that can be written there; on tmpfs at most the memory that is left, less :data:`RESERVE`."""
    free = shutil.disk_usage(folder).free
    if filesystem(folder) == TMPFS and (left := _memory("MemAvailable")):
        free = min(free, left - RESERVE)
    return free


def old_tools() -> str:
    """The folder with Debian's xen-utils-4.17, or "". It is never fetched here.

    XENMIG_XEN_UTILS names it; else it is where the tests have put it.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.environ.get("XENMIG_XEN_UTILS") or os.path.join(cache, "xenmig-np", "xen-utils")
    return folder if os.path.isfile(os.path.join(folder, OLD_SCRIPTS, "verify-stream-v2")) else ""


def described(folder: str) -> dict[str, str]:
    """What to tell of the machine, in the order to tell it."""
    models = [
        line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")
    ]
    told = {
        "processor": models[0] if models else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{_memory('MemTotal') / 1024 / MIB:.1f} GiB",
        "kernel": platform.release(),
        "file system": filesystem(folder),
        "Python": platform.python_version(),
    }
    for package in ("numpy", "typer", "xenmig-np"):
        try:
            told[package] = version(package)
        except PackageNotFoundError:
            told[package] = "not installed"
    if commit := _commit():
        told["commit"] = commit
    return told


def _commit() -> str:
    """Of the tree that is measured, with a mark if it was changed; "" where git cannot tell."""
    try:
        command = ("git", "-C", ROOT, "describe", "--always", "--dirty")
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _memory(name: str) -> int:
    """Bytes, 0 where /proc does not say."""
    for line in _lines("/proc/meminfo"):
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readlines()
    except OSError:
        return []
