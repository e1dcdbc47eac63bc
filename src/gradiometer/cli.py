"""The command line: thin verbs over the public surface."""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import gradiometer as gm
from gradiometer.config import Ignored, ignored
from gradiometer.records.diagnosis import SEVERITIES, Severity
from gradiometer.rules.silence import silenced
from gradiometer.store import FOLDER, find, newest

CANNOT_SAY = 2

_out = click.option("--out", default=FOLDER, show_default=True, help="Folder of the runs.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_ignore = click.option(
    "--ignore",
    multiple=True,
    metavar="PATTERN",
    help="Leave out findings of a kind, at sites, or both: dead_units, 'blocks.3.*', 'dead_units:blocks.3.*'. "
    "May be repeated; takes the place of what pyproject.toml ignores.",
)
_fail_on = click.option(
    "--fail-on",
    type=click.Choice(SEVERITIES[1:]),
    help="Exit with 1 if there is a finding of at least this severity, and with 0 if not.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gm.__version__, prog_name="gradiometer")
def main() -> None:
    """Measures the gradients of a PyTorch training and says where and why they are lost.

    Start with:  gradiometer demo      then:  gradiometer run train.py
    """


@main.command()
@_out
def demo(out: str) -> None:
    """Train a network that does not learn and its healthy twin, and see what is found."""
    from gradiometer.experiments.demo import demo as train_and_show

    _or_exit(lambda: train_and_show(Path(out), _console()))


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_out
@click.option("-m", "as_module", is_flag=True, help="Run a module, as python -m does.")
@click.option("--budget", default=0.01, show_default=True, help="Share of the training's time that watching may cost.")
@click.option("--every", type=click.IntRange(min=1), help="Sample every n-th step instead.")
@click.option("--level", type=click.Choice(["full", "parameters"]), default="full", show_default=True)
@_ignore
@_fail_on
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    out: str, ignore: tuple[str, ...], fail_on: Severity | None, script: str, arguments: tuple[str, ...], **options: Any
) -> None:
    """Run SCRIPT unmodified, with its ARGUMENTS, under watch.

    It runs as `python SCRIPT ARGUMENTS` would have run it, with the same output, exit code and tracebacks. What is
    found is printed to standard error at the end; --fail-on turns the exit code 0 of the script into 1.
    """
    from gradiometer.integrations.script import run_script

    def work() -> None:
        left_out = _left_out(ignore)
        failed = False

        def finished(recorded: gm.Run | None) -> None:
            nonlocal failed
            diagnosis = _summarize(script, recorded, left_out)
            failed = bool(fail_on and diagnosis is not None and diagnosis.reaches(fail_on))

        try:
            run_script(script, arguments, folder=out, finished=finished, **options)
        except SystemExit as end:
            if failed and not end.code:
                sys.exit(1)
            raise

    _or_exit(work)


def _summarize(script: str, recorded: gm.Run | None, left_out: Ignored) -> gm.Diagnosis | None:
    from gradiometer.report.text import show

    sys.stdout.flush()
    console = Console(stderr=True)
    console.print()
    if recorded is None:
        console.print(
            f"gradiometer: {script} ended before its first training step: nothing was recorded. A step is seen when an "
            "optimizer of torch.optim steps, or backward() is called on what a module gave. Child processes that the "
            "script starts are not watched.",
        )
        return None
    console.rule("gradiometer", style="dim", align="left")
    diagnosis = _diagnosed(recorded, left_out)
    show(console, diagnosis, recorded)
    console.print(f"\nrun: {recorded.path}", soft_wrap=True, highlight=False)
    return diagnosis


