"""Runs at the start of every Python process that has this folder on its path: the controller, Ray's workers, the
mirror. Wraps the functions of `tests.chaos.points` as their modules are imported, so that a test can kill at them.

LACUNA_CHAOS names the folder with the script: `script.json`, a list of [point, victim], and an empty file for each
kill that was done. The kill that is due is the first one without such a file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(os.environ.get("LACUNA_CHAOS") or "/nonexistent")


def due() -> tuple[int, str, str] | None:
    """Number, point and victim of the kill that is due."""
    try:
        script = json.loads((FOLDER / "script.json").read_text())
        done = len(list(FOLDER.glob("done-*")))
    except OSError:
        return None
    return (done, *script[done]) if done < len(script) else None


def reached(point: str) -> None:
    """A process is at a point: kill, if that is what is due. Only one process does."""
    kill = due()
    if kill is None or kill[1] != point:
        return
    number, _, victim = kill
    try:
        os.close(os.open(FOLDER / f"done-{number:03d}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    doomed = victims(victim)
    for pid in doomed:
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if os.getpid() in doomed:
        os.kill(os.getpid(), signal.SIGKILL)


def victims(kind: str) -> list[int]:
    """Process ids: of this one, the controller and all below it, a process of Ray's head, or Postgres."""
    import psutil

    if kind == "self":
        return [os.getpid()]
    if kind == "postgres":
        return [int((FOLDER.parent / "postgres" / "data" / "postmaster.pid").read_text().split("\n")[0])]
    controller = psutil.Process(int((FOLDER / "controller.pid").read_text()))
    below = controller.children(recursive=True)
    if kind == "controller":
        # This process last: it is the one that kills.
        return [
            controller.pid,
            *(process.pid for process in below if process.pid != os.getpid()),
            os.getpid(),
        ]
    return [process.pid for process in below if process.name().startswith(kind)]


def wrapped(function: Callable[..., Any], before: str | None, after: str | None) -> Callable[..., Any]:
    """The function, with points around it."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if before:
            reached(before)
        result = function(*args, **kwargs)
        if after:
            reached(after)
        return result

    return call


class Wrapping(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the modules of the points as others would, and then wraps their functions."""

    def __init__(self, places: Sequence[tuple[str, str, str | None, str | None]]) -> None:
        self._places = places
        self._loaders: dict[str, Any] = {}

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if not any(name == place[0] for place in self._places):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            self._loaders[name], spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self._loaders[module.__name__].exec_module(module)
        for name, path, before, after in self._places:
            if name == module.__name__:
                *owners, attribute = path.split(".")
                owner: Any = functools.reduce(getattr, owners, module)
                setattr(owner, attribute, wrapped(getattr(owner, attribute), before, after))


if FOLDER.is_dir():
    sys.meta_path.insert(
        0, Wrapping([tuple(place) for place in json.loads((FOLDER / "places.json").read_text())])
    )
