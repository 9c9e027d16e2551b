"""Which HVM parameters of a legacy image go into PARAMS1 (v2-stream.md 19.6, D14, D18 to D20, D24)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from xenmig_np.errors import Note
from xenmig_np.options import TargetName
from xenmig_np.wire.hvm import HvmParam

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xenmig_np.wire.targets import Target

Param = tuple[HvmParam, int, int]
"""Number in released streams, value, offset of its chunk."""

PAIR: Final = frozenset({HvmParam.IOREQ_SERVER_PFN, HvmParam.NR_IOREQ_SERVER_PAGES})
ACPI_IOPORTS_APPLIED: Final = 1
"""The one value of -10 that a legacy restore applies."""


def put(params: list[Param], param: Param, *, replacing: bool) -> None:
    """Add a parameter; ``replacing``, in later bodies, it takes the place of the last one with its number."""
    places = [index for index, (number, _, _) in enumerate(params) if number is param[0]]
    if replacing and places:
        params[places[-1]] = param
    else:
        params.append(param)


def first_params(
    params: Sequence[Param], target: Target, note: Callable[[Note], None]
) -> list[tuple[int, int]]:
    """(number of the target, value) in order of arrival, less what a legacy restore would not apply.

    What is left out or doubtful is told through ``note``.
    """
    last = {number: value for number, value, _ in params}
    whole_pair = all(last.get(number) for number in PAIR)
    kept = []
    for param in params:
        if why := _left_out(param, whole_pair=whole_pair):
            number, value, at = param
            note(
                Note(
                    why[0], f"HVM parameter {int(number)} ({number.name}) = {value:#x} left out: {why[1]}", at
                )
            )
        else:
            kept.append(param)
    _doubtful(kept, target, note)
    return [(target.param_numbers.get(number, number), value) for number, value, _ in kept]


def _left_out(param: Param, *, whole_pair: bool) -> tuple[str, str] | None:
    """Row and reason, or None."""
    number, value, _ = param
    if number in PAIR and not (whole_pair and value):
        return "D19", "it counts only with its pair, both not zero"
    if number is HvmParam.ACPI_IOPORTS_LOCATION and value != ACPI_IOPORTS_APPLIED:
        return "D18", "Xen applied only the value 1"
    if not value:
        return ("D20" if number is HvmParam.X87_FIP_WIDTH else "D24"), "zero means absent"
    return None


def _doubtful(params: Sequence[Param], target: Target, note: Callable[[Note], None]) -> None:
    numbers = {number: at for number, _, at in params}
    for number in target.params_recent & numbers.keys():
        text = f"HVM parameter {int(number)} ({number.name}): the first releases of {target.name} refuse it"
        note(Note("D20", text, numbers[number]))
    if (at := numbers.get(HvmParam.VM_GENERATION_ID_ADDR)) is None:
        return
    if target.name is TargetName.DRAFT_V7:
        text = "the generation id goes out as parameter 32, which released Xens take for another thing"
        note(Note("D14", text, at))
    if not PAIR & numbers.keys():
        text = "the generation id may be that of Xen 4.2 to 4.4, which later firmware does not use"
        note(Note("legacy 3, -14", text, at))