@main.command()
@click.argument("place", metavar="FILE:FUNCTION")
@click.option("--all", "everything", is_flag=True, help="Show every operation, also beside the main path.")
@click.option("--signal", is_flag=True, help="Show the signal on its way forward as well.")
@_ignore
@_fail_on
@_json
def measure(
    place: str, everything: bool, signal: bool, ignore: tuple[str, ...], fail_on: Severity | None, as_json: bool
) -> None:
    """Print what every operation does to the gradient, from the loss to the input.

    FUNCTION, without arguments, returns a model, a batch (inputs, targets) and a loss function. One forward and one
    backward pass is taken; nothing is trained. --fail-on and --ignore also say what ails the network.
    """
    from gradiometer.integrations.factory import setup_of
    from gradiometer.report import propagation, text, waterfall

    def work() -> None:
        left_out = _left_out(ignore)
        reading = gm.measure(*setup_of(place))
        diagnosis = _diagnosed(reading, left_out) if ignore or fail_on else None
        if as_json:
            _print_json(reading.to_dict() | ({"diagnosis": diagnosis.to_dict()} if diagnosis is not None else {}))
        else:
            console = _console(piped=160)
            waterfall.show(console, reading, everything=everything)
            if signal:
                console.print()
                propagation.show(console, reading)
            if diagnosis is not None:
                console.print()
                text.show(console, diagnosis)
        sys.exit(int(bool(fail_on and diagnosis is not None and diagnosis.reaches(fail_on))))

    _or_exit(work, as_json=as_json)


@main.command()
@click.argument("place", metavar="FILE:RECIPE")
@click.option("--remedy", "remedies", multiple=True, metavar="NAME", help="Try this one alone; may be repeated.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of a training; without, those of the recipe.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Trainings of each arm.")
@click.option("--time-limit", type=float, metavar="SECONDS", help="Then the best of what is known is told.")
@click.option("--executor", type=click.Choice(["local", "serial", "ray"]), default="local", show_default=True)
@click.option("--diff", is_flag=True, help="Print the cure as a patch of the source, and the rest to standard error.")
@_json
def prescribe(place: str, remedies: tuple[str, ...], diff: bool, as_json: bool, **options: Any) -> None:
    """Find a cure for a training that does not learn, and prove it beside the untreated one.

    RECIPE is a gradiometer.Recipe, or a function that returns one. Exit code: 0 a cure, or nothing to cure; 1 nothing
    that was tried helped; 2 cannot say.
    """
    from gradiometer.integrations.factory import recipe_of
    from gradiometer.report import prescription, text

    def work() -> None:
        found = gm.prescribe(recipe_of(place), remedies=remedies or None, **options)
        if as_json:
            _print_json(found.to_dict())
        else:
            console = Console(stderr=True) if diff else _console(piped=160)
            text.show(console, found.diagnosis)
            console.print()
            prescription.show(console, found.record)
            for what in found.record.by_hand if diff else ():
                console.print(f"by hand: {what}", style="yellow", highlight=False)
            if diff and found.record.diff:
                prescription.write(_console(), found.record.diff, "diff")
        if found.best is not None:
            sys.exit(0)
        sys.exit(CANNOT_SAY if found.record.cut_short or found.diagnosis.healthy is None else int(bool(found.trials)))

    _or_exit(work, as_json=as_json)


@main.command()
@click.argument("which", metavar="[RUN]", required=False)
@_out
@_ignore
@_fail_on
@_json
def diagnose(which: str | None, out: str, ignore: tuple[str, ...], fail_on: Severity | None, as_json: bool) -> None:
    """Say what ails RUN, a file or a name from `gradiometer runs` (without it the newest).

    Exit code: 0 healthy, 1 findings, 2 cannot say; with --fail-on what could not be said is no failure.
    """
    from gradiometer.report.text import show

    def work() -> None:
        left_out = _left_out(ignore)
        path = find(which, out) if which else _newest(out)
        recorded = _load(path)
        diagnosis = _diagnosed(recorded, left_out)
        if as_json:
            _print_json({"run": str(path), **diagnosis.to_dict()})
        else:
            console = _console()
            show(console, diagnosis, recorded)
            console.print(f"\nrun: {path}", soft_wrap=True, highlight=False)
        if fail_on:
            sys.exit(int(diagnosis.reaches(fail_on)))
        sys.exit({True: 0, False: 1, None: CANNOT_SAY}[diagnosis.healthy])

    _or_exit(work, as_json=as_json)


