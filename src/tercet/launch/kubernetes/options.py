"""What a deployment on Kubernetes needs to know beyond the topology."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tercet import __version__
from tercet.core.errors import UsageError

IMAGE_ROUTER = f"tercet-router:{__version__}"
IMAGES_WORKER = {
    "tercet": f"tercet-worker:{__version__}",
    "virtual": f"tercet-worker:{__version__}",
    "vllm": "vllm/vllm-openai:v0.32.0",
    "sglang": "lmsysorg/sglang:v0.5.23",
    "trtllm": "nvcr.io/nvidia/tensorrt-llm/release:1.2.1",
}
"""Images when none is named: those of docker/, and the engines' own of the release that Tercet is tested against."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_QUANTITY = re.compile(r"[1-9][0-9]*(Mi|Gi|Ti)")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")


def check_name(flag: str, name: str | None) -> None:
    """Raise UsageError for a name that Kubernetes would refuse."""
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(f"{flag} {name!r}: write small letters, digits and hyphens, at most 63")


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """One deployment. Memory and sizes as Kubernetes writes them (64Gi); `grace_s` is what answers under way get.

    `device` is what ranks compute on where the topology names no devices: cuda or cpu. `storage_class` keeps models in
    a volume of every pod, else they are fetched anew with each pod; `shared_storage_class` must allow many writers.
    """

    namespace: str
    image_router: str
    image_worker: str
    device: str
    cpus_per_rank: int
    memory_per_rank: str
    storage_class: str | None = None
    cache_size: str = "100Gi"
    shared_storage_class: str | None = None
    gpu_resource: str = "nvidia.com/gpu"
    grace_s: int = 60

    def __post_init__(self) -> None:
        """Refuse what Kubernetes would. Raises UsageError."""
        for flag, name in (
            ("--namespace", self.namespace),
            ("--storage-class", self.storage_class),
            ("--shared-storage-class", self.shared_storage_class),
        ):
            check_name(flag, name)
        for flag, size in (("--memory-per-rank", self.memory_per_rank), ("--cache-size", self.cache_size)):
            if not _QUANTITY.fullmatch(size):
                raise UsageError(f"{flag} {size!r}: write for instance 64Gi")
        for flag, image in (("--image-router", self.image_router), ("--image-worker", self.image_worker)):
            if not _IMAGE.fullmatch(image):
                raise UsageError(f"{flag} {image!r} is no image: write registry/name:tag or registry/name@sha256:...")
        if self.device not in ("cuda", "cpu"):
            raise UsageError(f"--device {self.device!r}: choose cuda or cpu")
        if self.cpus_per_rank < 1:
            raise UsageError("--cpus-per-rank must be at least 1")
        if self.grace_s < 1:
            raise UsageError("--grace must be at least 1 second")
