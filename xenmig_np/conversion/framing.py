"""Headers and records of an output as bytes (v2-stream.md 3 to 7, 11, 12, 19.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xenmig_np.wire import libxc, libxl, pages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from xenmig_np.wire.legacy import Guest


def struct(dtype: np.dtype[Any], **fields: Any) -> bytes:  # noqa: ANN401 - whatever the dtype takes
    """One structure; fields that are not named are zero."""
    value = np.zeros((), dtype)
    for name, field in fields.items():
        value[name] = field
    return value.tobytes()


def record(kind: int, body: bytes = b"") -> bytes:
    """A libxc or libxl record, padded to eight bytes."""
    return record_head(kind, len(body)) + body + padding(len(body))


def record_head(kind: int, length: int) -> bytes:
    """The header of a record with a body of ``length`` bytes."""
    return struct(libxc.RECORD_HEADER, type=kind, length=length)


def padding(length: int) -> bytes:
    """What follows a body of ``length`` bytes."""
    return bytes(-length % libxc.RECORD_ALIGN)


def libxc_start(version: int, guest: Guest) -> bytes:
    """Image header and domain header of a converted stream."""
    return struct(
        libxc.IMAGE_HEADER,
        marker=int.from_bytes(libxc.MARKER, "big"),
        id=libxc.IDENT,
        version=version,
    ) + struct(
        libxc.DOMAIN_HEADER,
        type=libxc.DOMAIN_TYPE[guest],
        page_shift=pages.PAGE_SHIFT,
        xen_major=libxc.CONVERTER_MAJOR,
        xen_minor=libxc.CONVERTER_MINOR,
    )


def libxl_start(numbering: libxl.Numbering) -> bytes:
    """Header of a converted stream and the record that the libxc stream follows."""
    header = struct(libxl.HEADER, ident=libxl.IDENT, version=libxl.VERSION, options=libxl.CONVERTED_OPTION)
    return header + record(numbering.libxc_context)


def page_data_head(types: NDArray[np.uint8], pfns: NDArray[np.uint32]) -> bytes:
    """Record header, count and words of a PAGE_DATA record, shapes (words,); the pages follow (19.4)."""
    words = (types.astype(np.uint64) << np.uint64(libxc.PFN_TYPE_SHIFT)) | pfns
    head = struct(libxc.PAGE_DATA, count=len(words))
    contents = int(np.count_nonzero(pages.HAS_DATA[types])) * pages.PAGE_SIZE
    length = len(head) + words.nbytes + contents
    return record_head(libxc.RecordType.PAGE_DATA, length) + head + words.astype(libxc.PFN_WORD).tobytes()


def hvm_params(params: Iterable[tuple[int, int]]) -> bytes:
    """An HVM_PARAMS record of (number, value) pairs."""
    entries = np.array(list(params), libxc.HVM_PARAM)
    return record(
        libxc.RecordType.HVM_PARAMS, struct(libxc.HVM_PARAMS, count=len(entries)) + entries.tobytes()
    )


def emulator_context_head(kind: int, length: int) -> bytes:
    """Beginning of an EMULATOR_CONTEXT record whose state has ``length`` bytes."""
    return record_head(kind, libxl.EMULATOR.itemsize + length) + struct(libxl.EMULATOR)
