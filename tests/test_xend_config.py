"""Configurations of xend become what containers.md 9.5 says, and xl's own parsers read every one of them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import libxlutil
import plain.sxp
import pytest
from drawn import drawn
from hypothesis import given
from hypothesis import strategies as st
from xend_cases import DISKS, FLAGS, FLAGS_LEFT_OUT, LOST, VFBS, Case, cases
from xend_cases import ROWS as ROWS_TABLE

from xenmig_np.carriers.config import xlcfg
from xenmig_np.carriers.config.keys import ROWS, SILENT
from xenmig_np.carriers.config.secrets import mask_secrets
from xenmig_np.carriers.config.sxp import ENTRIES_MAX, decode, parse
from xenmig_np.carriers.config.translate import XlConfig, translate
from xenmig_np.errors import InvalidImage

SAMPLES = Path(__file__).parents[2] / "shared" / "samples" / "sxp"
PAIRS: Final = (
    "hvm-disks-emptycd",
    "hvm-libvirt-style",
    "hvm-xen31-basic",
    "hvm-xen4-windows",
    "pv-dropped-devices",
    "pv-pci-ioports",
    "pv-pygrub-args",
    "pv-quoting",
    "pv-smp-vfb",
    "pv-xen30-minimal",
)
NOT_CARRIED = b"# not carried: "
SECONDS = 20
LARGE = 1 << 20
KEYS: Final = [row.xl for row in ROWS]


def converted(text: bytes | str, **options: Any) -> XlConfig:
    return translate(parse(text.encode() if isinstance(text, str) else text), **options)


def settings(config: XlConfig) -> list[bytes]:
    """The lines of the text without comments."""
    return [line for line in config.text.splitlines() if not line.startswith(b"#")]


def pv(inner: str = "", image: str = "") -> XlConfig:
    return converted(f"(domain (name a) (uuid {'0' * 32}) (memory 1) (image (linux {image})) {inner})")


def hvm(inner: str = "", image: str = "") -> XlConfig:
    return converted(f"(domain (name a) (uuid {'0' * 32}) (memory 1) (image (hvm {image})) {inner})")


def only(config: XlConfig, *keys: str) -> list[str]:
    """The lines that set these."""
    return [line.decode() for line in settings(config) if line.split(b" ")[0].decode() in keys]


def xl_reads(config: XlConfig) -> dict[str, bytes | list[bytes]]:
    """What xl's parsers make of it; they refuse nothing, and see what is meant."""
    found = libxlutil.read(config.text, KEYS)
    assert {key for key, value in found.items() if value != []} == {key for key, _ in xlcfg.read(config.text)}
    for item in found.get("disk", []):
        assert isinstance(item, bytes)
        disk = libxlutil.disk(item)
        assert disk.format == item.partition(b",")[0].removeprefix(b"format=").decode()
        assert disk.cdrom == (b" devtype=cdrom" in item.partition(b" target=")[0])
        assert disk.writable == (b" access=rw," in item and not disk.cdrom)
        target = item.partition(b", target=")[2]
        assert (disk.path or b"") == (target[:-1] if target.endswith(b",,") else target.removesuffix(b","))
    for item in found.get("pci", []):
        assert isinstance(item, bytes)
        libxlutil.pci(item)
    for item in found.get("vif", []):
        assert isinstance(item, bytes)
        for part in item.split(b","):
            if part.startswith(b"rate="):
                libxlutil.rate(part.removeprefix(b"rate="))
    return found


# ---- the samples -----------------------------------------------------------------------------------------


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[bytes, bytes]:
    if not SAMPLES.is_dir():
        pytest.skip(f"no samples: {SAMPLES}")
    return tuple((SAMPLES / f"{request.param}.{end}").read_bytes() for end in ("sxp", "cfg"))  # type: ignore[return-value] # two


def test_pairs_are_all_there_are() -> None:
    if not SAMPLES.is_dir():
        pytest.skip(f"no samples: {SAMPLES}")
    assert {path.stem for path in SAMPLES.glob("*.sxp")} == set(PAIRS)


