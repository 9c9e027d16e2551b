"""``xenmig-np verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from xenmig_np.cli import terminal
from xenmig_np.cli.guard import guarded
from xenmig_np.cli.options import (
    GuestOption,
    JsonOption,
    ProgressOption,
    QuietOption,
    SkipOption,
    WidthOption,
)
from xenmig_np.cli.parts import PartOption, hinted, joined
from xenmig_np.cli.progress import progress as progress_of
from xenmig_np.errors import ExitCode, UsageError, XenmigError

if TYPE_CHECKING:
    from xenmig_np.io.source import Input
    from xenmig_np.verification.run import Report


@guarded
def verify(
    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUT...", help="Files; - is stdin.")] = None,
    level: Annotated[
        str,
        typer.Option(
            metavar="reference|restore",
            help="reference: the checks of Xen's own verifier; restore: what a released Xen refuses too.",
        ),
    ] = "restore",
    release: Annotated[
        str | None,
        typer.Option("--for", metavar="RELEASE", help="Release of Xen that must take it, 4.6 to 4.22."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings make an input bad too.")] = False,
    max_findings: Annotated[int, typer.Option(min=1, help="Stop an input after so many.")] = 100,
    original: Annotated[
        str | None,
        typer.Option("--against", metavar="ORIGINAL", help="Prove that INPUT says what this image says."),
    ] = None,
    progress: ProgressOption = None,
    rules: Annotated[bool, typer.Option("--rules", help="Print the table of rules.")] = False,
    width: WidthOption = None,
    guest: GuestOption = None,
    skip: SkipOption = 0,
    part: PartOption = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Check v2 or v3 streams, or legacy images."""
    if rules:
        _rules()
        return
    if not inputs:
        raise UsageError("no INPUT", hint="name files, or - for stdin")
    if part and len(inputs) != 1:
        raise UsageError("--part goes with one INPUT", found=f"{len(inputs)} of them")
    about = {"width": width, "guest": guest, "skip": skip}
    if original is not None:
        _against(inputs, original, part, about, progress=progress, quiet=quiet, as_json=json)
        return
    asked = {"level": level, "release": release, "max_findings": max_findings, **about}
    code, reports = _each([joined(path, part) for path in inputs], asked, strict, told=not (quiet or json))
    if json:
        terminal.result_json({"schema": "xenmig-np/verify", "schema_version": 1, "inputs": reports})
    raise typer.Exit(code)


def _each(
    inputs: list[Input], asked: dict[str, Any], strict: bool, *, told: bool
) -> tuple[ExitCode, list[dict[str, Any]]]:
    """Check one after another: the exit code and what is to be reported of each."""
    from xenmig_np.verification.run import verify as run  # noqa: PLC0415 - brings numpy

    code = ExitCode.DONE
    reports = []
    for source in inputs:
        try:
            report = run(source, **asked)
        except UsageError:
            raise
        except XenmigError as failure:
            terminal.error(failure)
            reports.append(failure.to_dict())
            code = _worse(code, failure.exit_code)
            continue
        reports.append(report.to_dict())
        if told:
            _tell(report, strict=strict)
        if not report.good(strict=strict):
            code = ExitCode.INVALID
    return code, reports


def _against(
    inputs: list[str],
    original: str,
    part: list[str] | None,
    about: dict[str, Any],
    *,
    progress: bool | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Compare with the original; exit code 1 if it must not be deleted."""
    if len(inputs) != 1:
        raise UsageError("--against compares one INPUT", found=f"{len(inputs)} of them")
    from xenmig_np.verification.run import compare  # noqa: PLC0415 - brings numpy

    with progress_of(inputs[0], wanted=False if quiet else progress) as told, hinted(original, part):
        made = compare(inputs[0], joined(original, part), progress=told, **about)
    if as_json:
        terminal.result_json(made.to_dict())
    elif not quiet:
        for difference in made.differences:
            terminal.result(f"difference: {made.path}: {difference}")
        for note in made.left_out:
            terminal.result(f"left out: {note.text} [{note.rule}]")
        terminal.result(f"{made.path}: {made.verdict}")
    raise typer.Exit(ExitCode.DONE if made.deletable else ExitCode.INVALID)


def _worse(code: ExitCode, other: ExitCode) -> ExitCode:
    """A bad input outweighs one that could not be looked at."""
    return code if code is ExitCode.INVALID else other


def _tell(report: Report, *, strict: bool) -> None:
    for finding in report.findings:
        terminal.result(f"{finding.severity.name.lower()}: {finding}")
    counts = [terminal.plural(report.errors, "error"), terminal.plural(report.warnings, "warning")]
    if report.cut:
        terminal.result(f"{report.path}: more findings are not shown (--max-findings)")
    verdict = "good" if report.good(strict=strict) else "bad"
    what = f"{terminal.plural(report.records, 'record')}, {terminal.plural(report.pages, 'page')}"
    terminal.result(f"{report.path}: {verdict}: {report.kind}, {what}, {', '.join(counts)}")


def _rules() -> None:
    from xenmig_np.verification.rules import table  # noqa: PLC0415 - brings numpy

    for row in table():
        terminal.result(
            f"{row.id:<6} {row.severity.name.lower():<8} {row.level:<10} {row.section:<22} {row.text}"
        )