@main.command()
@_out
@_json
def runs(out: str, as_json: bool) -> None:
    """List the runs of this folder, the newest first, each with its verdict.

    Exit code: 0 if there are any, 2 if there are none.
    """
    rows: list[dict[str, Any]] = []
    _or_exit(lambda: rows.extend(_row(path, _left_out()) for path in newest(out)), as_json=as_json)
    if as_json:
        _print_json(rows)
    elif rows:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("run", "started", "steps", "state", "verdict"):
            table.add_column(name, overflow="fold", no_wrap=name in ("run", "started"))
        for row in rows:
            verdict = "cannot be read" if row["error"] else row["verdict"]
            kinds = ", ".join(f["kind"].replace("_", " ") for f in row["findings"] if f["severity"] != "info")
            verdict += (f": {kinds}" if kinds else "") + (f" ({row['silenced']} silenced)" if row["silenced"] else "")
            started = time.strftime("%m-%d %H:%M", time.localtime(row["started"])) if row["started"] else ""
            state = "" if row["error"] else row["ended"] or ("finished" if row["finished"] else "running, or cut off")
            table.add_row(row["name"], started, str(row["steps"]), state, verdict)
        _console().print(table)
    if not rows:
        click.echo(f"There are no runs in {out}. Make one with: gradiometer run train.py", err=True)
        sys.exit(CANNOT_SAY)


def _row(path: Path, left_out: Ignored) -> dict[str, Any]:
    row: dict[str, Any] = {"run": str(path), "name": path.stem, "started": None, "steps": 0, "finished": False}
    try:
        recorded = _load(path)
        diagnosis = _diagnosed(recorded, left_out)
    except gm.RunError as error:
        unknown = {"ended": "", "healthy": None, "verdict": "cannot say", "silenced": 0, "findings": []}
        return row | unknown | {"error": str(error)}
    return row | {
        "started": recorded.started,
        "steps": recorded.steps,
        "finished": recorded.finished,
        "ended": next((note.partition("ended ")[2] for note in recorded.notes if " ended by " in note), ""),
        "healthy": diagnosis.healthy,
        "verdict": diagnosis.verdict,
        "silenced": diagnosis.silenced,
        "findings": diagnosis.to_dict()["findings"],
        "error": None,
    }


def _left_out(ignore: Sequence[str] = ()) -> Ignored:
    """What is to be silenced; asked for before any work, so that a misspelt kind is told at once."""
    left_out = ignored(ignore or None, by="--ignore")
    silenced(gm.Diagnosis(()), *left_out)
    return left_out


def _diagnosed(what: gm.Reading | gm.Run, left_out: Ignored) -> gm.Diagnosis:
    return silenced(gm.diagnose(what, ignore=()), *left_out)


def _console(piped: int | None = None) -> Console:
    """``piped`` is the width where the output goes to a file and nobody has said how wide it is."""
    # A name or a bar that the terminal has no character for is replaced, and is no reason to fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    given = "COLUMNS" in os.environ or sys.stdout.isatty()
    return Console(width=None if given else piped)


def _newest(out: str) -> Path:
    paths = newest(out)
    if not paths:
        raise gm.NotARunError(f"there are no runs in {out}. Make one with: gradiometer run train.py")
    return paths[0]


def _load(path: Path) -> gm.Run:
    with warnings.catch_warnings():  # what the warning says is among the notes, which are shown
        warnings.simplefilter("ignore", gm.GradiometerWarning)
        return gm.load(path)


def _or_exit(work: Callable[[], object], *, as_json: bool = False) -> None:
    try:
        work()
    except gm.GradiometerError as error:
        if as_json:
            _print_json({"healthy": None, "findings": [], "error": str(error)})
        click.echo(f"gradiometer: {error}", err=True)
        sys.exit(CANNOT_SAY)


def _print_json(data: Any) -> None:
    click.echo(json.dumps(_strict(data), indent=2, allow_nan=False))


def _strict(data: Any) -> Any:
    """JSON knows no NaN and no infinities; they become the texts "nan", "inf" and "-inf"."""
    if isinstance(data, dict):
        return {str(k): _strict(v) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [_strict(v) for v in data]
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    return data