def test_samples(pair: tuple[bytes, bytes]) -> None:
    given, expected = pair
    config = converted(given)
    lines = expected.splitlines()
    assert settings(config) == [line for line in lines if not line.startswith(b"#")]
    assert {what.encode() for what in config.lost} == {
        line.removeprefix(NOT_CARRIED) for line in lines if line.startswith(b"#")
    }
    assert [note.text for note in config.notes] == [f"not carried: {what}" for what in config.lost]


def test_xl_reads_the_samples(pair: tuple[bytes, bytes]) -> None:
    libxlutil.needed()
    config = converted(pair[0])
    assert xl_reads(config)["name"] == (config.name or "").encode()


# ---- every row -------------------------------------------------------------------------------------------

FLAG_CASES: Final = [
    *(Case(key, "", f"({key} 0)", (f"{key} = 0",)) for key in FLAGS),
    *(Case(key, f"({key} 1)", f"({key} '')", (f"{key} = 1",)) for key in FLAGS),
    *(Case(key, f"({key} 0)", f"({key} True)", (f"{key} = 1",)) for key in (*FLAGS, *FLAGS_LEFT_OUT)),
    *(Case(key, "", f"({key} 0)", ()) for key in FLAGS_LEFT_OUT),
]
ROW_CASES: Final = [*cases(ROWS_TABLE), *FLAG_CASES]
FORMAT_CASES: Final = [
    *((f"tap:{driver}:/i", "format=raw", "/i") for driver in ("aio", "sync", "ram", "raw", "tapdisk:aio")),
    *((f"tap:{server}:/i", "format=raw", "/i") for server in ("ioemu", "tapdisk")),
    *(
        (f"{outer}:{form}:/i", f"format={form}", "/i")
        for form in ("qcow", "qcow2", "vhd")
        for outer in ("tap", "tap2", "tap:tapdisk", "tap:ioemu", "tap2:tapdisk")
    ),
    *((f"{kind}:x", f"format=raw, script=block-{kind}", "x") for kind in ("drbd", "iscsi", "nbd", "enbd")),
]
PV_ONLY: Final = {row.xl for row in ROWS if row.guest == "pv"}


def test_every_row_has_a_case() -> None:
    assert {case.heading for case in ROW_CASES} | {"disk", "vfb"} == {row.xl for row in ROWS}


@pytest.mark.parametrize("case", ROW_CASES, ids=lambda case: case.heading)
def test_row(case: Case) -> None:
    config = (pv if case.heading in PV_ONLY else hvm)(case.top, case.image)
    assert only(config, case.heading) == list(case.lines)
    libxlutil.needed()
    xl_reads(config)


@pytest.mark.parametrize("kind", ["vbd", "tap", "tap2"])
@pytest.mark.parametrize("case", list(cases(DISKS)))
def test_disk(kind: str, case: Case) -> None:
    config = hvm(f"(device ({kind} {case.top}))")
    assert only(config, "disk") == [f"disk = [ '{case.lines[0]}' ]"]
    assert config.lost == (("disk sda1: forced sharing mode r!",) if "r!" in case.top else ())
    libxlutil.needed()
    xl_reads(config)


@pytest.mark.parametrize(("uname", "form", "path"), FORMAT_CASES)
def test_format_of_disk(uname: str, form: str, path: str) -> None:
    config = hvm(f"(device (tap (dev a) (uname {uname}) (mode w)))")
    made, _, script = form.partition(", ")
    parts = (made, "vdev=a", "access=rw", script, f"target={path}")
    assert only(config, "disk") == [f"disk = [ '{', '.join(filter(None, parts))}' ]"]
    libxlutil.needed()
    xl_reads(config)


@pytest.mark.parametrize("case", list(cases(VFBS)))
def test_vfb(case: Case) -> None:
    config = pv(f"(device (vfb {case.top})) (device (vkbd (backend 0)))")
    assert only(config, "vfb") == [f"vfb = [ '{''.join(case.lines)}' ]"]
    assert config.lost == ()
    assert not only(hvm(f"(device (vfb {case.top}))"), "vfb")


