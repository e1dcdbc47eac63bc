"""Runs somebody's unmodified script under watch, as ``python script.py`` would have run it."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import os
import signal
import sys
import types
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import gradiometer
from gradiometer.errors import InputError
from gradiometer.probe.watch import check_options, watch_anything
from gradiometer.records import Run
from gradiometer.store import FOLDER, RunWriter, free_path

_HERE = str(Path(gradiometer.__file__).parent) + os.sep


def run_script(
    target: str,
    arguments: Sequence[str],
    *,
    as_module: bool = False,
    folder: str | os.PathLike[str] = FOLDER,
    budget: float = 0.01,
    every: int | None = None,
    level: str = "full",
    finished: Callable[[Run | None], None],
) -> NoReturn:
    """Runs a script or a module as the main program, records its training, and ends as it would have ended.

    Args:
        target: path of a script, or with ``as_module`` the name of a module or package, as for ``python -m``.
        arguments: what the script shall find behind its name in ``sys.argv``.
        as_module: whether ``target`` is a module.
        folder: where the run is written.
        budget, every, level: as for `gradiometer.watch`.
        finished: told the run when the script has ended, in whichever way; ``None`` if it never trained.

    Returns:
        never: ends the process with the script's own exit code, exception or signal.

    Raises:
        InputError: the script or module does not exist.
        RunError: the folder cannot be written.
        SystemExit: at the script's end.
    """
    check_options(budget, every, level)
    main, code = _module(target) if as_module else _script(target)
    # Absolute: the script may change its working folder, and the run belongs where it was started.
    path = free_path(Path(folder).absolute(), target if as_module else Path(target).stem)
    writer = RunWriter(
        path, {"script": target, "arguments": list(arguments), "level": level, "budget": budget, "every": every}
    )
    probe = watch_anything(writer, budget=budget, every=every, level=level)
    sys.argv = [main.__file__ if as_module and main.__file__ else target, *arguments]
    sys.path[0] = str(Path.cwd()) if as_module else str(Path(target).resolve().parent)
    sys.modules["__main__"] = main
    error: BaseException | None = None
    try:
        exec(code(), main.__dict__)
    except BaseException as raised:
        error = raised
        if not isinstance(error, SystemExit):
            writer.note(f"the script ended by {type(error).__name__}")
    probe.stop()
    # A second Ctrl-C while the run is being read would lose the summary, and nothing else.
    # Nor may a fault of ours take the place of the script's own end.
    with contextlib.suppress(KeyboardInterrupt):
        try:
            finished(_kept(writer))
        except Exception as fault:
            print(f"gradiometer could not sum up the run {writer.path}: {fault!r}", file=sys.stderr)
    _end(error)


def _kept(writer: RunWriter) -> Run | None:
    """The run, unless nothing came to be recorded; an empty file is of no use to anybody."""
    run = writer.run()
    if len(run.readings) or run.scalars:
        return run
    with contextlib.suppress(OSError):
        Path(writer.path).unlink()
    return None


def _end(error: BaseException | None) -> NoReturn:
    if error is None:
        sys.exit(0)
    if isinstance(error, SystemExit):
        raise error
    strip(error)
    sys.excepthook(type(error), error, error.__traceback__)
    if isinstance(error, KeyboardInterrupt):
        # As Python itself ends on Ctrl-C: by the signal, so that a shell script around it stops too.
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(1)


def _script(target: str) -> tuple[types.ModuleType, Callable[[], types.CodeType]]:
    path = Path(target)
    if not path.is_file():
        what = "is a folder; name the script in it" if path.is_dir() else "does not exist; check the path"
        raise InputError(f"{target} {what}. To run a module, write: gradiometer run -m package.module")
    main = types.ModuleType("__main__")
    main.__file__ = target if path.is_absolute() else str(Path.cwd() / target)
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", main.__file__)
    main.__dict__.update(__builtins__=sys.modules["builtins"], __cached__=None, __spec__=None, __package__=None)
    return main, lambda: compile(path.read_bytes(), str(main.__file__), "exec", dont_inherit=True)


def _module(target: str) -> tuple[types.ModuleType, Callable[[], types.CodeType]]:
    sys.path[0] = str(Path.cwd())
    try:
        spec = importlib.util.find_spec(target)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{target}.__main__")
    except (ImportError, ValueError) as error:
        raise InputError(f"no module named {target}: {error}. Start from the folder that holds its package.") from error
    if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
        raise InputError(f"no module named {target} that can be run. Start from the folder that holds its package.")
    loader = spec.loader
    main = types.ModuleType("__main__")
    main.__file__, main.__loader__, main.__spec__, main.__package__ = spec.origin, spec.loader, spec, spec.parent
    main.__dict__.update(__builtins__=sys.modules["builtins"], __cached__=spec.cached)
    return main, lambda: loader.source_to_code(loader.get_data(str(spec.origin)), str(spec.origin))


def strip(error: BaseException) -> None:
    """Takes the instrument's own frames out of a traceback, and of those it is chained to."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        pending += [one.__cause__, one.__context__]
        one.__traceback__ = _stripped(one.__traceback__)


def _stripped(trace: types.TracebackType | None) -> types.TracebackType | None:
    kept: list[types.TracebackType] = []
    skipped = False
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if _ours(file):
            skipped = True
        else:
            # A function of torch that led through us and then ran stands there twice.
            if skipped and kept and kept[-1].tb_frame.f_code is trace.tb_frame.f_code:
                kept.pop()
            kept.append(trace)
            skipped = False
        trace = trace.tb_next
    if not kept:  # an error in the script's syntax: it never ran
        return None
    for first, second in pairwise(kept):
        first.tb_next = second
    kept[-1].tb_next = None
    return kept[0]


def _ours(file: str) -> bool:
    return file.startswith(_HERE) or file.endswith(f"torch{os.sep}overrides.py")
