"""A deployment that outlives the terminal: its launcher runs in a session of its own.

The launcher (`python -m tercet.launch.detached`) reads what to start as JSON on standard input and tells how it goes as
JSON lines on standard output, until it is ready or has failed; later words go to launcher.log.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from setproctitle import setproctitle

from tercet.core.errors import TercetError, UsageError
from tercet.core.topology import Topology
from tercet.launch.foreground import StartInterruptedError, run_until_signal
from tercet.launch.local import LocalDeployment
from tercet.launch.process import OWN_MODULES
from tercet.launch.progress import LaunchError, OnProgress, Progress
from tercet.launch.source import Asked
from tercet.launch.state import open_log
from tercet.launch.topology_file import parse_topology, topology_to_dict


@dataclass(frozen=True, slots=True)
class DetachedSpec:
    """What a detached launcher is told."""

    topology: Topology
    run_root: Path | None = None
    log_dir: Path | None = None
    cache_dir: Path | None = None
    restart: bool = True
    start_timeout_s: float | None = None
    asked: Asked | None = None

    def to_json(self) -> str:
        """Return one line of JSON that `from_json` reads back."""
        paths = {name: getattr(self, name) for name in ("run_root", "log_dir", "cache_dir")}
        return json.dumps(
            {
                "topology": topology_to_dict(self.topology),
                **{name: str(path) if path else None for name, path in paths.items()},
                "restart": self.restart,
                "start_timeout_s": self.start_timeout_s,
                "asked": None if self.asked is None else self.asked.to_dict(),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> DetachedSpec:
        """Read what `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        # Not as JSON: its numbers without a point and its halves of an emoji are others in YAML.
        topology = parse_topology(yaml.safe_dump(data.pop("topology")), "the launcher's topology")
        paths = {name: Path(data[name]) if data[name] else None for name in ("run_root", "log_dir", "cache_dir")}
        asked = None if data["asked"] is None else Asked.from_dict(data["asked"])
        return cls(topology, **{**data, **paths, "asked": asked})


def start_detached(spec: DetachedSpec, on_progress: OnProgress) -> str:
    """Start a launcher of its own and return the deployment's name once it is ready.

    Raises UsageError or LaunchError as the launcher did; KeyboardInterrupt after having stopped it.
    """
    launcher = subprocess.Popen(
        [sys.executable, "-m", "tercet.launch.detached"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **OWN_MODULES},
        start_new_session=True,
    )
    assert launcher.stdin is not None and launcher.stdout is not None
    try:
        launcher.stdin.write(spec.to_json())
        launcher.stdin.close()
        name = _follow(launcher.stdout, on_progress)
    except KeyboardInterrupt:
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(30)
        raise
    except TercetError:
        launcher.wait(30)
        raise
    finally:
        launcher.stdout.close()
    # From here on it is nobody's child to wait for; init reaps it.
    launcher.returncode = 0
    return name


def _follow(lines: Iterable[str], on_progress: OnProgress) -> str:
    for line in lines:
        said = json.loads(line)
        if "name" in said:
            return str(said["name"])
        if "error" in said:
            raise (UsageError if said["exit_code"] == UsageError.exit_code else LaunchError)(said["error"])
        on_progress(Progress(**said))
    raise LaunchError("the launcher ended without a word; its own output is above")


class _Teller:
    """Writes JSON lines to the one who waits for the start, and plain lines to the log once nobody does."""

    def __init__(self) -> None:
        self._awaited = True

    def progress(self, progress: Progress) -> None:
        """Tell of a part's state."""
        self._tell(asdict(progress), f"{progress.part} {progress.state} {progress.detail}")

    def error(self, error: TercetError) -> None:
        """Tell why it ends."""
        self._tell({"error": str(error), "exit_code": error.exit_code}, f"error: {error}")

    def leave(self, deployment: LocalDeployment) -> None:
        """Say the name: it is ready. Then let go of the terminal."""
        self._tell({"name": deployment.name}, "")
        self._awaited = False
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        log = open_log(deployment.log_dir)
        for standard, instead in ((0, null), (1, null), (2, log)):
            os.dup2(instead, standard)
        os.close(null)
        os.close(log)

    def _tell(self, said: dict[str, Any], line: str) -> None:
        if self._awaited:
            try:
                print(json.dumps(said), flush=True)
                return
            except BrokenPipeError:
                # Who started us has left early; the deployment goes on, as a detached one should.
                self._awaited = False
        print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Be a detached launcher."""
    spec = DetachedSpec.from_json(sys.stdin.read())
    deployment = LocalDeployment(
        spec.topology,
        run_root=spec.run_root,
        log_dir=spec.log_dir,
        cache_dir=spec.cache_dir,
        restart=spec.restart,
        start_timeout_s=spec.start_timeout_s,
        asked=spec.asked,
    )
    setproctitle(f"tercet serve {spec.topology.name}")
    teller = _Teller()
    try:
        asyncio.run(run_until_signal(deployment, teller.progress, lambda: teller.leave(deployment)))
    except StartInterruptedError as error:
        return error.exit_code
    except TercetError as error:
        teller.error(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
