"""Compares what two carriers hold beside the stream: configuration, flags, records (containers.md 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from xenmig_np.carriers.config import xlcfg
from xenmig_np.carriers.config.sxp import parse
from xenmig_np.carriers.config.translate import translate
from xenmig_np.carriers.recognise import CARRIER_BY_NAME
from xenmig_np.carriers.xapi import StructuredHeader, records_behind
from xenmig_np.errors import InvalidImage, Note, NotSupported
from xenmig_np.read.places import Extent
from xenmig_np.read.records import field_offset
from xenmig_np.verification.comparison import Subject
from xenmig_np.wire import xapi, xl
from xenmig_np.wire.xapi import RecordType

if TYPE_CHECKING:
    from xenmig_np.carriers.header import Header
    from xenmig_np.carriers.recognise import Carried
    from xenmig_np.carriers.xapi import Record
    from xenmig_np.carriers.xl import XlHeader
    from xenmig_np.verification.comparison import Differences
    from xenmig_np.verification.restored_image import Original
    from xenmig_np.verification.restored_stream import Streamed

CONFIGURATION: Final = Subject("configuration")
RECORD: Final = "XenServer record"
RAISED: Final = "maxmem"
"""A translation may give a guest room for more memory than xend's configuration says."""
OF_XEND_ITSELF: Final = ("on_xend_", "description", "image/kernel, image/ramdisk: temporary")
"""How losses begin that no guest misses: what xend did when it started or ended, files that are gone."""

Settings = dict[str, Any]
"""Of a configuration of xl, by key."""


def structured(carried: Carried) -> bool:
    """Whether it is an image with XenServer's records, where a device model has its own."""
    return isinstance(carried.header, StructuredHeader)


def compare_carriers(  # noqa: PLR0913, PLR0917 - both sides, and what there is to say
    new: Carried,
    found: Streamed,
    old: Carried,
    expected: Original,
    differences: Differences,
    left_out: list[Note],
) -> list[str]:
    """Put what both hold into their states, or compare it; what the new one lacks is returned."""
    missing = _put_records(new, found, old, expected)
    if old.header is None or structured(old) or not old.header.config:
        _xl_headers(new, found, old, expected)
        return missing
    kinds = old.header.config_kind, new.header.config_kind if new.header else "none"
    if kinds == ("sxp", "text") and new.header:
        same, lacking = _translated(old.header, new.header, differences, left_out)
        if same:
            for state in (found, expected):
                state.put(CONFIGURATION, new.header.config, new.at - len(new.header.config))
        return missing + lacking
    if old.xl and new.xl:
        _xl_headers(new, found, old, expected)
    elif kinds[0] == kinds[1] and new.header:
        for state, header, carried in ((found, new.header, new), (expected, old.header, old)):
            state.put(CONFIGURATION, header.config, carried.at - len(header.config))
    else:
        other = ", in whose place another one stands" if new.header and new.header.config else ""
        missing.append(f"the configuration of {_the(old)}{other}")
    return missing


def _the(carried: Carried) -> str:
    return f"the {CARRIER_BY_NAME[carried.carrier].title.partition(' ')[2]}"


def _xl_headers(new: Carried, found: Streamed, old: Carried, expected: Original) -> None:
    """All of the optional data, and the flags (v2-stream.md 19.11)."""
    if not (new.xl and old.xl):
        return
    ours = xl.FLAG_JSON if found.libxl and found.draft else xl.FLAG_STREAM_V2  # set by a converter
    pairs: tuple[tuple[Streamed | Original, XlHeader], ...] = ((found, new.xl), (expected, old.xl))
    for state, header in pairs:
        state.put(CONFIGURATION, header.optional_data, header.at + xl.HEADER.itemsize)
        for name, flags in (
            ("mandatory_flags", header.mandatory_flags & ~ours),
            ("optional_flags", header.optional_flags),
        ):
            state.put(Subject("xl header field", name), flags, header.at + field_offset(xl.HEADER, name))


# ---- xend's configuration, translated --------------------------------------------------------------------


def _translated(
    old: Header, new: Header, differences: Differences, left_out: list[Note]
) -> tuple[bool, list[str]]:
    """Whether all settings are as they have to be, and what of xend's configuration no xl has a place for.

    Comments, blanks and the order of settings say nothing.
    """
    try:
        made = translate(parse(old.config))
    except InvalidImage as error:
        return False, [f"the configuration of the xend file, which makes no sense ({error})"]
    wanted, there = _settings(made.text), _settings(new.config)
    wrong = [key for key in dict.fromkeys([*wanted, *there]) if wanted.get(key) != there.get(key)]
    if RAISED in wrong and _raised(wanted, there):
        wrong.remove(RAISED)
    for key in wrong:
        texts = [str(settings.get(key, "none")) for settings in (there, wanted)]
        differences.tell(Subject("configuration", key), (None, None), texts[0], texts[1])
    own = [what for what in made.lost if what.startswith(OF_XEND_ITSELF)]
    left_out += [Note("containers 9.5", f"of xend's configuration: {what}") for what in own]
    lacking = [f"what xend's configuration says of {what}" for what in made.lost if what not in own]
    return not wrong, lacking


def _settings(text: bytes) -> Settings:
    return dict(xlcfg.read(text))


def _raised(wanted: Settings, there: Settings) -> bool:
    """Whether there is room for at least as much memory."""
    least, most = (settings.get(RAISED, settings.get("memory")) for settings in (wanted, there))
    numbers = [value for value in (least, most) if isinstance(value, bytes) and value.isdigit()]
    return len(numbers) == 2 and int(numbers[1]) >= int(numbers[0])


# ---- records of XenServer --------------------------------------------------------------------------------


def _put_records(new: Carried, found: Streamed, old: Carried, expected: Original) -> list[str]:
    """The device model's state, where a record holds it, and all other records; returns those that lack."""
    missing: list[str] = []
    for record in _records(new, found, found.end):
        if structured(old) or record.type is not RecordType.XENOPS:
            _put(found, record)
    for record in _records(old, expected, expected.facts.end, missing):
        if structured(new):
            _put(expected, record)
        else:
            missing.append(f"the record {record.name} of {_the(old)}")
    return missing


def _records(
    carried: Carried, state: Streamed | Original, end: int, missing: list[str] | None = None
) -> tuple[Record, ...]:
    """All but the one that holds the stream, which ends at ``end``, and the last; none that cannot be read.

    Of an original that is told in ``missing``; it breaks a rule of verification in a stream.
    """
    if not isinstance(carried.header, StructuredHeader):
        return ()
    before = carried.header.records[:-1]
    try:
        return before + records_behind(state.source, end)[:-1]
    except (InvalidImage, NotSupported):
        if missing is not None:
            missing.append("the records behind the original's stream, which cannot be read")
        return before


def _put(state: Streamed | Original, record: Record) -> None:
    place = Extent(record.offset + xapi.RECORD_HEAD.itemsize, record.length)
    qemu = record.type is RecordType.QEMU_TRAD
    state.put(Subject("device model") if qemu else Subject(RECORD, record.name), place, place.offset)
