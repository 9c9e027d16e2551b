"""The stream of a synthetic image: what a Xen 4.5 saver under libxl writes (legacy-stream.md 1, 3, 4)."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from xenmig_np import limits
from xenmig_np.errors import UsageError
from xenmig_np.options import SampleGuest, Width
from xenmig_np.sample import hvm, pv
from xenmig_np.sample.memory import U64, WORDS_PER_PAGE, Contents, Guest, inside, mixed, noise
from xenmig_np.sample.processors import VCPUS
from xenmig_np.wire import legacy, vcpu, xl
from xenmig_np.wire.pages import HAS_DATA, PAGE_SIZE, PageType

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from xenmig_np.sample.memory import PageWords, Pfns

MEMORY_MIN: Final = limits.MIB
PAGES_MAX: Final = {
    SampleGuest.HVM: hvm.PAGES_MAX,
    SampleGuest.PV64: pv.PAGES_MAX[8],
    SampleGuest.PV32: pv.PAGES_MAX[4],
}
PV_KINDS: Final = {SampleGuest.PV32: vcpu.PV32, SampleGuest.PV64: vcpu.PV64}

DIRTY: Final = (8, 16, 32)
"""Rounds two, three and four of a live save send one in so many pages again."""
LAST_ROUND: Final = 1 + len(DIRTY)
WINDOW: Final = 1 << 16
"""Pfns looked at in one go."""
TSC: Final = (0, 4_321_000_000_123, 2_400_000, 1)
"""Mode, nanoseconds, kHz, incarnation."""
XTAB_WORD: Final = PageType.XTAB << legacy.TYPE_SHIFT


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """What image to make."""

    guest: SampleGuest = SampleGuest.HVM
    width: Width = Width.BITS_64
    memory: int = 64 << 20
    """Bytes, whole pages. An HVM guest has eight pages less: 32 give way to video memory below 1 MiB, and 24
    for firmware and rings are added."""
    live: bool = False
    xl: bool = False
    seed: int = 0
    zeros: float = 0.25
    """Share of zero pages among the ordinary ones."""


def sample_image(options: SampleOptions) -> Iterator[bytes | memoryview]:
    """The image in pieces of at most 4 MiB; a view is good until the next piece is asked for.

    Raises :class:`UsageError`, at once.
    """
    guest = _guest(options)
    return _stream(options, guest)


def sample_size(options: SampleOptions) -> int:
    """Bytes of the image; no page is made. Raises :class:`UsageError`."""
    guest = _guest(options)
    return sum(
        len(part) if isinstance(part, bytes) else part.size(options.width) for part in _parts(options, guest)
    )


def _guest(options: SampleOptions) -> Guest:
    most = PAGES_MAX[options.guest] * PAGE_SIZE
    if options.memory % PAGE_SIZE:
        raise _wrong("memory", f"{options.memory:,} bytes", f"a multiple of {PAGE_SIZE:,}")
    if not MEMORY_MIN <= options.memory <= most:
        raise _wrong("memory", f"{options.memory:,} bytes", f"{MEMORY_MIN:,} to {most:,}")
    if not 0 <= options.zeros <= 1:
        raise _wrong("share of zero pages", f"{options.zeros}", "0 to 1")
    if options.seed < 0:
        raise _wrong("seed", f"{options.seed}", "0 or more")
    pages = options.memory // PAGE_SIZE
    if options.guest is SampleGuest.HVM:
        return hvm.hvm_guest(options.width, pages, options.seed)
    return pv.pv_guest(PV_KINDS[options.guest], options.width, pages, options.seed, live=options.live)


def _wrong(item: str, found: str, expected: str) -> UsageError:
    return UsageError(item=item, found=found, expected=expected)


# ---- the parts of an image, pages not made yet --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """A page batch: its words, as u64, and the round in which it is sent."""

    words: NDArray[np.uint64]
    copy: int

    @property
    def data(self) -> Pfns:
        """Pfns whose pages follow."""
        data: Pfns = self.words[HAS_DATA[self.words >> legacy.TYPE_SHIFT]] & legacy.PFN_MASK
        return data

    def head(self, width: int) -> bytes:
        count = np.array(len(self.words), legacy.CHUNK_ID)
        return count.tobytes() + self.words.astype(legacy.WORDS[width]).tobytes()

    def size(self, width: int) -> int:
        words = len(self.words) * legacy.WORDS[width].itemsize
        return legacy.CHUNK_ID.itemsize + words + len(self.data) * PAGE_SIZE


def _parts(options: SampleOptions, guest: Guest) -> Iterator[bytes | Batch]:
    if options.xl:
        yield _xl_header(options)
    yield np.array(guest.p2m_size, legacy.WORDS[options.width]).tobytes() + guest.head
    last = LAST_ROUND if options.live else 1
    for copy in range(1, last + 1):
        if copy == last:
            yield _chunk("tsc_info", np.array([TSC], legacy.TSC_INFO).tobytes())
        for words in _packed(_round(options, guest, copy)):
            if (words != XTAB_WORD).any():  # savers leave out what has no page at all
                yield Batch(words, copy)
    vcpu_map = np.array([(VCPUS - 1,)], legacy.VCPU_INFO), np.array((1 << VCPUS) - 1, legacy.VCPU_MAP)
    toolstack = np.array(len(guest.toolstack), legacy.U32).tobytes() + guest.toolstack
    yield b"".join(
        (
            _chunk("vcpu_info", b"".join(part.tobytes() for part in vcpu_map)),
            guest.parameters,
            _chunk("toolstack", toolstack),
            _chunk("last_checkpoint"),
            _chunk("end"),
            guest.tail,
        )
    )


def _chunk(name: str, payload: bytes = b"") -> bytes:
    return np.array(legacy.CHUNK_BY_NAME[name].id, legacy.CHUNK_ID).tobytes() + payload


def _round(options: SampleOptions, guest: Guest, copy: int) -> Iterator[NDArray[np.uint64]]:
    """Words of one round by windows of pfns, ascending."""
    key = noise(options.seed, 4, 1)
    for start in range(0, guest.p2m_size, WINDOW):
        pfns = np.arange(start, min(start + WINDOW, guest.p2m_size), dtype=U64)
        present = inside(pfns, *guest.populated)
        if copy == 1:
            late = present & _late(key, pfns, guest) if options.live else np.zeros(len(pfns), bool)
            yield _everything(guest, pfns, present, late)
        else:
            again = _dirty(key, pfns, copy) | inside(pfns, *guest.busy)
            yield _words(guest, pfns[present & again & ~inside(pfns, guest.given_up)])


def _everything(
    guest: Guest, pfns: Pfns, present: NDArray[np.bool_], late: NDArray[np.bool_]
) -> NDArray[np.uint64]:
    """Words of round one: of an HVM guest holes too, and what comes ``late`` to be allocated meanwhile."""
    if not guest.holes:
        return _words(guest, pfns[present & ~late])
    words = np.full(len(pfns), XTAB_WORD, U64)
    words[present] = _words(guest, pfns[present])
    words[late] = pfns[late] | np.uint64(PageType.XALLOC << legacy.TYPE_SHIFT)
    return words


def _late(key: NDArray[np.uint64], pfns: Pfns, guest: Guest) -> NDArray[np.bool_]:
    """Written to before their turn came in round one: round two sends them for the first time."""
    half: NDArray[np.bool_] = pfns & np.uint64(8) == 0
    return _dirty(key, pfns, 2) & half & ~inside(pfns, *guest.busy, guest.given_up)


def _words(guest: Guest, pfns: Pfns) -> NDArray[np.uint64]:
    words = pfns.copy()
    for region in guest.regions:
        words[inside(pfns, region.run)] |= np.uint64(region.type << legacy.TYPE_SHIFT)
    return words


def _dirty(key: NDArray[np.uint64], pfns: Pfns, copy: int) -> NDArray[np.bool_]:
    """Which pages the guest wrote to before round ``copy``: groups of eight."""
    groups = mixed(key ^ (pfns >> np.uint64(3) | np.uint64(copy << 40)))
    dirty: NDArray[np.bool_] = groups % DIRTY[copy - 2] == 0
    return dirty


def _packed(arrays: Iterable[NDArray[np.uint64]]) -> Iterator[NDArray[np.uint64]]:
    """The same words, as many at a time as fit a batch."""
    rest = np.zeros(0, U64)
    for array in arrays:
        rest = np.concatenate((rest, array))
        full = len(rest) // legacy.BATCH_MAX * legacy.BATCH_MAX
        for at in range(0, full, legacy.BATCH_MAX):
            yield rest[at : at + legacy.BATCH_MAX]
        rest = rest[full:]
    if len(rest):
        yield rest


def _xl_header(options: SampleOptions) -> bytes:
    """The header of xl 4.5, a JSON configuration with its NUL (containers.md 1)."""
    config = json.dumps(_config(options), indent=4).encode() + b"\x00"
    data = np.array(len(config), xl.CONFIG_LENGTH).tobytes() + config
    head = np.zeros((), xl.HEADER)
    head["magic"] = np.void(xl.MAGIC)
    head["byteorder"] = xl.BYTEORDER
    head["mandatory_flags"] = xl.FLAG_JSON
    head["optional_data_len"] = len(data)
    return head.tobytes() + data


def _config(options: SampleOptions) -> dict[str, object]:
    kind = "hvm" if options.guest is SampleGuest.HVM else "pv"
    high, low = (int(word) for word in noise(options.seed, 5, 2))
    details = {
        "hvm": {"firmware": "bios"},
        "pv": {"kernel": "/boot/vmlinuz", "cmdline": "root=/dev/xvda1 ro"},
    }
    return {
        "c_info": {
            "type": kind,
            "name": f"sample-{options.guest.value}-{options.seed}",
            "uuid": str(uuid.UUID(int=high << 64 | low, version=4)),
            "run_hotplug_scripts": "True",
        },
        "b_info": {
            "max_vcpus": VCPUS,
            "avail_vcpus": list(range(VCPUS)),
            "max_memkb": options.memory >> 10,
            "target_memkb": options.memory >> 10,
            "sched_params": {},
            "claim_mode": "False",
            f"type.{kind}": details[kind],
        },
        "on_reboot": "restart",
    }


# ---- bytes --------------------------------------------------------------------------------------------


def _stream(options: SampleOptions, guest: Guest) -> Iterator[bytes | memoryview]:
    contents = Contents(options.seed, options.zeros)
    buffer = np.zeros((legacy.BATCH_MAX, WORDS_PER_PAGE), U64)
    for part in _parts(options, guest):
        if isinstance(part, bytes):
            yield part
            continue
        yield part.head(options.width)
        pfns = part.data
        if len(pfns):
            pages = buffer[: len(pfns)]
            _fill(guest, contents, pfns, part.copy, pages)
            yield pages.data.cast("B")


def _fill(guest: Guest, contents: Contents, pfns: Pfns, copy: int, out: PageWords) -> None:
    contents.fill(pfns, copy, out)
    for region in guest.regions:
        mine = inside(pfns, region.run)
        if mine.any():
            out[mine] = region.fill(pfns[mine], copy)
