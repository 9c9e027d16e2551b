"""Proves a conversion: a v2 or v3 stream says what its legacy original says, however it was made.

Compared is the state that a restore would give, not bytes: records may come in another order, batches may be
cut otherwise, superseded copies may be left out. Whether a Xen takes the stream is the rules' business
(:mod:`.engine`); nothing of the converter is used here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from xenmig_np.carriers.recognise import recognise
from xenmig_np.errors import InvalidImage, Note, NotRecognised, UsageError
from xenmig_np.options import GuestName
from xenmig_np.read.image import find
from xenmig_np.read.pagestore import PageStore
from xenmig_np.read.toolstack import physmaps
from xenmig_np.verification.carried import compare_carriers, structured
from xenmig_np.verification.comparison import Comparison, Differences, Subject
from xenmig_np.verification.givenback import compare_given_back
from xenmig_np.verification.items import compare_frames, compare_items
from xenmig_np.verification.memory import MemoryComparison
from xenmig_np.verification.restored_image import Original, restored_image
from xenmig_np.verification.restored_stream import Streamed, restored_stream
from xenmig_np.wire import legacy
from xenmig_np.wire.hvm import HvmParam
from xenmig_np.wire.legacy import GUEST_BY_NAME, Guest

if TYPE_CHECKING:
    from xenmig_np.carriers.recognise import Carried
    from xenmig_np.io.source import Source
    from xenmig_np.read.image import LegacyImage
    from xenmig_np.verification.memory import Progress

MOST: Final = 100
"""Differences told one by one."""
KINDS: Final = {Guest.PV: "PV", Guest.HVM: "HVM", Guest.BOTH: "an unknown one"}
GENERATION_ID = Subject("HVM parameter", int(HvmParam.VM_GENERATION_ID_ADDR))
DRAFT_GENERATION_ID = Subject("HVM parameter", 32)
"""The 2014 draft's number of it (v2-stream.md D14)."""


def compare(  # noqa: PLR0913 - both files, what is known of the original, and how to tell
    stream: Source,
    original: Source,
    *,
    width: int | None = None,
    guest: GuestName | str | None = None,
    progress: Progress | None = None,
    most: int = MOST,
) -> Comparison:
    """Compare a stream with the legacy image it was made from; both must be files.

    ``width`` and ``guest`` say of the original what detection would otherwise find out. Raises what
    :func:`xenmig_np.read.image.find` and the legacy reader raise for the original, :class:`NotRecognised` and
    :class:`NotSupported` for a stream that is none or is not read, :class:`UsageError`,
    :class:`InputOutputError`. A stream that is broken or cut off raises nothing: the verdict says so.
    """
    for source in (stream, original):
        if not source.seekable:
            raise UsageError("a pipe can be read only once", path=source.path, hint="give a file")
    carried = _stream_of(stream)
    image = find(original, width=width, guest=GUEST_BY_NAME[GuestName(guest)] if guest else None)
    with PageStore() as store:
        image = replace(image, store=store)
        expected = restored_image(image)
        try:
            found = restored_stream(stream, carried.at, expected.memory.size)
        except InvalidImage as error:
            return _broken(stream, expected, str(error))
        return _compared(found, carried, expected, image, progress, Differences(most))


def _stream_of(stream: Source) -> Carried:
    carried = recognise(stream)
    if carried.stream == "legacy":
        raise NotRecognised(
            path=stream.path,
            offset=carried.at,
            item="stream",
            found="no migration v2 or v3 stream",
            expected="one, or the stream before its original",
        )
    return carried


def _broken(stream: Source, expected: Original, why: str) -> Comparison:
    return Comparison(
        path=stream.path,
        original=expected.source.path,
        guest=expected.facts.guest_name,
        pages=0,
        vcpus=0,
        identical={},
        differences=(),
        counts={},
        left_out=(),
        missing=(),
        broken=why,
    )


