"""Reports in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenmig_np.cli.terminal import plural, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenmig_np.conversion.run import Conversion
    from xenmig_np.read.info import ImageInfo

GUESTS: Final = {
    "pv64": "PV, 64-bit, 4 levels of page tables",
    "pv32": "PV, 32-bit, 3 levels of page tables (PAE)",
    "hvm": "HVM",
}
NON_PAE: Final = "PV, 32-bit, 2 levels of page tables (non-PAE)"
"""A guest that is ``pv32`` too."""
CARRIERS: Final = {
    "bare": "without a carrier",
    "xl": "in an xl file",
    "xend": "in a xend file",
    "libvirt": "in a libvirt file",
    "xapi": "in a XenServer suspend image",
    "xapi2": "in a structured XenServer suspend image",
}
HOLDERS: Final = {
    "bare": "a bare {format} stream",
    "xl": "an xl file with a {format} stream",
    "libvirt": "a libvirt file with a {format} stream",
    "xapi2": "a structured XenServer image with a {format} stream",
}
PAGE: Final = 4096


def image_lines(info: ImageInfo, *, verbose: bool) -> Iterator[str]:
    """What a legacy image is."""
    from xenmig_np.read.info import TWO_LEVELS  # noqa: PLC0415 - brings numpy

    narrow = info.refused == TWO_LEVELS
    guest = NON_PAE if narrow else GUESTS[info.guest]
    yield f"{info.path}: legacy Xen image, {CARRIERS[info.carrier]}"
    yield _row("guest", f"{guest}, {_vcpus(info.vcpus)}")
    yield _row("memory", _memory(info))
    if info.checkpoints > 1 or info.incomplete_checkpoint:
        yield _row("checkpoints", _checkpoints(info))
    yield _row("entries", ", ".join(f"{name} {count:,}" for name, count in info.page_types.items()))
    if info.collapsible_words:
        yield _row("repeats", _repeats(info))
    yield _row("saved by", f"{info.width}-bit tools of Xen {info.saved_by}")
    if info.config.bytes or info.carrier == "xl":
        name = f"{info.config.name}, " if info.config.name else ""
        yield _row("config", f"{name}{size(info.config.bytes)}, {info.config.kind}")
    if info.hvm_params:
        yield _row("params", ", ".join(f"{name} {value:#x}" for name, value in info.hvm_params.items()))
    if info.device_model:
        yield _row("device model", f"{info.device_model}, {size(info.device_model_bytes)}")
    if info.unmapped:
        yield _row("unmapped", plural(info.unmapped, "page"))
    if verbose:
        yield from (_row("because", reason) for reason in info.reasons)
    if info.refused:
        rest = "" if narrow else "; --drop-tmem converts the rest of the guest"
        yield _row("to restore", f"not converted by this version: {info.refused}{rest}")
    else:
        yield _row("to restore", "convert it: xenmig-np convert INPUT OUTPUT")


def _row(name: str, text: str) -> str:
    return f"  {name:<12} {text}"


def _vcpus(ids: tuple[int, ...]) -> str:
    runs: list[list[int]] = []
    for number in ids:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
    return f"{plural(len(ids), 'vCPU')} ({shown})"


def _memory(info: ImageInfo) -> str:
    each = "each once" if info.pages == info.distinct_pages else f"{info.pages:,} with repeats"
    verify = "; the last pass is for verification" if info.verify_mode else ""
    memory = f"{plural(info.distinct_pages, 'page')} ({size(info.distinct_pages * PAGE)})"
    return f"{memory} in {plural(info.batches, 'batch', 'batches')}, {each}{verify}"


def _repeats(info: ImageInfo) -> str:
    saved = size(info.collapsible_bytes)
    return f"{info.collapsible_words:,} entries come again: convert --collapse saves up to {saved}"


def _checkpoints(info: ImageInfo) -> str:
    last = ", the last counts" if info.checkpoints > 1 else ""
    cut = "; one behind them breaks off and does not count" if info.incomplete_checkpoint else ""
    return f"{info.checkpoints:,} complete{last}{cut}"


def stream(made: Conversion) -> str:
    """What a conversion gives."""
    holder = HOLDERS[made.carrier].format(format=made.format)
    if made.carrier == "xl" and made.format == "libxc":
        holder = "a libxc stream behind an xl header"
    return f"{holder}, target {made.target} ({made.restored_by})"


def plan_lines(made: Conversion, output: str) -> Iterator[str]:
    """What a conversion would do."""
    info = made.input
    yield f"{info.path} -> {output} (not written)"
    kind = f"{GUESTS[info.guest]}, {info.width}-bit tools"
    yield _row("input", f"legacy Xen image {CARRIERS[info.carrier]}: {kind}")
    yield _row("output", stream(made))
    yield _row("size", f"{made.bytes:,} bytes" + (f" ({size(made.bytes)})" if made.bytes >= 1024 else ""))
    yield _row("records", ", ".join(f"{name} {count:,}" for name, count in made.records.items()))
    yield _row("entries", ", ".join(f"{name} {count:,}" for name, count in made.words.items()))
    if made.left_out or info.dropped_words or made.collapsed:
        counts = f"{info.dropped_words:,} entries without a page, {made.left_out:,} given back"
        repeats = f", {made.collapsed:,} that come again" if made.collapsed else ""
        yield _row("left out", counts + repeats)


def closing(made: Conversion) -> str:
    """The one line at the end of a conversion."""
    warnings = f", {plural(len(made.warnings), 'warning')}" if made.warnings else ""
    stored = f" ({size(made.stored)} compressed)" if made.stored != made.bytes else ""
    collapsed = f" ({made.collapsed:,} entries left out as they come again)" if made.collapsed else ""
    return (
        f"{made.output}: {plural(made.input.pages, 'page')}{collapsed}, {size(made.bytes)}{stored} "
        f"in {made.seconds:.1f} s: {stream(made)}{warnings}"
    )
