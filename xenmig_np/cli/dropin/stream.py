"""One conversion for a caller who shares descriptors with us: what they hold behind the image is not ours."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from xenmig_np.carriers.recognise import CARRIER_BY_NAME, recognise
from xenmig_np.cli.dropin.lines import Lines
from xenmig_np.conversion.run import Request, carry_out
from xenmig_np.errors import InvalidImage, NotSupported, UsageError
from xenmig_np.io.files import Output
from xenmig_np.io.source import open_source
from xenmig_np.read.image import LegacyImage, find
from xenmig_np.wire.legacy import GUEST_BY_NAME

if TYPE_CHECKING:
    from types import FrameType

    from xenmig_np.cli.dropin.channels import Channels
    from xenmig_np.cli.dropin.convert import Options
    from xenmig_np.io.source import Source


def convert(options: Options, told: Channels) -> None:
    """Convert; an input descriptor then stands right behind the last byte used.

    Raises the errors of :mod:`xenmig_np.errors`.
    """
    request = Request(options.target, options.format)
    with open_source(options.input, exact=True) as source:
        out = Output(options.output, source, force=True)
        image = _found(source, options)
        if image.detected.shape.width != options.width:
            why = image.detected.reasons[0]
            told.warning(f"--width {options.width} is not that of the image, which is used: {why}")
        image = replace(image, to_tail=options.skip_qemu)
        if options.verbose:
            image = replace(image, listener=Lines(told.info, image, request))
        _leave_nothing(out)
        planner, _ = carry_out(image, out, request)
        source.leave(planner.facts.end)
    for note in planner.facts.notes.all():
        place = f" at {note.offset:#x}" if note.offset is not None else ""
        told.warning(f"{note.text}{place} [{note.rule}]")


def _found(source: Source, options: Options) -> LegacyImage:
    guest = GUEST_BY_NAME[options.guest]
    try:
        _look_other(source)
        image = find(source, width=options.width, guest=guest, yielding=True)
    except NotSupported as known:  # whatever else it is, as a legacy stream it is wrong
        raise InvalidImage(
            f"no legacy stream: {known.what}", path=known.path, offset=known.offset, item=known.item
        ) from known
    if options.xl and not image.carried.xl:
        raise UsageError(
            "no xl header, but -x is given", path=source.path, offset=source.start, item="beginning"
        )
    if image.carried.xl and not options.xl:
        raise UsageError(
            "an xl header, but -x is not given", path=source.path, offset=source.start, item="beginning"
        )
    return image


def _look_other(source: Source) -> None:
    """Raise :class:`NotSupported` for a carrier that callers take off themselves."""
    carrier = CARRIER_BY_NAME.get(recognise(source).carrier)
    if carrier and carrier.name != "xl":
        raise NotSupported(f"it is {carrier.title}", path=source.path, offset=source.start, item="beginning")


def _leave_nothing(out: Output) -> None:
    """Signals that end the process do so as ever, but an unfinished file goes with it."""

    def end(number: int, _frame: FrameType | None) -> None:
        out.discard()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if not out.is_stream and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