def test_keys_come_in_the_order_of_the_table() -> None:
    config = hvm(
        "(device (irq (irq 1)))(device (vbd (dev a) (uname file:/a)))(device (vif (mac m))) (on_crash x)",
        "(vnc 1) (acpi 1)",
    )
    keys = [key for key, _ in xlcfg.read(config.text)]
    assert keys == [key for key in KEYS if key in keys]


def test_bootable_disk_comes_first_where_a_bootloader_boots() -> None:
    disks = "".join(
        f"(device (vbd (dev {name}) (uname file:/{name}) (bootable {bootable})))"
        for name, bootable in (("a", 0), ("b", 1), ("c", 0))
    )
    assert re.findall("vdev=(.)", only(pv(disks + "(bootloader b)"), "disk")[0]) == ["b", "a", "c"]
    assert re.findall("vdev=(.)", only(pv(disks), "disk")[0]) == ["a", "b", "c"]
    assert re.findall("vdev=(.)", only(hvm(disks + "(bootloader b)"), "disk")[0]) == ["a", "b", "c"]


@pytest.mark.parametrize("cdrom", ["/dev/cdrom", "file:/dev/cdrom", "phy:cdrom"])
def test_cdrom_of_xen_3_0(cdrom: str) -> None:
    item = "format=raw, vdev=hdc, access=ro, devtype=cdrom, target=/dev/cdrom"
    assert only(hvm("", f"(cdrom {cdrom})"), "disk") == [f"disk = [ '{item}' ]"]
    with_hdc = hvm("(device (vbd (dev ioemu:hdc) (uname file:/a)))", f"(cdrom {cdrom})")
    assert re.findall("target=([^']*)", only(with_hdc, "disk")[0]) == ["/a"]


# ---- rates -----------------------------------------------------------------------------------------------


@drawn(300)
@given(st.integers(0, (1 << 33)), st.integers(0, 1 << 33))
def test_stored_rates_come_back(size: int, usec: int) -> None:
    """xl makes of the text what xend had stored, but for the fraction of a byte per second."""
    config = hvm(f"(device (vif (mac m) (rate '{size},{usec}')))")
    rate = re.search(r"rate=([^']*)", only(config, "vif")[0])
    if rate is None:
        unlimited = usec == 0 or size >= (1 << 32) - 1
        assert unlimited == (not config.lost)
        assert unlimited or usec >= 1 << 32 or not 0 < size * 10**6 // usec // 1000 < 1 << 32
        return
    libxlutil.needed()
    bytes_per_interval, interval = libxlutil.rate(rate[1].encode())
    assert interval == usec
    unit = 1000 if "K" in rate[1] else 1
    assert 0 <= size - bytes_per_interval <= unit * usec // 10**6 + 1


def test_stored_rate() -> None:
    def rate(stored: str) -> list[str]:
        return only(hvm(f"(device (vif (mac m) (rate '{stored}')))"), "vif")

    assert rate("1250000,50000") == ["vif = [ 'mac=m,rate=25000000B/s@50000us' ]"]
    assert rate("4294967294,1000") == ["vif = [ 'mac=m,rate=4294967294KB/s@1000us' ]"]
    assert rate("4294967294,999") == ["vif = [ 'mac=m' ]"]
    assert hvm("(device (vif (rate '4294967295,1000000')))").lost == ()  # no limit
    assert rate("4294967295,1000000") == ["vif = [ 'mac=m' ]"]


@pytest.mark.parametrize(
    "rate", ["10240KB/s", "1Gb/s", "5b/s@1s", "8MB/s@50", "1KB/s@20ms", "4294967295B/s@7us"]
)
def test_rates_in_words(rate: str) -> None:
    config = hvm(f"(device (vif (rate {rate})))")
    assert only(config, "vif") == [f"vif = [ 'rate={rate}' ]"]
    libxlutil.needed()
    xl_reads(config)


