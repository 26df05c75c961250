"""What is compared: a topology that is started here under a mode, or a server that runs already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tercet.core.errors import UsageError
from tercet.core.stage import Mode
from tercet.core.topology import PRESETS, Topology, mode_from_name
from tercet.http.address import server_url
from tercet.launch.source import topology_from
from tercet.results.document import ArchitectureRecord

UNKNOWN_MODE = "server"
"""What results call the mode of a server that doesn't tell it."""

DEFAULT_GPU = "h100"


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of those compared. `label` names it in results; `topology` (devices assigned) or `url` says what serves it.

    `mode` None leaves a server in the mode it is in. `url_devices` is how many devices are behind a URL, None where
    only the server could say.
    """

    label: str
    mode: Mode | None
    topology: Topology | None = None
    url: str | None = None
    url_devices: int | None = None

    @property
    def devices(self) -> tuple[str, ...] | None:
        """The devices it computes on; None of a server. A rank of the virtual engine is a device of its own."""
        if self.topology is None:
            return None
        engine = self.topology.engine
        if engine.engine == "virtual":
            return (f"virtual {engine.gpu or DEFAULT_GPU}",) * self.topology.ranks
        return tuple(sorted({device for worker in self.topology.workers for device in worker.devices}))

    @property
    def exact(self) -> bool:
        """True when equal prompts must give equal tokens whatever the batch: of the built-in engine in fp32, and
        of virtual GPUs."""
        engine = None if self.topology is None else self.topology.engine
        if engine is None:
            return False
        return engine.engine == "virtual" or (engine.engine == "tercet" and engine.dtype == "fp32")

    def record(self, mode: str, devices: int) -> ArchitectureRecord:
        """Return what a results file says of it; of a server, with the `mode` and `devices` that were found there."""
        if self.topology is None:
            return ArchitectureRecord(self.label, mode, "", {}, devices, {}, {}, self.url)
        router = asdict(self.topology.router)
        for file in ("api_key_file", "tls_cert", "tls_key", "tls_client_ca"):
            router.pop(file, None)
        return ArchitectureRecord(
            label=self.label,
            mode=mode,
            short_form=self.topology.short_form,
            workers={worker.name: worker.devices for worker in self.topology.workers},
            devices=devices,
            engine=asdict(self.topology.engine),
            router=router,
        )


def of_mode(mode: Mode, *, alone: bool = False) -> Architecture:
    """Return a mode on its preset, named after it: 2A, or 1P1D for the modes that split; `alone` aggregates on 1A."""
    form = "2A" if mode is Mode.AGGREGATED and not alone else PRESETS[mode]
    return Architecture(str(mode), mode, topology_from(form, mode))


def parse_architecture(text: str) -> Architecture:
    """Read LABEL=SOURCE[#MODE]: a short form, a topology file or a URL. Raises UsageError.

    Without MODE a short form runs the mode that its label names, else what suits its workers; a file its own; a server
    stays in the mode it is in.
    """
    label, equals, rest = text.partition("=")
    label = label.strip()
    if not equals or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,39}", label):
        raise UsageError(
            f"--arch {text!r}: write LABEL=SOURCE, for instance pd=1P1D, big=topology.yaml, now=http://..."
        )
    source, hash_, name = rest.strip().partition("#")
    mode = mode_from_name(name) if hash_ else None
    if re.match(r"https?://", source):
        return Architecture(label, mode, url=server_url(source).removesuffix("/v1"))
    if mode is None and label in list(Mode) and re.fullmatch(r"(?:[0-9]+[A-Z])+", source):
        mode = Mode(label)
    topology = topology_from(source, mode)
    return Architecture(label, topology.mode, topology)


def check_devices(architectures: Sequence[Architecture], *, allow_unequal: bool) -> None:
    """Raise UsageError when those started here don't use the same devices, unless that is allowed."""
    used = {each.label: each.devices for each in architectures if each.devices is not None}
    if allow_unequal or len(set(used.values())) < 2:
        return
    listing = "; ".join(
        f"{each.label} ({each.topology.short_form}) uses {', '.join(each.devices or ())}"
        for each in architectures
        if each.topology is not None
    )
    raise UsageError(
        f"the architectures would run on unequal devices: {listing}. Name equal topologies and --devices, "
        "or pass --allow-unequal for figures per device"
    )
