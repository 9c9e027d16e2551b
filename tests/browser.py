"""A headless Chromium, spoken to by its own protocol over two pipes: nothing but the browser is needed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from io import FileIO
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 90.0
"""Seconds until an answer has come."""
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # it may be root who tests, and the pages are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
START = (
    "import os, sys; begin, end = map(int, sys.argv[1:3]); "
    "os.dup2(begin, 3); os.dup2(end, 4); os.execv(sys.argv[3], sys.argv[3:])"
)
"""Gives the browser its ends of the pipes as the descriptors that it wants."""
ABOVE = 10
"""Ours have numbers from here on, so that they are none of those."""


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser that runs; skips where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, contextlib.ExitStack() as ends:
        commands, our_commands, our_answers, answers = (
            ends.enter_context(end) for end in (*_pipe(), *_pipe())
        )
        theirs = (commands.fileno(), answers.fileno())
        own = f"--user-data-dir={profile}"
        with subprocess.Popen(
            [sys.executable, "-c", START, *map(str, theirs), program, *OPTIONS, own, "about:blank"],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            commands.close()
            answers.close()  # so that its end is noticed
            try:
                yield Browser(our_answers, our_commands)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _pipe() -> tuple[FileIO, FileIO]:
    """Where to read, and where to write."""
    made = []
    for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True):
        made.append(FileIO(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, ABOVE), mode))
        os.close(fd)
    return made[0], made[1]


@dataclass
class Browser:
    """Sends commands and takes answers; what happens in between is kept."""

    _answers: FileIO
    _commands: FileIO
    _number: int = 0
    _unread: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of a command. Fails for an error, and where none comes."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        self._commands.write(json.dumps(message).encode() + b"\0")
        answer = self.wait(lambda one: one.get("id") == number)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that is wanted; others are events that are kept."""
        until = time.monotonic() + PATIENCE
        while True:
            message = self._next(until)
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._answers], [], [], max(until - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            data = self._answers.read(1 << 20)
            assert data, "the browser is gone"
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    @contextlib.contextmanager
    def page(self, url: str, *, width: int = 1280, dark: bool = False, script: bool = True) -> Iterator[Page]:
        """A page that has been loaded, in a window of that width."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        phone = width < 600
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Emulation.setScriptExecutionDisabled", value=not script)
        page.call("Page.navigate", url=url)
        self.wait(lambda one: one.get("method") == "Page.loadEventFired" and one["sessionId"] == session)
        yield page
        self.call("Target.closeTarget", targetId=target)


@dataclass
class Page:
    """A page in a browser."""

    browser: Browser
    session: str

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    def get(self, expression: str) -> Any:
        """What an expression gives, as JSON has it; of a promise, what it gives."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def events(self, *methods: str) -> list[dict[str, Any]]:
        """Parameters of what has happened on this page."""
        return [
            event["params"]
            for event in self.browser.events
            if event["method"] in methods and event.get("sessionId") == self.session
        ]