# ---- what is lost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", list(cases(LOST)), ids=lambda case: " ".join(case.lines))
def test_lost(case: Case) -> None:
    config = hvm(case.top, case.image)
    assert config.lost == case.lines
    comments = [line.decode() for line in config.text.splitlines() if line.startswith(b"#")]
    assert comments == [f"# not carried: {what}" for what in case.lines]
    assert [note.text for note in config.notes] == [f"not carried: {what}" for what in case.lines]
    libxlutil.needed()
    xl_reads(config)


def test_arguments_without_end() -> None:
    assert hvm(f"(bootloader b) (bootloader_args {'a' * 4097})").lost == ("bootloader_args: 4,097 bytes",)


@pytest.mark.parametrize("key", sorted(SILENT))
def test_reports_are_dropped_silently(key: bytes) -> None:
    assert hvm(f"({key.decode()} 77)", f"({key.decode()} (a b))").lost == ()


def test_bootloader_takes_its_copies_with_it() -> None:
    copies = "temporary copies made by the bootloader"
    assert pv("(bootloader b)", "(kernel k) (ramdisk r)").lost == (f"image/kernel, image/ramdisk: {copies}",)
    assert pv("(bootloader b)", "(kernel k)").lost == (f"image/kernel: {copies}",)
    assert pv("(bootloader b)").lost == ()


def test_settings_of_hvm_guests_are_nothing_to_a_pv_guest() -> None:
    config = pv("", "(acpi 1) (vnc 1) (timer_mode 2) (display :0) (boot c) (serial pty)")
    assert config.lost == ()
    assert {key for key, _ in xlcfg.read(config.text)} == {"name", "uuid", "type", "memory", "maxmem"}


def test_a_loss_is_one_line_and_no_secret() -> None:
    config = hvm("(device (vfb (vncpasswd (se cret)))) ('od\\nd\\x1b' 1)", "(acpi 'x\\ny')")
    assert config.lost == (
        "image/acpi: not a number: x\\x0ay",
        "vncpasswd: a list where a string was expected",
        "od\\x0ad\\x1b",
    )
    assert b"cret" not in config.text


# ---- what it is about ------------------------------------------------------------------------------------


def test_identity() -> None:
    uuid = "abcdef00-1111-2222-3333-444455556666"
    config = converted(
        b"(vm (name 'ma\\xc3\\xaf')(uuid ABCDEF00-1111-2222-3333-444455556666)(image (linux))(memory 1))"
    )
    assert (config.name, config.uuid, config.guest) == ("maï", uuid, "pv")
    assert b"name = 'ma\xc3\xaf'\n" in config.text
    assert config.notes == ()


def test_what_is_missing_is_told() -> None:
    config = converted("(domain (uuid x))")
    assert (config.name, config.uuid) == (None, None)
    assert settings(config) == [b"type = 'pv'"]
    assert [note.text for note in config.notes] == [
        "not carried: uuid: not a UUID: x",
        "image absent, taken for PV",
        "there is no name, and xl needs one",
        "there is no uuid: xl makes one at each restore",
        "there is no memory size",
    ]


@pytest.mark.parametrize(
    ("text", "guest"),
    [
        ("(domain (image (hvm)))", "hvm"),
        ("(domain (image (vmx (boot c))))", "hvm"),
        ("(domain (image hvm))", "hvm"),
        ("(domain (image (linux)) (boot c))", "pv"),
        ("(domain (boot c))", "hvm"),
        ("(domain (HVM_boot 'BIOS order'))", "hvm"),
        ("(domain (image (other)) (boot c))", "hvm"),
        ("(domain (image ((a b))))", "pv"),
        ("(domain)", "pv"),
    ],
)
def test_guest(text: str, guest: str) -> None:
    config = converted(text)
    assert config.guest == guest
    assert [line.decode() for line in settings(config)[:2] if b"type" in line or b"builder" in line] == (
        ["builder = 'hvm'", "type = 'hvm'"] if guest == "hvm" else ["type = 'pv'"]
    )


