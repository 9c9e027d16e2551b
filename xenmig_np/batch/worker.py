"""A worker: a process that does one image after the other, as the lines that it is sent say.

Lines are JSON, both ways, over one socket: first the options, then an item at a time; it answers with how far
it is and with the result. It is no child of :mod:`multiprocessing`: nothing of the caller's program is
imported again, and starting costs what starting Python costs.

It ends when the other end of the socket is gone, whatever it is at: the run that would note the result is.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import FrameType

CHANNEL: Final = 0
"""Descriptor of the socket."""
TELL: Final = 0.2
"""Seconds between two reports on how far it is; an image that takes less has none."""
BOOT: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from xenmig_np.batch.worker import main; main()"
)
"""Program of the process; its argument says where modules are found."""


class Ending(BaseException):
    """The worker was told to end; outputs are cleaned up on the way out."""


def main() -> None:
    """Do what the socket says, to its end."""
    channel = _Channel(socket.socket(fileno=os.dup(CHANNEL)))
    with suppress(Ending):
        signal.signal(signal.SIGTERM, channel.end)
        channel.serve()
    os._exit(128 + signal.SIGTERM)  # nothing is left to do, and the other thread still reads


class _Channel:
    """The socket. A thread reads it, so that its end is noticed in the middle of an image."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._ending = False

    def serve(self) -> None:
        from xenmig_np.batch.item import Item, convert_item  # noqa: PLC0415 - brings numpy
        from xenmig_np.batch.options import BatchOptions  # noqa: PLC0415

        threading.Thread(target=self._read, daemon=True).start()
        first = json.loads(self._lines.get())
        options = BatchOptions(**first["options"])
        if options.nice:
            os.nice(options.nice)
        self._send({"ready": True})
        while True:
            item = Item(**json.loads(self._lines.get()))
            result = convert_item(item, options, _Pace(self, first["rate"]).moved)
            self._send({"result": result.to_dict()})

    def end(self, _number: int, _frame: FrameType | None) -> None:
        """Once: a second signal must not disturb the cleaning up."""
        if not self._ending:
            self._ending = True
            raise Ending

    def check(self) -> None:
        """Raise for a signal whose exception was lost in a callback."""
        if self._ending:
            raise Ending

    def tell(self, done: int, total: int | None) -> None:
        self._send({"done": done, "total": total})

    def _send(self, line: dict[str, Any]) -> None:
        try:
            self._connection.sendall(json.dumps(line).encode() + b"\n")
        except OSError:  # nobody listens any more
            raise Ending from None

    def _read(self) -> None:
        with suppress(OSError), self._connection.makefile("rb") as lines:  # reset, if not all was read
            for line in lines:
                self._lines.put(line)
        os.kill(os.getpid(), signal.SIGTERM)


class _Pace:
    """Progress of one image: tells it now and then, and holds back what is faster than allowed."""

    def __init__(self, channel: _Channel, rate: float | None) -> None:
        self._channel = channel
        self._rate = rate
        self._began = self._told = time.monotonic()

    def moved(self, done: int, total: int | None) -> None:
        self._channel.check()
        now = time.monotonic()
        if now - self._told >= TELL:
            self._channel.tell(done, total)
            self._told = now
        if self._rate:
            ahead = done / self._rate - (now - self._began)
            if ahead > 0:
                time.sleep(ahead)
