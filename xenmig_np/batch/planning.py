"""What a batch will do, before it does anything: which files are images, what each becomes, what it takes."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import xenmig_np
from xenmig_np.batch.item import Item
from xenmig_np.batch.listing import TEMPLATE, check_template, clashes, find_files, output_name, shard_of
from xenmig_np.batch.options import BatchOptions, Streams
from xenmig_np.carriers.recognise import recognise
from xenmig_np.errors import NotRecognised, NotSupported, Refused, UsageError, XenmigError
from xenmig_np.io.source import open_source
from xenmig_np.limits import MIB
from xenmig_np.options import TargetName
from xenmig_np.read.image import find
from xenmig_np.wire.legacy import GUEST_BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.batch.history import History
    from xenmig_np.batch.listing import Found

OTHER: Final = "no image"
SPECIAL: Final = "a pipe or a device"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run is about. ``sources`` and ``listed`` are as for :func:`find_files`."""

    sources: tuple[str, ...]
    out: str
    options: BatchOptions
    listed: tuple[str, ...] = ()
    template: str = TEMPLATE
    shard: tuple[int, int] | None = None
    """Number, from 1 on, and how many there are."""
    force: bool = False
    """Replace outputs that are there already."""

    def __post_init__(self) -> None:
        """Raises :class:`UsageError`."""
        check_template(self.template)
        if self.shard and not 1 <= self.shard[0] <= self.shard[1]:
            raise UsageError("shard", found="/".join(map(str, self.shard)), expected="K/N, K from 1 to N")

    @property
    def target(self) -> str:
        return str(self.options.convert.get("target", TargetName.XEN_4_6))


class Planned(NamedTuple):
    """An item in a plan, for who wants to read it."""

    item: Item
    action: str
    bytes: int
    """That it will take."""
    error: XenmigError | None = None
    """Why it will fail."""


@dataclass(slots=True)
class Plan:
    """The items of a run, and what was found beside them."""

    asked: Asked
    items: list[Item] = field(default_factory=list)
    done: int = 0
    """Images that need not be done again."""
    others: Counter[str] = field(default_factory=Counter)
    """Files that are no images, by what they are."""
    bytes: int = 0
    """Of all inputs that are to be read."""

    @property
    def size_unknown(self) -> bool:
        """Whether results are compressed: nobody knows how much less they take than what is said here."""
        return "compress" in self.asked.options.convert

    def planned(self) -> Iterator[Planned]:
        """Each item with its action and its exact size; the heads of all images are read for it."""
        for item in self.items:
            try:
                yield Planned(item, self._action(item), self._size(item))
            except XenmigError as error:
                yield Planned(item, "fail", 0, error)

    def check_space(self) -> None:
        """Raise :class:`Refused` if all results together do not fit.

        A bound that takes no reading is enough where there is room; only else are exact sizes found. What is
        compressed counts there as what it takes now; each image is looked at once more in its turn.
        """
        if self.size_unknown:
            return
        free = free_bytes(self.asked.out)
        if self.bytes + self.bytes // 256 + MIB * len(self.items) <= free:
            return
        needed = sum(planned.bytes for planned in self.planned())
        if needed > free:
            raise Refused(
                f"needs {needed:,} bytes, it has {free:,} free",
                path=self.asked.out,
                hint="name another folder, or take a shard of it",
            )

    def _action(self, item: Item) -> str:
        return str(self.asked.options.streams) if item.is_stream else "convert"

    def _size(self, item: Item) -> int:
        if item.is_stream:
            return os.stat(item.input).st_size if self.asked.options.streams == Streams.COPY else 0
        with xenmig_np.plan(item.input, **self.asked.options.convert) as made:
            return int(made.size)


def make_plan(asked: Asked, history: History, run: str, *, resume: bool = False) -> Plan:
    """Look at all files. Raises :class:`UsageError` for names that clash, :class:`InputOutputError`."""
    plan = Plan(asked)
    out = os.path.abspath(asked.out)
    files = list(find_files(asked.sources, asked.listed, but=out))
    names = [output_name(found, asked.template, asked.target) for found in files]
    _check_names(files, names, asked.options)
    for number, (found, name) in enumerate(zip(files, names, strict=True)):
        if asked.shard and shard_of(name, asked.shard[1]) != asked.shard[0]:
            continue
        output = os.path.join(out, name)
        if resume and history.is_done(found.path, output, asked.options):
            plan.done += 1
            continue
        kind = kind_of(found.path, asked.options)
        if kind in {"legacy", "stream"}:
            plan.items.append(
                Item(
                    found.path,
                    output,
                    f"{run}-{number}-",
                    run,
                    is_stream=kind == "stream",
                    replace=_replaced(asked, history, found.path, output, resume=resume),
                    attempt=history.attempts(found.path) + 1,
                )
            )
            plan.bytes += _size_of(found.path)
        else:
            plan.others[kind] += 1
    return plan


def _replaced(asked: Asked, history: History, path: str, output: str, *, resume: bool) -> str:
    """What of an existing output may be replaced: of what our runs have made, what is as they left it."""
    if asked.force or (resume and history.is_ours(path, output)):
        return "any"
    return "same" if resume else ""


def _check_names(files: list[Found], names: list[str], options: BatchOptions) -> None:
    """Files that are no images get no name, so they clash with none."""
    for name, places in clashes(names).items():
        images = [place for place in places if kind_of(files[place].path, options) in {"legacy", "stream"}]
        if len(images) > 1:
            first, second = (files[place].path for place in images[:2])
            raise UsageError(
                "names of results clash",
                path=second,
                found=f"{name}, the name that {first} gets too"
                if names[images[1]] == name
                else f"{name} is a folder",
                hint="--name has a template that keeps them apart, such as {name}",
            )


def kind_of(path: str, options: BatchOptions) -> str:
    """``legacy``, ``stream``, or what else it is; what cannot be told fails when it is its turn."""
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)):
            return SPECIAL
        with open_source(path) as source:
            if recognise(source).stream != "legacy":
                return "stream"
            guest = options.convert.get("guest")
            find(source, width=options.convert.get("width"), guest=guest and GUEST_BY_NAME[guest])
    except NotRecognised:
        return OTHER
    except NotSupported as error:
        return error.what.removeprefix("it is ") if error.item == "beginning" else "legacy"
    except (XenmigError, OSError):
        return "legacy"
    return "legacy"


def _size_of(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def free_bytes(folder: str) -> int:
    """Bytes that there is room for in a folder, or where it will be made."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