@pytest.mark.parametrize(
    ("inner", "pages", "memory", "maxmem", "raised"),
    [
        ("(memory 96) (maxmem 128)", 0, 96, 128, False),
        ("(memory 96) (maxmem 128)", 128 * 256, 96, 128, False),
        ("(memory 96) (maxmem 128)", 128 * 256 + 1, 96, 129, True),
        ("(memory 96) (maxmem 64)", 0, 96, 96, False),
        ("(memory 96)", 0, 96, 96, False),
        ("(maxmem 96)", 0, 96, 96, False),
        ("(memory_dynamic_max 67108864) (memory_static_max 134217728)", 0, 64, 128, False),
        ("(memory 96) (memory_dynamic_max 67108864)", 0, 96, 96, False),
    ],
)
def test_memory(inner: str, pages: int, memory: int, maxmem: int, raised: bool) -> None:  # noqa: FBT001 - a column
    config = converted(f"(domain (name a) (uuid {'0' * 32}) (image (linux)) {inner})", pages=pages)
    assert only(config, "memory", "maxmem") == [f"memory = {memory}", f"maxmem = {maxmem}"]
    remark = f"maxmem raised from 128 to 129: the image has {pages:,} pages"
    assert [note.text for note in config.notes] == ([remark] if raised else [])
    assert (b"# " + remark.encode() in config.text) == raised


def test_pages_alone_give_room() -> None:
    config = converted("(domain (name a) (image (linux)))", pages=1000)
    assert only(config, "memory", "maxmem") == ["maxmem = 4"]


def test_releases_without_the_old_device_model() -> None:
    text = f"(domain (name a) (uuid {'0' * 32}) (memory 1) (image (hvm)))"
    assert only(converted(text, release=(4, 20)), "device_model_version")
    config = converted(text, release=(4, 21))
    assert not only(config, "device_model_version")
    assert [note.text for note in config.notes] == [
        "no device_model_version: that Xen lacks qemu-xen-traditional, whose state the image has"
    ]


@pytest.mark.parametrize(("mask", "online"), [(0, 4), (5, 2), (14, 3), (16, 4)])
def test_vcpus_that_xl_would_choose_otherwise(mask: int, online: int) -> None:
    config = hvm(f"(vcpus 4) (vcpu_avail {mask})")
    assert only(config, "vcpus", "maxvcpus") == [f"vcpus = {online}", "maxvcpus = 4"]
    (note,) = config.notes
    assert note.text == f"vcpu_avail {mask & 15:#x}: xl counts online vCPUs, it does not know which"


def test_first_value_of_a_key_counts() -> None:
    assert only(hvm("(cpu_cap '') (cpu_cap 5) (cpu_cap 7)"), "cap") == ["cap = 5"]
    assert only(hvm("(boot c)", "(boot d)"), "boot") == ["boot = 'd'"]
    assert only(hvm("(cpu_cap 1)", "(cpu_cap 2)"), "cap") == ["cap = 1"]


@pytest.mark.parametrize("text", ["()", "(a)", "((domain))", "(Domain)"])
def test_other_expressions(text: str) -> None:
    with pytest.raises(InvalidImage) as refused:
        translate(parse(text.encode(), path="old", offset=20))
    assert (refused.value.path, refused.value.offset) == ("old", 20)


def test_notes_know_where_the_configuration_is() -> None:
    notes = translate(parse(b"(domain (description x)", offset=20)).notes
    assert {note.offset for note in notes} == {20, 43}


