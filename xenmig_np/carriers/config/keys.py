"""The table: settings of xl in their order, and keys of xend that they are made of (containers.md 9.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from xenmig_np.carriers.config import rules
from xenmig_np.carriers.config.disks import disks
from xenmig_np.carriers.config.graphics import vfbs
from xenmig_np.carriers.config.hardware import ioports, irqs, pcis, vtpms
from xenmig_np.carriers.config.network import vifs
from xenmig_np.carriers.config.rules import platform, screen, top
from xenmig_np.carriers.config.values import (
    choice,
    flag,
    natural,
    number_if_set,
    one_if_set,
    strings,
    text,
    uuid,
)

if TYPE_CHECKING:
    from xenmig_np.carriers.config.rules import Rule

ANY, HVM, PV = "any", "hvm", "pv"
TIMER_MODES: Final = (
    "delay_for_missed_ticks",
    "no_delay_for_missed_ticks",
    "no_missed_ticks_pending",
    "one_missed_tick_pending",
)
TSC_MODES: Final = ("default", "always_emulate", "native", "native_paravirt")


class Row(NamedTuple):
    """One setting."""

    sxp: str
    """Keys, or kinds of devices, that it is made of; the first one names what is lost."""
    xl: str
    rule: Rule
    guest: str = ANY
    """Left out of guests of the other kind."""

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Keys of the expression."""
        return tuple(self.sxp.encode().split())


ROWS: Final = (
    Row("name", "name", top(b"name", text)),
    Row("uuid", "uuid", top(b"uuid", uuid)),
    Row("image", "builder", rules.builder),
    Row("image", "type", rules.kind),
    Row("memory memory_dynamic_max", "memory", rules.memory),
    Row("maxmem memory_static_max", "maxmem", rules.maxmem),
    Row("vcpus vcpu_avail", "vcpus", rules.vcpus),
    Row("vcpus", "maxvcpus", rules.maxvcpus),
    Row("cpus cpu", "cpus", rules.cpus),
    Row("cpu_weight", "cpu_weight", rules.cpu_weight),
    Row("cpu_cap", "cap", top(b"cpu_cap", number_if_set)),
    Row("pool_name", "pool", top(b"pool_name", rules.pool)),
    Row("bootloader", "bootloader", top(b"bootloader", text)),
    Row("bootloader_args", "bootloader_args", rules.bootloader_args),
    Row("kernel", "kernel", rules.boot_file(b"kernel"), PV),
    Row("ramdisk", "ramdisk", rules.boot_file(b"ramdisk"), PV),
    Row("args root ip", "cmdline", rules.cmdline, PV),
    Row("device_model loader", "device_model_version", rules.device_model, HVM),
    Row("boot", "boot", platform(b"boot", text), HVM),
    Row("acpi", "acpi", platform(b"acpi", flag), HVM),
    Row("apic", "apic", platform(b"apic", flag), HVM),
    Row("pae", "pae", platform(b"pae", flag), HVM),
    Row("hpet", "hpet", platform(b"hpet", flag), HVM),
    Row("viridian", "viridian", platform(b"viridian", flag), HVM),
    Row("timer_mode", "timer_mode", platform(b"timer_mode", choice(*TIMER_MODES)), HVM),
    Row("tsc_mode", "tsc_mode", platform(b"tsc_mode", choice(*TSC_MODES, left_out="default"))),
    Row("vpt_align", "vpt_align", platform(b"vpt_align", flag), HVM),
    Row("hap", "hap", platform(b"hap", flag), HVM),
    Row("oos", "oos", platform(b"oos", flag), HVM),
    Row("nestedhvm", "nestedhvm", platform(b"nestedhvm", flag), HVM),
    Row("xen_platform_pci", "xen_platform_pci", platform(b"xen_platform_pci", flag), HVM),
    Row("stdvga", "vga", platform(b"stdvga", rules.vga), HVM),
    Row("videoram", "videoram", platform(b"videoram", natural), HVM),
    Row("localtime", "localtime", platform(b"localtime", one_if_set)),
    Row("rtc_timeoffset", "rtc_timeoffset", platform(b"rtc_timeoffset", number_if_set)),
    Row("usb", "usb", platform(b"usb", flag), HVM),
    Row("usbdevice", "usbdevice", platform(b"usbdevice", strings), HVM),
    Row("serial", "serial", platform(b"serial", strings), HVM),
    Row("soundhw", "soundhw", platform(b"soundhw", text), HVM),
    Row("sdl", "sdl", screen(b"sdl"), HVM),
    Row("opengl", "opengl", screen(b"opengl"), HVM),
    Row("display", "display", screen(b"display"), HVM),
    Row("xauthority", "xauthority", screen(b"xauthority"), HVM),
    Row("vnc", "vnc", screen(b"vnc"), HVM),
    Row("vnclisten", "vnclisten", screen(b"vnclisten"), HVM),
    Row("vncdisplay", "vncdisplay", screen(b"vncdisplay"), HVM),
    Row("vncunused", "vncunused", screen(b"vncunused"), HVM),
    Row("vncpasswd", "vncpasswd", screen(b"vncpasswd"), HVM),
    Row("keymap", "keymap", screen(b"keymap"), HVM),
    Row("nographic", "nographic", platform(b"nographic", one_if_set)),
    Row("gfx_passthru", "gfx_passthru", platform(b"gfx_passthru", one_if_set)),
    Row("nomigrate", "nomigrate", platform(b"nomigrate", one_if_set)),
    Row("pci_msitranslate", "pci_msitranslate", platform(b"pci_msitranslate", one_if_set)),
    Row("pci_power_mgmt", "pci_power_mgmt", platform(b"pci_power_mgmt", one_if_set)),
    Row("cpuid", "cpuid", top(b"cpuid", rules.cpuid)),
    Row("on_poweroff restart", "on_poweroff", rules.action(b"on_poweroff")),
    Row("on_reboot restart", "on_reboot", rules.action(b"on_reboot")),
    Row("on_crash restart", "on_crash", rules.action(b"on_crash")),
    Row("security_label", "seclabel", top(b"security_label", rules.seclabel)),
    Row("vif", "vif", vifs),
    Row("vbd tap tap2 cdrom", "disk", disks),
    Row("vfb", "vfb", vfbs),
    Row("pci", "pci", pcis),
    Row("ioports", "ioports", ioports),
    Row("irq", "irqs", irqs),
    Row("vtpm", "vtpm", vtpms),
)
"""In the order of the text. Keys of the other kind of guest are passed over: they had no effect in xend."""

SILENT: Final = frozenset(
    b"domid state status store_mfn console_mfn start_time up_time cpu_time online_vcpus shutdown_reason"
    b" change_home_server node shadow_memory notes pci".split()
)
"""Reports of the time of saving, what libxl works out itself, the image's copy of the PCI devices. What is in
neither table is not carried."""
DEVICES: Final = frozenset(b"vif vbd tap tap2 vfb pci ioports irq vtpm vkbd console".split())
"""Kinds that rows are made of, and the two that xl makes itself where they belong."""
