"""What an image is, as values to print: the report of ``info``, and part of that of ``convert``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from xenmig_np.read.release import releases
from xenmig_np.wire import legacy, libxc, pages
from xenmig_np.wire.hvm import HvmParam

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xenmig_np.errors import Note
    from xenmig_np.read.facts import Facts
    from xenmig_np.read.image import LegacyImage

SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration that a carrier holds."""

    kind: str
    """``text``, ``json``, ``sxp`` (xend), ``xml`` (libvirt), ``xenops`` (XenServer) or ``none``."""
    bytes: int
    name: str | None
    """Of the guest, if it says so."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """A legacy image, from its heads alone. Offsets and sizes in bytes."""

    path: str
    kind: str
    carrier: str
    config: Config
    width: int
    """Bits of ``unsigned long`` in the toolstack that wrote it."""
    guest: str
    """``hvm``, ``pv64`` or ``pv32``."""
    saved_by: str
    """Releases of Xen that can have written it."""
    stream_offset: int
    end_offset: int
    bytes: int
    p2m_size: int
    batches: int
    words: int
    """Entries of all batches."""
    pages: int
    """Pages in the image, each copy counted."""
    distinct_pages: int
    """Pages that the guest has, as far as the batches tell."""
    dropped_words: int
    """Entries without a page (XTAB), which no stream carries."""
    collapsible_words: int
    """Entries whose pfn comes again: most that ``convert --collapse`` leaves out."""
    collapsible_bytes: int
    """What a stream has of them and their pages, record headers apart."""
    page_types: dict[str, int]
    """Entries by type."""
    vcpus: tuple[int, ...]
    hvm_params: dict[str, int]
    tsc: dict[str, int] | None
    unmapped: int
    """Pfns that a PV guest does not have any more."""
    checkpoints: int
    """Complete ones, the last of which counts; 1: an image that is not checkpointed."""
    incomplete_checkpoint: bool
    """Another one follows that breaks off; it does not count."""
    verify_mode: bool
    context_bytes: int
    """Of the HVM context."""
    device_model: str | None
    """Signature of the record behind the image."""
    device_model_bytes: int
    toolstack_bytes: int
    refused: str | None
    """Why this version does not convert it."""
    reasons: tuple[str, ...]
    """Why it was taken for what it is."""
    warnings: tuple[Note, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"schema": "xenmig-np/info", "schema_version": SCHEMA_VERSION, **asdict(self)}


def image_info(image: LegacyImage, facts: Facts) -> ImageInfo:
    """What ``facts``, complete, say of an image."""
    header = image.carried.header
    source = image.source
    model = facts.device_model
    return ImageInfo(
        path=source.path,
        kind="legacy",
        carrier=image.carried.carrier,
        config=(
            Config(header.config_kind, len(header.config), header.guest_name)
            if header
            else Config("none", 0, None)
        ),
        width=facts.shape.width,
        guest=facts.guest_name,
        saved_by=releases(facts),
        stream_offset=image.carried.at,
        end_offset=facts.end,
        bytes=(facts.end if source.end is None else source.end) - source.start,
        p2m_size=facts.p2m_size,
        batches=facts.batches,
        words=facts.words,
        pages=facts.pages,
        distinct_pages=facts.distinct_pages,
        dropped_words=facts.dropped_words,
        collapsible_words=facts.superseded,
        collapsible_bytes=_collapsible_bytes(facts),
        page_types=type_names(facts.type_counts),
        vcpus=facts.online,
        hvm_params={HvmParam(number).name: value for number, value in facts.params},
        tsc=facts.tsc,
        unmapped=facts.unmapped_entries,
        checkpoints=facts.bodies,
        incomplete_checkpoint=_incomplete(facts),
        verify_mode=facts.verify,
        context_bytes=facts.context_length,
        device_model=model.row.signature.decode().strip() if model else None,
        device_model_bytes=model.state.length if model else 0,
        toolstack_bytes=facts.toolstack_bytes,
        refused=refusal(facts),
        reasons=image.carried.reasons + image.detected.reasons,
        warnings=tuple(facts.notes.all()),
    )


def _collapsible_bytes(facts: Facts) -> int:
    repeated_pages = facts.pages - facts.distinct_pages
    return facts.superseded * libxc.PFN_WORD.itemsize + repeated_pages * pages.PAGE_SIZE


def _incomplete(facts: Facts) -> bool:
    """Whether the reader left a checkpoint out: it tells so, beside how many complete ones there are."""
    told = sum(note.rule == "D28" for note in facts.notes.all())
    return told > (facts.bodies > 1)


TWO_LEVELS: Final = "a 32-bit guest with two-level page tables (non-PAE), which migration v2 does not have"


def refusal(facts: Facts) -> str | None:
    """Why an image that was read well is not converted."""
    if facts.two_levels:
        return TWO_LEVELS
    chunks = (row for row in legacy.CHUNKS if row.refused and facts.chunks[row.name])
    return next((row.refused for row in chunks), None)


def type_names(counts: NDArray[np.int64]) -> dict[str, int]:
    """The numbers that are not zero of an array of shape (16,), by the name of the page type."""
    return {str(pages.PAGE_TYPES["name"][kind]): int(count) for kind, count in enumerate(counts) if count}