def test_importing_it_is_cheap() -> None:
    code = (
        "import sys, xenmig_np.carriers.config.translate, xenmig_np.carriers.config.secrets;"
        "print('numpy' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code]) == b"False\n"


# ---- anything --------------------------------------------------------------------------------------------

VALUES: Final = [
    *b"0 1 -1 -3600 True None x it's a,b /a # ] [ 1250000,50000 10KB/s file:/a, phy:a".split(),
    *b"tap:vhd:/a tap:aio: hdc:cdrom xvda 0x3f8 99999999999999999999 1.5 vnc sdl vif-bridge r w! '".split(),
    *(b"nbd:x,", b"\\", b"", b"/a b", b"\xff\xfe", b"a\nb", b"a\0b", b"9" * 400),
]
KNOWN: Final = sorted({key for row in ROWS for key in row.keys} | {b"HVM_boot", b"unknown"})
DEVICES: Final = b"vif vbd tap tap2 vfb pci irq ioports vtpm vscsi vkbd".split()
DEVICE_KEYS: Final = (
    b"dev uname mode bootable backend mac bridge rate ip type script vnc vncpasswd sdl display irq from to"
    b" uuid bus slot func opts vdevfn".split()
)
PCI_KEYS: Final = b"domain bus slot func vdevfn".split()

some = st.sampled_from(VALUES)
values: st.SearchStrategy[Any] = st.recursive(
    some | st.binary(max_size=8), lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6
)
pci_numbers = st.tuples(
    *(st.integers(0, limit).map(lambda number: b"0x%x" % number) for limit in (0xFFFF, 0xFF, 0x1F, 7, 0x1FF))
)
pci_options = st.lists(st.tuples(st.sampled_from([b"permissive", b"msitranslate", b"a"]), some)).map(tuple)
pci_devices = st.builds(
    lambda numbers, options: (b"dev", *zip(PCI_KEYS, numbers, strict=True), (b"opts", options)),
    pci_numbers,
    pci_options,
)
devices = st.builds(
    lambda kind, entries: (b"device", (kind, *entries)),
    st.sampled_from(DEVICES),
    st.lists(st.tuples(st.sampled_from(DEVICE_KEYS), values) | pci_devices, max_size=8),
)
pairs = st.lists(st.tuples(st.sampled_from(KNOWN) | st.binary(max_size=4), values) | values, max_size=12)
domains = st.builds(
    lambda top, kind, image, found: (b"domain", *top, (b"image", (kind, *image)), *found),
    pairs, st.sampled_from([b"linux", b"hvm", b"vmx", b"x"]), pairs, st.lists(devices, max_size=5),
)  # fmt: skip


@drawn(600)
@given(domains)
def test_xl_reads_whatever_comes_of_anything(tree: Any) -> None:
    libxlutil.needed()
    xl_reads(converted(plain.sxp.write(tree)))


@drawn(200)
@given(domains)
def test_identity_is_what_is_written(tree: Any) -> None:
    config = converted(plain.sxp.write(tree))
    read = {key: value for key, value in xlcfg.read(config.text) if isinstance(value, bytes)}
    assert config.name == (decode(read["name"]) if "name" in read else None)
    assert config.uuid == (decode(read["uuid"]) if "uuid" in read else None)
    assert config.guest == decode(read["type"])
    assert not re.search(rb"passwd=(?!\*\*\*)", mask_secrets(config.text))


@pytest.mark.parametrize(
    "piece",
    [
        b"(device (vbd (dev a) (uname file:/a) (x y)))",
        b"(device (vfb (vnc 1)))",
        b"(device (pci (dev (bus 1) (slot 1) (func 1))))",
        b"(cpus (1 2 3))",
        b"(x y)",
        b"((a) b)",
    ],
)
def test_as_many_as_there_may_be(piece: bytes) -> None:
    entries = piece.count(b"(") + len(re.findall(rb"[^() ]+", piece))
    data = b"(domain " + piece * ((ENTRIES_MAX - 10) // entries) + b"(image (hvm)))"
    before = time.monotonic()
    config = converted(data)
    assert time.monotonic() - before < SECONDS
    assert config.guest == "hvm"


@pytest.mark.parametrize("key", [row.keys[0].decode() for row in ROWS])
@pytest.mark.parametrize(
    "value", [b"a" * LARGE, b"1" * LARGE, b"'" + b"\\'" * (LARGE // 2) + b"'"], ids=["a", "1", "'"]
)
def test_large_values(key: str, value: bytes) -> None:
    before = time.monotonic()
    converted(b"(domain (bootloader b) (image (hvm)) (%s %s))" % (key.encode(), value))
    assert time.monotonic() - before < SECONDS


@drawn(300)
@given(st.binary(max_size=60).map(lambda text: b"(domain " + text))
def test_nonsense_gives_our_errors_alone(data: bytes) -> None:
    try:
        config = converted(data)
    except InvalidImage:
        return
    assert config.text.endswith(b"\n")
