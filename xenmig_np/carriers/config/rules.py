"""How settings of xl are found that take more than one value of xend's (containers.md 9.5)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from xenmig_np.carriers.config.graphics import SDL, VNC, graphics
from xenmig_np.carriers.config.sxp import Sxp, shown
from xenmig_np.carriers.config.values import NotCarried, flag, natural, number, text

if TYPE_CHECKING:
    from xenmig_np.carriers.config.domain import Domain
    from xenmig_np.carriers.config.xlcfg import Value

Rule: TypeAlias = "Callable[[Domain], Value | None]"
"""Gives the value of a setting, or None to leave it out; raises :class:`NotCarried`."""

MIB: Final = 1 << 20
PAGES_PER_MIB: Final = 256
VCPUS_MAX: Final = 4096
"""More than any Xen gives a guest."""
WEIGHTS: Final = range(1, 65536)
WEIGHTS_LEFT_OUT: Final = (b"256", b"1.0")
"""The default, and the one of Xen 3.0 in other units."""
ARGUMENTS_MAX: Final = 4096
"""Bytes of a bootloader's arguments."""
WITHOUT_TRADITIONAL: Final = (4, 21)
"""The first Xen whose libxl knows no qemu-xen-traditional (containers.md 1.7)."""
ACTIONS: Final = (
    b"destroy",
    b"restart",
    b"preserve",
    b"rename-restart",
    b"coredump-destroy",
    b"coredump-restart",
)
RESTART: Final = {
    b"onreboot": (b"on_reboot",),
    b"always": (b"on_poweroff", b"on_reboot", b"on_crash"),
    b"never": (),
}
"""Xen 3.0 has one setting for all three: which of them restart, the others destroy."""
CPUID_LEAF: Final = re.compile(rb"(?:0[xX])?[0-9a-fA-F]+(?:,(?:0[xX])?[0-9a-fA-F]+)?")
CPUID_REGISTER: Final = re.compile(rb"e[abcd]x")
CPUID_POLICY: Final = re.compile(rb"[01xks]{32}")


# ---- one value -------------------------------------------------------------------------------------------


def top(key: bytes, convert: Callable[[Sxp], Value | None]) -> Rule:
    """The value at the top, else in the image."""
    return lambda domain: convert(found) if (found := domain.get(key)) else None


def platform(key: bytes, convert: Callable[[Sxp], Value | None]) -> Rule:
    """The value in the image, else at the top."""
    return lambda domain: convert(found) if (found := domain.platform(key)) else None


def screen(key: bytes) -> Rule:
    """The value in the frame buffer, else in the image; of SDL's only if that is on."""
    _, convert = (VNC | SDL)[key]

    def found(domain: Domain) -> Value | None:
        said = domain.top | domain.image | graphics(domain.framebuffer)
        if key not in said or (key in SDL and not flag(said.get(b"sdl", b"0"))):
            return None
        return convert(said[key])

    return found


# ---- what it is ------------------------------------------------------------------------------------------


def builder(domain: Domain) -> bytes | None:
    """Xl up to 4.9 knows this key alone, and takes a guest without it for PV."""
    return b"hvm" if domain.hvm else None


def kind(domain: Domain) -> bytes:
    """Xl from 4.10 on knows this one."""
    return b"hvm" if domain.hvm else b"pv"


def device_model(domain: Domain) -> bytes | None:
    """Always the one whose state xend saved."""
    path = domain.platform(b"device_model")
    if isinstance(path, bytes) and b"stubdom" in path:
        domain.lose(domain.name(b"device_model"), "in a stub domain")
    if domain.release < WITHOUT_TRADITIONAL:
        return b"qemu-xen-traditional"
    domain.remark("no device_model_version: that Xen lacks qemu-xen-traditional, whose state the image has")
    return None


# ---- memory ----------------------------------------------------------------------------------------------


def memory(domain: Domain) -> int | None:
    """MiB that the guest may use."""
    return _mib(domain, b"memory", b"memory_dynamic_max") or _mib(domain, b"maxmem", b"memory_static_max")


