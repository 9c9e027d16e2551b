"""What becomes of single entries of xend's configurations (containers.md 9.5): tables for test_xend_config.

A case is what a domain has, then behind ``image:`` what its image has, or ``-`` for nothing, and behind
``=>`` the lines that come of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FLAGS: Final = (
    "acpi apic pae hpet viridian vpt_align hap oos nestedhvm xen_platform_pci usb".split()  # noqa: SIM905 - a table
)
FLAGS_LEFT_OUT: Final = (
    "nographic gfx_passthru nomigrate pci_msitranslate pci_power_mgmt".split()  # noqa: SIM905 - a table
)
"""Left out if 0."""


class Case(NamedTuple):
    """A domain by its entries, and what is made of it."""

    heading: str
    top: str
    image: str
    lines: tuple[str, ...]


def cases(table: str) -> Iterator[Case]:
    """The cases of a table; a heading in brackets stands for those behind it."""
    heading, given, made = "", "", []
    for line in [*table.strip().splitlines(), "-"]:
        if line.startswith("=>"):
            made.append(line.removeprefix("=>").strip())
            continue
        if made:
            top, _, image = given.removeprefix("-").partition("image:")
            yield Case(heading, top.strip(), image.strip(), tuple(filter(None, made)))
            given, made = "", []
        if line.startswith("["):
            heading = line.strip("[]")
        else:
            given = f"{given} {line}".strip()


ROWS: Final = """
[name]
-
=> name = 'a'
[uuid]
-
=> uuid = '00000000-0000-0000-0000-000000000000'
[builder]
-
=> builder = 'hvm'
[type]
-
=> type = 'hvm'
[memory]
-
=> memory = 1
[maxmem]
-
=> maxmem = 1
(maxmem 7)
=> maxmem = 7
(maxmem 0)
=> maxmem = 1
[vcpus]
(vcpus 3)
=> vcpus = 3
(vcpus 3) image: (vcpus 4)
=> vcpus = 4
(vcpus 8) (vcpu_avail 15)
=> vcpus = 4
(vcpus 2) (vcpu_avail 255)
=> vcpus = 2
(vcpus 2) (vcpu_avail -1)
=> vcpus = 2
(vcpus 128) (vcpu_avail 340282366920938463463374607431768211455)
=> vcpus = 128
(online_vcpus 2)
=>
[maxvcpus]
(vcpus 8) (vcpu_avail 15)
=> maxvcpus = 8
-
=>
[cpus]
(cpus ((0 1) ()))
=> cpus = [ '0,1', 'all' ]
(cpus (0-3 ^2))
=> cpus = [ '0-3', '^2' ]
(cpus '2-5,^3')
=> cpus = '2-5,^3'
(cpus (() ()))
=>
(cpus (()))
=>
(cpus (())) (cpu 3)
=> cpus = [ '3' ]
(cpu -1)
=>
[cpu_weight]
(cpu_weight 512)
=> cpu_weight = 512
(cpu_weight 300.7)
=> cpu_weight = 300
(cpu_weight 256)
=>
(cpu_weight 1.0)
=>
[cap]
(cpu_cap 150)
=> cap = 150
(cpu_cap 0)
=>
[pool]
(pool_name p)
=> pool = 'p'
(pool_name Pool-0)
=>
[bootloader]
(bootloader /usr/bin/pygrub)
=> bootloader = '/usr/bin/pygrub'
[bootloader_args]
(bootloader b) (bootloader_args '-q --entry=\\'a b\\' ""')
=> bootloader_args = [ '-q', '--entry=a b', '' ]
(bootloader b) (bootloader_args '-q \\'a')
=> bootloader_args = [ '-q', '\\'a' ]
[kernel]
image: (kernel /k)
=> kernel = '/k'
(bootloader b) image: (kernel /k)
=>
[ramdisk]
image: (ramdisk /r)
=> ramdisk = '/r'
(bootloader b) image: (ramdisk /r)
=>
[cmdline]
image: (args 'ro 4')
=> cmdline = 'ro 4'
image: (args 'ro') (root '/dev/sda1') (ip dhcp)
=> cmdline = 'ip=dhcp root=/dev/sda1 ro'
image: (root '/dev/sda1 ro')
=> cmdline = 'root=/dev/sda1 ro'
image: (args 'root=/dev/a ip=b') (root /c) (ip d)
=> cmdline = 'root=/dev/a ip=b'
image: (args 'nfsroot=a vip=b') (root /c) (ip d)
=> cmdline = 'ip=d root=/c nfsroot=a vip=b'
[device_model_version]
-
=> device_model_version = 'qemu-xen-traditional'
[boot]
image: (boot cd)
=> boot = 'cd'
(boot n)
=> boot = 'n'
[timer_mode]
image: (timer_mode 0)
=> timer_mode = 'delay_for_missed_ticks'
image: (timer_mode 1)
=> timer_mode = 'no_delay_for_missed_ticks'
image: (timer_mode 2)
=> timer_mode = 'no_missed_ticks_pending'
image: (timer_mode 3)
=> timer_mode = 'one_missed_tick_pending'
[tsc_mode]
image: (tsc_mode 0)
=>
image: (tsc_mode 1)
=> tsc_mode = 'always_emulate'
image: (tsc_mode 2)
=> tsc_mode = 'native'
image: (tsc_mode 3)
=> tsc_mode = 'native_paravirt'
[vga]
image: (stdvga 1)
=> vga = 'stdvga'
image: (stdvga 0)
=> vga = 'cirrus'
[videoram]
image: (videoram 16)
=> videoram = 16
[localtime]
(localtime 1)
=> localtime = 1
image: (localtime 0)
=>
[rtc_timeoffset]
image: (rtc_timeoffset 60)
=> rtc_timeoffset = 60
image: (rtc_timeoffset -3600)
=> rtc_timeoffset = '-3600'
image: (rtc_timeoffset 0)
=>
[usbdevice]
image: (usbdevice tablet)
=> usbdevice = 'tablet'
image: (usbdevice (tablet))
=> usbdevice = 'tablet'
image: (usbdevice (tablet mouse))
=> usbdevice = [ 'tablet', 'mouse' ]
[serial]
image: (serial pty)
=> serial = 'pty'
image: (serial (/dev/ttyS0 pty))
=> serial = [ '/dev/ttyS0', 'pty' ]
image: (serial none)
=>
image: (serial (none pty))
=> serial = 'pty'
[soundhw]
image: (soundhw sb16)
=> soundhw = 'sb16'
[sdl]
(device (vfb (type sdl)))
=> sdl = 1
(device (vfb (sdl 0))) image: (sdl 1)
=> sdl = 0
[opengl]
image: (sdl 1) (opengl 0)
=> opengl = 0
image: (sdl 0) (opengl 1)
=>
image: (opengl 1)
=>
[display]
image: (sdl 1) (display :0)
=> display = ':0'
image: (display :0)
=>
[xauthority]
image: (sdl 1) (xauthority /x)
=> xauthority = '/x'
image: (xauthority /x)
=>
[vnc]
image: (vnc 0)
=> vnc = 0
(device (vfb (vnc 1))) image: (vnc 0)
=> vnc = 1
(device (vfb (type vnc)))
=> vnc = 1
(device (vfb (vncunused 1))) image: (vnc 1)
=> vnc = 1
[vnclisten]
(device (vfb (vnclisten 0.0.0.0))) image: (vnclisten 1.1.1.1)
=> vnclisten = '0.0.0.0'
[vncdisplay]
(device (vfb (vncdisplay 7)))
=> vncdisplay = 7
[vncunused]
image: (vncunused 1)
=> vncunused = 1
[vncpasswd]
image: (vncpasswd 123456)
=> vncpasswd = '123456'
[keymap]
image: (keymap de)
=> keymap = 'de'
[cpuid]
(cpuid ((1 ((ecx xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx) (edx 11111111111111111111111111111111)))))
=> cpuid = [ '1:ecx=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx,edx=11111111111111111111111111111111' ]
(cpuid ((0x80000001 ((eax kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk))) ('4,1' ((ebx
ssssssssssssssssssssssssssssssss)))))
=> cpuid = [ '0x80000001:eax=kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk', '4,\
1:ebx=ssssssssssssssssssssssssssssssss' ]
[on_poweroff]
(on_poweroff preserve)
=> on_poweroff = 'preserve'
(restart onreboot)
=> on_poweroff = 'destroy'
(restart always)
=> on_poweroff = 'restart'
[on_reboot]
(on_reboot rename-restart)
=> on_reboot = 'rename-restart'
(restart onreboot)
=> on_reboot = 'restart'
(restart always)
=> on_reboot = 'restart'
(restart never)
=> on_reboot = 'destroy'
[on_crash]
(on_crash coredump-destroy)
=> on_crash = 'coredump-destroy'
(on_crash coredump-restart)
=> on_crash = 'coredump-restart'
(restart always)
=> on_crash = 'restart'
(restart onreboot) (on_crash restart)
=> on_crash = 'restart'
[seclabel]
(security_label a:b:c)
=> seclabel = 'a:b:c'
[vif]
(device (vif (mac m) (bridge b)))
=> vif = [ 'mac=m,bridge=b' ]
(device (vif (type ioemu) (mac m)))(device (vif (type netfront)))
=> vif = [ 'type=ioemu,mac=m', 'type=vif' ]
(device (vif (backend d) (rate 10MB/s@20ms) (model e1000) (vifname v) (dev eth3) (ip '1.1.1.1
2.2.2.2') (script /a/vif-route) (bridge b) (mac m) (uuid u)))
=> vif = [ 'mac=m,bridge=b,script=/a/vif-route,ip=1.1.1.1 2.2.2.2,gatewaydev=eth3,vifname=v,\
model=e1000,rate=10MB/s@20ms,backend=d' ]
(device (vif (ip (1.1.1.1 2.2.2.2)) (backend 0) (script /x/vif-bridge)))
=> vif = [ 'ip=1.1.1.1 2.2.2.2' ]
(device (vif (ip 1) (backend Domain-0)))
=> vif = [ 'ip=1' ]
[pci]
(device (pci (dev (domain 0x0000) (bus 0x0c) (slot 0x1b) (func 0x2) (vdevfn 0x100))))
=> pci = [ '0000:0c:1b.2' ]
(device (pci (dev (bus 0x1) (slot 0x2) (func 0x0) (vslot 0x1f)) (dev (bus 0x1) (slot 0x2) (func 0x1)
(vslt 0x6))))
=> pci = [ '0000:01:02.0@1f', '0000:01:02.1@06' ]
(device (pci (dev (domain 0x1) (bus 0x1) (slot 0x2) (func 0x0) (vdevfn 0x28) (opts ((power_mgmt 1)
(msitranslate 0))))))
=> pci = [ '0001:01:02.0@05,msitranslate=0,power_mgmt=1' ]
(device (pci (dev (bus 1) (slot 10) (func 0) (opts (permissive 1)))))
=> pci = [ '0000:01:10.0,permissive=1' ]
image: (pci ())
=>
[ioports]
(device (ioports (from 0x3f8) (to 0x3ff)))(device (ioports (from 0x80) (to 0x80)))
=> ioports = [ '3f8-3ff', '80' ]
(device (ioports (from 128)))
=> ioports = [ '80' ]
[irqs]
(device (irq (irq 18)))(device (irq (irq 0x7)))
=> irqs = [ 18, 7 ]
[vtpm]
(device (vtpm (backend t) (uuid AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA)))
=> vtpm = [ 'backend=t,uuid=aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa' ]
(device (vtpm (backend t)))
=> vtpm = [ 'backend=t' ]
"""
"""Settings of an HVM guest, and those that only PV guests have. A heading is the setting of xl."""

DISKS: Final = """
(dev xvda) (uname phy:vg/a) (mode w)
=> format=raw, vdev=xvda, access=rw, target=/dev/vg/a
(dev xvda) (uname phy:/dev/a) (mode r)
=> format=raw, vdev=xvda, access=ro, target=/dev/a
(dev /dev/sda1:disk) (uname file:/a) (mode 'r!')
=> format=raw, vdev=sda1, access=ro, target=/a
(dev ioemu:hda) (uname file:/a)
=> format=raw, vdev=hda, access=ro, target=/a
(dev ioemu:/dev/hda:disk) (uname 'file:/a b,') (mode w)
=> format=raw, vdev=hda, access=rw, target=/a b,,
(dev hdc:cdrom) (uname file:/i) (mode r)
=> format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/i
(dev hdc:cdrom) (uname '') (mode r)
=> format=empty, vdev=hdc, access=ro, devtype=cdrom
(dev hdc:cdrom) (uname None)
=> format=empty, vdev=hdc, access=ro, devtype=cdrom
(dev hdc:cdrom) (uname phy:)
=> format=empty, vdev=hdc, access=ro, devtype=cdrom
(dev hdc:cdrom)
=> format=empty, vdev=hdc, access=ro, devtype=cdrom
(dev a) (uname nbd:x) (mode w)
=> format=raw, vdev=a, access=rw, script=block-nbd, target=x
(dev a) (uname nbd:x) (mode w) (backend d)
=> format=raw, vdev=a, access=rw, script=block-nbd, backend=d, target=x
(dev a) (uname phy:/x) (mode w) (backend Domain-0)
=> format=raw, vdev=a, access=rw, target=/x
(dev a) (uname phy:/x) (bootable 0) (bootable 1) (driver ioemu) (protocol x) (VDI v) (uuid u)
=> format=raw, vdev=a, access=ro, target=/x
"""

VFBS: Final = """
(type vnc)
=> vnc=1
(type sdl) (opengl 1) (display :1) (xauthority /x)
=> sdl=1,opengl=1,display=:1,xauthority=/x
(vnc 1) (sdl 0) (display :1)
=> vnc=1,sdl=0
(keymap de) (vncpasswd p) (vncunused 1) (vncdisplay 3) (vnclisten 1.1.1.1) (vnc 1) (location x:1)
(uuid u)
=> vnc=1,vnclisten=1.1.1.1,vncdisplay=3,vncunused=1,vncpasswd=p,keymap=de
(uuid u)
=>
"""

LOST: Final = """
(description 'a b')
=> description
(on_xend_start start) (on_xend_stop ignore)
=> on_xend_start
(features x) image: (fda /x) (isa 1) (parallel none) (monitor 0)
=> features
=> image/fda
=> image/isa
image: (superpages 1) (s3_integrity 1) (guest_os_type default) (vncconsole 0)
=> image/superpages
=> image/s3_integrity
(nonsense (a b)) (more 0)
=> nonsense
(security (access_control (policy p)))
=> security
(security_label ACM:a:b)
=> security_label: of ACM, which Xen has no more
(ssidref 0)
=>
(ssidref 7)
=> ssidref
(cpuid_check ((1 ((ecx x)))))
=> cpuid_check
(cpuid ((1 ((ecx x)))))
=> cpuid: not understood: a list
(cpuid nonsense)
=> cpuid: not understood: nonsense
(uuid2 x)
=> uuid2
(on_reboot never)
=> on_reboot: never, it is destroy
(cpu_weight 0)
=> cpu_weight: 0
(vcpus 0)
=> vcpus: 0
(vcpus 4097)
=> vcpus: 4097
(vcpus x)
=> vcpus: not a number: x
(vcpus 2) (vcpu_avail x)
=> vcpu_avail: not a number: x
(maxmem x)
=> maxmem: not a number: x
(maxmem -1)
=> maxmem: negative: -1
(bootloader_args -q)
=> bootloader_args: there is no bootloader
(pool_name (a b))
=> pool_name: a list where a string was expected
(pool_name 'a\\0')
=> pool_name: a byte 0 in it
image: (timer_mode 4)
=> image/timer_mode: unknown: 4
image: (tsc_mode -1)
=> image/tsc_mode: unknown: -1
image: (acpi maybe)
=> image/acpi: not a number: maybe
image: (sdl maybe) (display :0)
=> image/sdl: not a number: maybe
=> image/display: not a number: maybe
image: (kernel /usr/lib/xen/boot/hvmloader) (loader /x)
=>
image: (kernel /k) (args a)
=> image/kernel: of an HVM guest
=> image/args: of an HVM guest
image: (device_model /usr/lib/xen/bin/stubdom-dm)
=> image/device_model: in a stub domain
(device (vtpm (backend 0)))
=> vtpm in domain 0
(device (vtpm (instance 2)))
=> vtpm in domain 0 (instance 2)
(device (vscsi (a b)))(device (vusb))(device (dummy (x y)))
=> device vscsi
=> device vusb
=> device dummy
(vif x) (device (name x))
=> device name
=> vif
(device (console (protocol vt100)))(device (vkbd))
=>
(device (vif (mac m) (accel sfc) (policy p) (type x)))
=> vif m: type: unknown: x
=> vif m: accel
=> vif m: policy
(device (vif (bridge 'a,b')))
=> vif 0: bridge: a comma in it
(device (vif (rate x)))
=> vif 0: rate: not a rate: x
(device (vif (rate 0KB/s)))
=> vif 0: rate: out of range: 0KB/s
(device (vif (rate 1KB/s@9999999s)))
=> vif 0: rate: out of range: 1KB/s@9999999s
(device (vfb (vnc 1) (videoram 4) (backend d)))
=> vfb: videoram
=> vfb: backend
(device (vfb (vnc 1)))(device (vfb (vnc 1)))
=> vfb 1: an HVM guest has one
(device (pci (backend d) (dev (bus 0x1) (slot 0x20) (func 0x0))))
=> pci: backend
=> pci: slot 0x20
(device (pci (dev (bus 0x1) (slot 0x2))))
=> pci: func missing
(device (pci (dev (bus 1) (slot 2) (func 0) (opts ((a 1))) (b 1))))
=> pci 0000:01:02.0: a
=> pci 0000:01:02.0: b
(device (ioports (from 5) (to 4)))
=> ioports: 0x5 to 0x4
(device (ioports (from 0x10000)))
=> ioports: 0x10000 to 0x10000
(device (irq (irq x)))
=> irq: not a number: x
(device (vbd (uname file:/a)))
=> disk: no name that xl can read, disk left out
(device (vbd (dev 'a,b') (uname file:/a)))
=> disk a,b: no name that xl can read, disk left out
(device (vbd (dev a) (uname '')))
=> disk a: nothing in it, disk left out
(device (vbd (dev a) (uname tap:vmdk:/x)))
=> disk a: tap format vmdk has no xl equivalent, disk left out
(device (vbd (dev a) (uname tap:/x)))
=> disk a: tap format /x has no xl equivalent, disk left out
(device (vbd (dev a) (uname what:/x)))
=> disk a: what has no xl equivalent, disk left out
(device (vbd (dev a) (uname /x)))
=> disk a: /x has no xl equivalent, disk left out
(device (vbd (dev a) (uname 'file:/a\\nb')))
=> disk a: a line break in its path, disk left out
(device (vbd (dev a) (uname 'file:/a\\0b')))
=> disk a: a byte 0 in it, disk left out
(device (vbd (dev a) (uname (b c))))
=> disk a: a list where a string was expected, disk left out
(device (vbd (dev a:floppy) (uname file:/a) (mode x) (q 1)))
=> disk a: mode x, it is read-only
=> disk a: its kind floppy
=> disk a: q
(device (vbd (dev a) (uname file:/a) (backend 'd,e')))
=> disk a: backend: a comma in it
"""
"""Of an HVM guest; the lines are what is not carried."""