def _compared(  # noqa: PLR0913, PLR0917 - both sides, and what goes through
    found: Streamed,
    carried: Carried,
    expected: Original,
    image: LegacyImage,
    progress: Progress | None,
    differences: Differences,
) -> Comparison:
    left_out, missing = list(expected.left_out), []
    pages = 0
    identical: Counter[str] = Counter()
    if found.guest is expected.guest:
        missing += compare_carriers(carried, found, image.carried, expected, differences, left_out)
        missing += _format(found, expected, left_out, has_place=structured(carried))
        missing += _tmem(expected)
        _draft_numbers(found, expected, left_out)
        identical = compare_items(found, expected, differences, left_out)
        identical += compare_frames(found, expected, differences)
        pages = _memory(found, expected, differences, progress, left_out)
    else:
        kinds = KINDS[found.guest], KINDS[expected.guest]
        differences.tell(Subject("kind of guest"), (carried.at, image.carried.at), *kinds)
    facts = expected.facts
    return Comparison(
        path=found.source.path,
        original=expected.source.path,
        guest=facts.guest_name,
        pages=pages,
        vcpus=identical["vCPU context"] if expected.guest is Guest.PV else facts.hvm_vcpus,
        identical=dict(identical),
        differences=tuple(differences.kept),
        counts=dict(differences.counts),
        left_out=tuple(left_out),
        missing=tuple(missing),
    )


# ---- what a format or carrier holds ----------------------------------------------------------------------


def _format(found: Streamed, expected: Original, left_out: list[Note], *, has_place: bool) -> list[str]:
    """Put the toolstack's data into the form of the stream; what the format has no place for is returned.

    ``has_place``: the carrier has one for the device model.
    """
    missing = []
    entries = any(len(payload) > legacy.TOOLSTACK_HEAD.itemsize for payload, _ in expected.toolstack)
    if found.libxl:
        _toolstack(found, expected)
    elif expected.guest is Guest.PV:
        if entries:
            left_out.append(Note("19.3", "toolstack data of a PV guest: restore makes nothing of it"))
    else:
        if not has_place:
            if Subject("device model") not in found.items:
                expected.items.pop(Subject("device model"), None)
            missing.append("the device model, for which a stream in libxc format has no place")
        if entries:
            missing.append("the toolstack's physmap entries, for which libxc format has no place")
    return missing


def _toolstack(found: Streamed, expected: Original) -> None:
    """In libxl format: the chunks as they are in the draft's numbering, else as xenstore pairs (19.8)."""
    if not expected.toolstack:
        return
    if found.draft:
        whole = b"".join(payload for payload, _ in expected.toolstack)
        expected.put(Subject("toolstack data"), whole, expected.toolstack[0][1])
        return
    for payload, at in expected.toolstack:
        width = expected.facts.shape.width
        for entry in physmaps(payload, width, path=expected.source.path, offset=at):
            values = {"start_addr": b"%x" % entry.start_addr, "size": b"%x" % entry.size}
            if entry.name is not None:
                values["name"] = entry.name
            for name, value in values.items():
                key = f"physmap/{entry.phys_offset:x}/{name}"
                expected.put(Subject("xenstore key", key), value, at)


def _draft_numbers(found: Streamed, expected: Original, left_out: list[Note]) -> None:
    """A generation id under the draft's number is no difference, but worth telling."""
    items = found.items
    pair = Subject("HVM parameter", int(HvmParam.NR_IOREQ_SERVER_PAGES))
    moved = DRAFT_GENERATION_ID in items and not {pair, GENERATION_ID} & items.keys()
    wanted = GENERATION_ID in expected.items and DRAFT_GENERATION_ID not in expected.items
    if found.draft and moved and wanted:
        items[GENERATION_ID] = items.pop(DRAFT_GENERATION_ID)
        text = "the generation id has the draft's number 32, which released Xens take for another thing"
        left_out.append(Note("D14", text, items[GENERATION_ID].offset))


def _tmem(expected: Original) -> list[str]:
    """What the guest put out of its memory, into the hypervisor's (legacy-stream.md 6)."""
    if not expected.has_tmem:
        return []
    count = expected.tmem_pages
    return [f"the guest's transcendent memory (tmem, {count:,} pages of it), for which no stream has a place"]


# ---- memory ----------------------------------------------------------------------------------------------


def _memory(
    found: Streamed,
    expected: Original,
    differences: Differences,
    progress: Progress | None,
    left_out: list[Note],
) -> int:
    """Compare all memory; the number of pages that were read on both sides."""
    listed = expected.facts.unmapped
    if found.beyond and found.first_beyond:
        pfn, at = found.first_beyond
        limit = f"a pfn below {expected.memory.size:#x}"
        differences.tell(Subject("extra page", pfn), (at, None), "an entry", limit)
        differences.count("extra page", found.beyond - 1)
    comparison = MemoryComparison(found, expected, listed, differences)
    comparison.types()
    compare_given_back(found, expected, listed, differences)
    comparison.contents(progress)
    if expected.memory.verified and not found.memory.verified:
        left_out.append(Note("D16", "the second pass of verify mode, as such"))
    return comparison.pages
