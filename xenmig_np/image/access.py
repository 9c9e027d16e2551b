"""Opening an image to look into it."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Self

from xenmig_np.errors import UsageError
from xenmig_np.image.pagetable import page_table
from xenmig_np.io.source import Input, open_source
from xenmig_np.options import GuestName, Width
from xenmig_np.read.image import find
from xenmig_np.read.image import skip as skip_junk
from xenmig_np.read.info import ImageInfo, image_info
from xenmig_np.wire.legacy import GUEST_BY_NAME

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray


class Image:
    """A legacy image in a file. Use as a context manager, or :meth:`close` it.

    ``width`` and ``guest`` say what detection would otherwise find out, ``skip`` how many bytes precede it.
    """

    def __init__(
        self, source: Input, *, width: int | None = None, guest: str | None = None, skip: int = 0
    ) -> None:
        with ExitStack() as stack:
            self._source = stack.enter_context(open_source(source))
            if not self._source.seekable:
                raise UsageError(
                    "a pipe can be looked at only once", path=self._source.path, hint="give a file"
                )
            skip_junk(self._source, skip)
            self._image = find(
                self._source,
                width=Width(width) if width else None,
                guest=GUEST_BY_NAME[GuestName(guest)] if guest else None,
            )
            self._stack = stack.pop_all()

    @cached_property
    def info(self) -> ImageInfo:
        """What the heads say. Raises :class:`InvalidImage` and its kin for what is wrong with them."""
        return image_info(self._image, self._image.survey())

    @cached_property
    def page_table(self) -> NDArray[np.void]:
        """All entries of all batches in order, without their pages: see :data:`PAGE_TABLE`."""
        return page_table(self._image)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_image(source: Input, *, width: int | None = None, guest: str | None = None, skip: int = 0) -> Image:
    """Open a legacy image, ``skip`` bytes behind the beginning; the result is a context manager.

    Raises :class:`NotRecognised`, :class:`NotSupported`, :class:`InvalidImage`, :class:`UsageError`,
    :class:`InputOutputError`.
    """
    return Image(source, width=width, guest=guest, skip=skip)


def info(source: Input, *, width: int | None = None, guest: str | None = None, skip: int = 0) -> ImageInfo:
    """What an image is, from its heads alone. A pipe is read to its end.

    Raises as :func:`open_image` does.
    """
    with open_source(source) as opened:
        skip_junk(opened, skip)
        image = find(
            opened,
            width=Width(width) if width else None,
            guest=GUEST_BY_NAME[GuestName(guest)] if guest else None,
        )
        return image_info(image, image.survey())
