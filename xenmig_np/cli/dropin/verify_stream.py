"""One verification for a caller who shares the descriptor: what it holds behind END is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenmig_np.cli.dropin.verify_lines import Lines
from xenmig_np.errors import InvalidImage
from xenmig_np.io.cursor import Cursor
from xenmig_np.io.source import open_source
from xenmig_np.options import Format
from xenmig_np.verification.engine import Verification
from xenmig_np.verification.rule import Level
from xenmig_np.wire import xl

if TYPE_CHECKING:
    from xenmig_np.cli.dropin.channels import Channels
    from xenmig_np.cli.dropin.verify import Options
    from xenmig_np.io.source import Source


def opened(options: Options) -> Source:
    """The input. Raises :class:`InputOutputError`, :class:`Refused`."""
    return open_source(options.input, exact=True)


def passes(source: Source, options: Options, told: Channels) -> bool:
    """Check up to the END of the outer layer; the descriptor then stands right behind it.

    The first rule that is broken is told, and ends it. Raises :class:`InvalidImage` for an xl header that is
    none, :class:`InputOutputError`.
    """
    source.release()
    at, form = source.start, options.format
    if form is None:
        at, form = _behind_xl_header(source)
        if options.verbose:
            told.info("Processed xl header")
    listener = Lines(told.info) if options.verbose else None
    run = Verification(source, at, Level.REFERENCE, form=form, listener=listener)
    broken = next(run.findings(), None)
    if broken is not None:
        told.error("Stream Error:")
        told.error(str(broken))
        return False
    source.leave(run.end)
    return True


def _behind_xl_header(source: Source) -> tuple[int, Format]:
    """Where the stream begins and what it is by the flags (reference-tools.md 4); nothing else is judged."""
    cursor = Cursor(source, source.start)
    item = "xl header"
    head = cursor.one(xl.HEADER, item)
    begin = head.tobytes()[: len(xl.MAGIC)]
    if begin != xl.MAGIC:
        raise InvalidImage(
            path=source.path,
            offset=source.start,
            item=item,
            found=begin.hex(" "),
            expected=xl.MAGIC.hex(" "),
        )
    cursor.skip(int(head["optional_data_len"]), item)
    return cursor.at, Format.LIBXL if head["mandatory_flags"] & xl.FLAG_STREAM_V2 else Format.LIBXC
