"""Models by Hugging Face id, through `huggingface_hub`, whose own cache and settings apply."""

from __future__ import annotations

import re
from pathlib import Path

from tercet.core.errors import MissingExtraError, TercetError, UsageError
from tercet.engine.models.cache import Progress, no_progress
from tercet.engine.models.folder import missing_weights

_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.model"]
_CONFIG = "config.json"


def is_hub_id(name: str) -> bool:
    """True for `organisation/model`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def snapshot(name: str, *, pull: bool = True, progress: Progress = no_progress) -> Path:
    """Return the folder of the model `name`; what is already cached needs no network.

    Raises UsageError for an unknown or closed model, TercetError when there is no network.
    """
    folder = _cached(name)
    if folder is not None and missing_weights(folder) is None:
        return folder
    if not pull:
        raise UsageError(f"{name} is not in the Hugging Face cache: run 'tercet model pull {name}'")
    progress(f"downloading {name} from Hugging Face", 0.0)
    folder = _download(name, _PATTERNS)
    progress(f"downloading {name} from Hugging Face", 1.0)
    return folder


def config_file(name: str) -> Path:
    """Return the config.json of the model `name`; nothing else is fetched. Raises as `snapshot` does."""
    return (_cached(name) or _download(name, [_CONFIG])) / _CONFIG


def _cached(name: str) -> Path | None:
    """Return the folder of what was downloaded of a model before; None where that has no configuration."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError("engine", f"the Hugging Face model {name}") from error
    try:
        folder = Path(snapshot_download(name, allow_patterns=_PATTERNS, local_files_only=True))
    except LocalEntryNotFoundError:
        return None  # never downloaded here
    return folder if (folder / _CONFIG).is_file() else None


def _download(name: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except GatedRepoError as error:
        raise UsageError(f"{name} is closed: accept its licence on huggingface.co, then 'hf auth login'") from error
    except RepositoryNotFoundError as error:
        raise UsageError(f"Hugging Face has no model {name} (or it is private: 'hf auth login')") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise TercetError(
            f"can't download {name} from Hugging Face: {str(error).splitlines()[0]}\nCheck the network, the proxy and "
            "HF_HUB_OFFLINE; or copy the model's folder to this machine and give its path"
        ) from error