def maxmem(domain: Domain) -> int | None:
    """MiB that the guest may ever have: all the pages of the image have to fit."""
    used = memory(domain) or 0
    most = max(used, _mib(domain, b"maxmem", b"memory_static_max") or 0)
    needed = -(-domain.pages // PAGES_PER_MIB)
    if needed > most:
        domain.remark(f"maxmem raised from {most} to {needed}: the image has {domain.pages:,} pages")
    return max(most, needed) or None


def _mib(domain: Domain, in_mib: bytes, in_bytes: bytes) -> int | None:
    for key, unit in ((in_mib, 1), (in_bytes, MIB)):
        if found := domain.get(key):
            try:
                return natural(found) // unit or None
            except NotCarried as why:
                domain.lose(domain.name(key), why)
    return None


# ---- processors ------------------------------------------------------------------------------------------


def maxvcpus(domain: Domain) -> int | None:
    """All vCPUs."""
    if not (found := domain.platform(b"vcpus")):
        return None
    count = number(found)
    if not 0 < count <= VCPUS_MAX:
        raise NotCarried(f"{count}")
    return count


def vcpus(domain: Domain) -> int | None:
    """Those that are online: the ones of a bit mask."""
    count = maxvcpus(domain)
    if count is None or not (found := domain.get(b"vcpu_avail")):
        return count
    digits = text(found)
    if not re.fullmatch(rb"-?[0-9]{1,1300}", digits):
        domain.lose("vcpu_avail", f"not a number: {shown(digits)}")
        return count
    mask = int(digits) & ((1 << count) - 1)
    if mask & (mask + 1) or not mask:
        domain.remark(f"vcpu_avail {mask:#x}: xl counts online vCPUs, it does not know which")
    return mask.bit_count() or count


def cpus(domain: Domain) -> Value | None:
    """Where vCPUs may run: one string for all, or one for each."""
    found = domain.get(b"cpus")
    if isinstance(found, bytes) and found:
        return text(found)
    each = tuple(b",".join(map(text, one)) if isinstance(one, tuple) else text(one) for one in found or ())
    if any(each):
        return tuple(one or b"all" for one in each)
    first = domain.get(b"cpu")
    return (b"%d" % pin,) if first and (pin := number(first)) >= 0 else None


def cpu_weight(domain: Domain) -> int | None:
    """Of the credit scheduler."""
    found = domain.get(b"cpu_weight")
    if not found or found in WEIGHTS_LEFT_OUT:
        return None
    if (weight := number(found)) not in WEIGHTS:
        raise NotCarried(f"{shown(found)}")
    return weight


def pool(value: Sxp) -> bytes | None:
    """The pool of processors, unless it is the one of all."""
    return None if (name := text(value)) == b"Pool-0" else name


# ---- what it boots ---------------------------------------------------------------------------------------


def bootloader_args(domain: Domain) -> tuple[bytes, ...] | None:
    """Split like a shell does."""
    if not (found := domain.get(b"bootloader_args")):
        return None
    if not domain.get(b"bootloader"):
        raise NotCarried("there is no bootloader")
    words = text(found)
    if len(words) > ARGUMENTS_MAX:
        raise NotCarried(f"{len(words):,} bytes")
    try:
        return tuple(word.encode("latin-1") for word in shlex.split(words.decode("latin-1")))
    except ValueError:
        domain.remark("bootloader_args has a quote without an end, split at blanks")
        return tuple(words.split())


def boot_file(key: bytes) -> Rule:
    """Kernel or ramdisk; with a bootloader they are copies that it made, and gone."""

    def found(domain: Domain) -> bytes | None:
        path = domain.platform(key)
        return text(path) if path and not domain.get(b"bootloader") else None

    return found


def cmdline(domain: Domain) -> bytes | None:
    """Arguments of the kernel; Xen 3.0 has two of them apart."""
    line = text(domain.platform(b"args"))
    for key in (b"root", b"ip"):
        value = text(domain.platform(key))
        if value and not re.search(rb"(?:^|\s)" + key + b"=", line):
            line = (b"%s=%s %s" % (key, value, line)).removesuffix(b" " if not line else b"")
    return line or None


def lose_boot_files(domain: Domain) -> None:
    """Tell which of the boot settings mean nothing to xl."""
    if domain.hvm:
        for key in (b"kernel", b"ramdisk", b"args", b"root", b"ip"):
            value = domain.platform(key)
            if value and not (key == b"kernel" and isinstance(value, bytes) and value.endswith(b"hvmloader")):
                domain.lose(domain.name(key), "of an HVM guest")
    elif domain.get(b"bootloader"):
        copies = [domain.name(key) for key in (b"kernel", b"ramdisk") if domain.platform(key)]
        if copies:
            domain.lose(", ".join(copies), "temporary copies made by the bootloader")


# ---- the rest --------------------------------------------------------------------------------------------


def vga(value: Sxp) -> bytes:
    """The graphics adapter."""
    return b"stdvga" if flag(value) else b"cirrus"


def cpuid(value: Sxp) -> tuple[bytes, ...]:
    """``((LEAF ((REGISTER POLICY) ...)) ...)`` as a list of ``LEAF:REGISTER=POLICY,...``."""
    made = []
    for leaf in value if isinstance(value, tuple) else (value,):
        match leaf:
            case (bytes(name), tuple(registers)) if CPUID_LEAF.fullmatch(name):
                made.append(name + b":" + b",".join(_register(one) for one in registers))
            case _:
                raise NotCarried(f"not understood: {shown(leaf)}")
    return tuple(made)


def _register(value: Sxp) -> bytes:
    match value:
        case (bytes(name), bytes(bits)) if CPUID_REGISTER.fullmatch(name) and CPUID_POLICY.fullmatch(bits):
            return name + b"=" + bits
    raise NotCarried(f"not understood: {shown(value)}")


def action(key: bytes) -> Rule:
    """What happens when the guest ends; xl knows no `never`."""

    def found(domain: Domain) -> bytes | None:
        said = text(domain.get(key))
        if not said:
            restart = text(domain.get(b"restart"))
            if restart not in RESTART:
                return None
            return b"restart" if key in RESTART[restart] else b"destroy"
        if said in ACTIONS:
            return said
        domain.lose(domain.name(key), f"{shown(said)}, it is destroy")
        return b"destroy"

    return found


def seclabel(value: Sxp) -> bytes:
    """A label of FLASK."""
    if (label := text(value)).startswith(b"ACM:"):
        raise NotCarried("of ACM, which Xen has no more")
    return label
