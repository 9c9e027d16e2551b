"""A socket in syslog's place, for tests of commands that tell it something."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import tempfile
import threading
from typing import TYPE_CHECKING, Final

import pytest
from conftest import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

AS_LOG: Final = 'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && ln -s "$0" /dev/log && exec "$@"'
"""In a file system of its own, where /dev/log is a socket of ours."""
INFO, WARNING, ERROR = 14, 12, 11
"""Facility "user" and the three severities."""


@contextlib.contextmanager
def syslogd(name: str) -> Iterator[tuple[tuple[str, ...], list[tuple[int, str]]]]:
    """What to put before a command, and the messages of the program ``name``: there when this has ended."""
    messages: list[tuple[int, str]] = []
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taker:
        place = f"{folder}/log"
        taker.bind(place)
        private = ("unshare", "--mount", "--propagation", "private", "sh", "-c", AS_LOG, place)
        probe = subprocess.run([*private, "true"], capture_output=True, text=True, check=False)
        if probe.returncode:
            pytest.skip(f"no file system of our own for /dev/log: {probe.stderr.strip()}")
        came: list[bytes] = []
        reader = threading.Thread(target=lambda: came.extend(iter(lambda: taker.recv(1 << 16), b"")))
        reader.start()
        try:
            yield private, messages
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", place)
            reader.join(PATIENCE)
    for message in came:
        parts = re.fullmatch(rb"<(\d+)>\w{3} [ \d]\d [\d:]{8} ([^\[]+)\[\d+\]: (.*)", message)
        assert parts
        assert parts[2] == name.encode()
        messages.append((int(parts[1]), parts[3].decode()))
