"""The local launcher against real processes that behave like workers, well and badly."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest
from tests.ports import free_port

from tercet.core.errors import TercetError, UsageError
from tercet.core.topology import Topology, WorkerSpec
from tercet.launch.engines.protocol import WorkerProcess
from tercet.launch.local import LocalDeployment
from tercet.launch.placement import Placement
from tercet.launch.progress import LaunchError, Progress
from tercet.launch.source import Asked
from tercet.launch.state import running
from tercet.launch.topology_file import parse_topology

STANDIN = str(Path(__file__).with_name("standin.py"))


@dataclass
class Standins:
    """Command lines of stand-ins; `extra` are more arguments by part."""

    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seeing: bool = False
    guarded: bool = False
    started: list[WorkerSpec] = field(default_factory=list)

    def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
        self.started.append(worker)
        more = [text.format(id=placement.topology_id) for text in self.extra.get(worker.name, ())]
        argv = (sys.executable, "-S", STANDIN, str(worker.port), *more)
        if not self.guarded:
            return WorkerProcess(argv)
        key_file = f"{placement.run_path}/{worker.name}.yaml"
        return WorkerProcess((*argv, "--config", key_file), key_file=key_file)

    def side_ports(self, topology: Topology, worker: WorkerSpec) -> int:
        return 0

    def sees(self, topology: Topology, cache_dir: Path | None) -> bool:
        return self.seeing

    def router(self, placement: Placement) -> Sequence[str]:
        port = placement.topology.router.port
        return [sys.executable, "-S", STANDIN, str(port), *self.extra.get("router", ())]


def topology(port: int = 0) -> Topology:
    return parse_topology(f"{{workers: 1P1D, devices: ['cpu'], router: {{port: {port}}}}}", "test")


def deployment(tmp_path: Path, extra: Mapping[str, Sequence[str]] | None = None, **more: object) -> LocalDeployment:
    options: dict[str, object] = {"start_timeout_s": 60.0, "grace_s": 3.0, "backoff_s": (0.1, 0.2), **more}
    return LocalDeployment(
        topology(),
        run_root=tmp_path / "run",
        log_dir=tmp_path / "logs",
        commands=Standins(extra or {}),
        **options,  # type: ignore[arg-type]
    )


async def get(url: str) -> str:
    def read() -> str:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(read)


def children_of(marker: str) -> list[int]:
    """Living processes with the marker on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and marker in " ".join(process.info["cmdline"] or []):
            found.append(process.pid)
    return found


async def eventually(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.02)


async def test_an_engine_that_reads_its_key_from_a_file_gets_it_there_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key\n")
    router = f"{{port: 0, api_key_file: {tmp_path}/keys}}"
    guarded = parse_topology(f"{{workers: 1P1D, devices: ['cpu'], router: {router}}}", "test")
    commands = Standins(guarded=True)
    local = LocalDeployment(guarded, run_root=tmp_path / "run", log_dir=tmp_path / "logs", commands=commands)
    async with local:
        files = list((tmp_path / "run").rglob("*-0.yaml"))
        keys = {file.read_text() for file in files}
        assert len(files) == 2 and len(keys) == 1 and keys.pop().startswith("api-key: tw-")
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        for url in local.worker_urls.values():
            with pytest.raises(urllib.error.HTTPError, match="401"):
                await get(f"{url}/pid")
    assert not any(file.exists() for file in files)


def changed(workers: str, **more: str) -> Topology:
    said = "".join(f", {name}: {value}" for name, value in more.items())
    return parse_topology(f"{{workers: {workers}, devices: ['cpu'], router: {{port: 0}}{said}}}", "test")


async def test_it_becomes_what_is_wanted_of_it_or_stays_as_it_was(tmp_path: Path) -> None:
    told: list[Progress] = []
    local = deployment(tmp_path, {"decode-2": ["--crash-at-start"]})
    await local.start(told.append)
    try:
        await local.become(changed("1P2D", mode="ppd"))
        assert list(local.worker_urls) == ["prefill-0", "decode-0", "decode-1"] and local.topology.mode == "ppd"
        first = int(await get(f"{local.worker_urls['decode-1']}/pid"))
        for wrong, words in (
            (changed("1P3D"), "decode-2 ended while starting"),
            (changed("1P3D", engine="{dtype: fp32}"), "engine: dtype can't change"),
        ):
            with pytest.raises(TercetError, match=words):
                await local.become(wrong)
            assert len(local.worker_urls) == 3 and not children_of("--crash-at-start")
        (state,) = running(tmp_path / "run")
        assert state.shape == "1P2D" and len(state.workers) == 3
        assert int(await get(f"{local.worker_urls['decode-1']}/pid")) == first
        os.kill(first, signal.SIGKILL)  # it is watched over like the others
        await eventually(lambda: Progress("decode-1", "ready") in [replace(p, detail="") for p in told[-1:]])
        pids = [int(await get(f"{url}/pid")) for url in (local.url, *local.worker_urls.values())]
    finally:
        await local.stop()
    assert not any(map(psutil.pid_exists, pids))


async def test_of_workers_that_join_none_stays_where_one_does_not_start(tmp_path: Path) -> None:
    told: list[Progress] = []
    ready, never = f"0.000{os.getpid()}", f"99.{os.getpid()}"
    local = deployment(tmp_path, {"decode-1": ["--ready-after", ready], "decode-2": ["--ready-after", never]})
    await local.start(told.append)
    try:
        joining = asyncio.create_task(local.become(changed("1P3D")))
        await eventually(lambda: "ready" in states_of(told, "decode-1") and children_of(never))
        for pid in children_of(never):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(LaunchError, match="decode-2 ended while starting: killed by SIGKILL"):
            await joining
        assert not children_of(ready), "nobody watches over it, and its port is another's"
        await local.become(changed("1P2D"))
        assert len(local.worker_urls) == 3
    finally:
        await local.stop()


async def test_it_stays_as_it_was_where_the_router_can_not_be_told(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text("{workers: 1P1D, devices: ['cpu'], router: {port: 0}}")
    local = deployment(tmp_path, {"decode-1": ["--ready-after", joined := f"0.00{os.getpid()}"]}, asked=Asked(path))
    async with local:
        (state,) = running(tmp_path / "run")
        for file in ("state.json", "workers.yaml"):
            (tmp_path / "run" / state.topology_id / f".{file}.new").mkdir()  # as good as a full disk
        with pytest.raises(UsageError, match=r"can't write .*workers\.yaml"):
            await local.become(changed("1P2D"))
        assert list(local.worker_urls) == ["prefill-0", "decode-0"] and not children_of(joined)
        (tmp_path / "run" / state.topology_id / ".workers.yaml.new").rmdir()
        await local.become(changed("1P2D"))
        assert list(local.worker_urls) == ["prefill-0", "decode-0", "decode-1"]
        assert int(await get(f"{local.worker_urls['decode-1']}/pid"))


async def test_it_ends_in_order_where_its_state_can_not_be_written(tmp_path: Path) -> None:
    told: list[Progress] = []
    local = deployment(tmp_path)
    await local.start(told.append)
    pids = [int(await get(f"{url}/pid")) for url in (local.url, *local.worker_urls.values())]
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").write_text("in the way")
    await local.stop()
    assert not any(map(psutil.pid_exists, pids))
    assert [each.state for each in told[-2:]] == ["stopping", "stopped"]


async def test_nothing_is_imported_from_the_folder_that_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ours(Standins):
        def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
            if worker.name == "decode-0":
                return WorkerProcess((sys.executable, "-m", "tercet", "--version"))
            return super().worker(placement, worker)

    for module in ("typer", "setproctitle"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('planted')\n")
    monkeypatch.chdir(tmp_path)
    local = LocalDeployment(topology(), run_root=tmp_path / "run", log_dir=tmp_path / "logs", commands=Ours())
    with pytest.raises(LaunchError, match=r"decode-0 ended while starting: exit status 0;[^$]*tercet [0-9]"):
        await local.start()
    assert "planted" not in (tmp_path / "logs" / "launcher.log").read_text()  # the keeper's


async def test_ports_of_who_never_came_and_of_who_left_are_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tercet.launch.local.LEAVE_S", 0.0)  # the stand-in for a router drains nobody
    async with deployment(tmp_path, {"decode-2": ["--crash-at-start"]}) as local:
        await local.become(changed("1P2D"))
        held = len(local._ports._sockets)
        for _ in range(2):
            with pytest.raises(LaunchError, match="decode-2 ended while starting"):
                await local.become(changed("1P3D"))
        assert len(local._ports._sockets) == held
        await local.become(changed("1P1D"))
        await eventually(lambda: len(local._ports._sockets) == held - 1)


async def test_it_starts_serves_and_leaves_nothing(tmp_path: Path) -> None:
    told: list[Progress] = []
    local = deployment(tmp_path, {"prefill-0": ["--ready-after", "0.3", "--engine", "--segment", "tercet.{id}.p-0"]})
    await local.start(told.append)
    pids = [int(await get(f"{url}/pid")) for url in (local.url, *local.worker_urls.values())]
    assert list(local.worker_urls) == ["prefill-0", "decode-0"]
    (state,) = running(tmp_path / "run")
    assert state.phase == "ready"
    await eventually(lambda: list(Path("/dev/shm").glob(f"tercet.{state.topology_id}.*")))
    groups = [process for process in psutil.process_iter() if os.getpgid(process.pid) in pids]
    assert len(groups) == 4, "three parts and the engine of one"
    await local.stop()
    await local.stop()
    assert not any(process.is_running() and process.status() != "zombie" for process in groups)
    assert not list(Path("/dev/shm").glob(f"tercet.{state.topology_id}.*"))
    assert running(tmp_path / "run") == []
    states = [(progress.part, progress.state) for progress in told]
    assert states.index(("prefill-0", "ready")) < states.index(("router", "starting"))
    assert states[-3:] == [("deployment", "ready"), ("deployment", "stopping"), ("deployment", "stopped")]
    assert "stand-in starts" in (tmp_path / "logs" / "prefill-0.log").read_text()


@pytest.mark.parametrize(
    ("shape", "stages"),
    [
        ("1P1D", [{"encode", "prefill"}, {"decode"}]),
        ("1A", [{"encode", "prefill", "decode"}]),
        ("1E1P1D", [{"encode"}, {"prefill"}, {"decode"}]),
        ("1E1A", [{"encode"}, {"prefill", "decode"}]),
    ],
)
async def test_where_the_model_sees_someone_encodes(tmp_path: Path, shape: str, stages: list[set[str]]) -> None:
    commands = Standins(seeing=True)
    workers = parse_topology(f"{{workers: {shape}, devices: ['cpu'], router: {{port: 0}}}}", "test")
    local = LocalDeployment(workers, run_root=tmp_path / "run", log_dir=tmp_path / "logs", commands=commands)
    await local.start()
    await local.stop()
    assert [set(worker.stages) for worker in commands.started] == stages


@pytest.mark.parametrize("workers", ["1E1A", "[{stages: [encode, prefill, decode]}]"])
async def test_who_shall_encode_needs_a_model_that_sees(tmp_path: Path, workers: str) -> None:
    blind = parse_topology(f"{{model: m, workers: {workers}, devices: ['cpu'], router: {{port: 0}}}}", "test")
    local = LocalDeployment(blind, run_root=tmp_path / "run", log_dir=tmp_path / "logs", commands=Standins())
    with pytest.raises(UsageError, match=r"can't encode pictures: m takes text only; choose .* smollm2-vision"):
        await local.start()
    assert running(tmp_path / "run") == []


async def test_several_run_one_after_another_with_secrets_of_their_own(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        async with deployment(tmp_path) as local:
            urls = (local.url, *local.worker_urls.values())
            seen.append({await get(f"{url}/secret") for url in urls})
    assert [len(each) for each in seen] == [1, 1]
    assert seen[0] != seen[1]
    assert len(bytes.fromhex(seen[0].pop())) == 32
    assert "TERCET_TOPOLOGY_SECRET" not in os.environ


async def test_a_part_that_fails_at_start_is_shown_and_the_others_end(tmp_path: Path) -> None:
    local = deployment(tmp_path, {"decode-0": ["--crash-at-start"]})
    with pytest.raises(LaunchError) as caught:
        await local.start()
    message = str(caught.value)
    assert message.startswith("decode-0 ended while starting: exit status 3")
    assert message.endswith("Traceback: the model has no weights")
    assert caught.value.exit_code == 1
    assert children_of(str(tmp_path)) == []
    assert running(tmp_path / "run") == []


async def test_a_part_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    local = deployment(tmp_path, {"router": ["--ready-after", "99"]}, start_timeout_s=5.0)
    with pytest.raises(LaunchError, match=r"router was not ready within 5 s \(.*/ready answered 503\)"):
        await local.start()


async def test_a_busy_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        local = LocalDeployment(topology(port), run_root=tmp_path / "run", log_dir=tmp_path / "logs")
        with pytest.raises(
            UsageError, match=rf"port {port} \(router\) is in use by .*: choose another with --port \d+"
        ):
            await local.start()
    assert not (tmp_path / "logs").exists()


async def test_a_folder_that_takes_no_logs_is_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    folder, run_root = tmp_path / "file" / "logs", tmp_path / "run"
    local = LocalDeployment(topology(), run_root=run_root, log_dir=folder, commands=Standins())
    with pytest.raises(UsageError, match=r"can't write logs into .*file/logs: Not a directory; give another --log-dir"):
        await local.start()
    assert running(run_root) == []


async def test_a_port_of_another_deployment_is_named_even_before_it_listens(tmp_path: Path) -> None:
    first = deployment(tmp_path, {"router": ["--ready-after", "99"], "decode-0": ["--ready-after", "99"]})
    starting = asyncio.create_task(first.start())
    await eventually(lambda: running(tmp_path / "run"))
    port = int(running(tmp_path / "run")[0].url.rpartition(":")[2])
    second = LocalDeployment(topology(port), run_root=tmp_path / "run", log_dir=tmp_path / "logs-2")
    with pytest.raises(
        UsageError, match=rf"port {port} \(router\) is in use by the deployment '1p1d'.*tercet stop 1p1d"
    ):
        await second.start()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


def begin(other: LocalDeployment, said: list[str]) -> None:
    async def start() -> str:
        async with other:
            return "it started"

    try:
        said.append(asyncio.run(start()))
    except UsageError as error:
        said.append(str(error))


async def test_ports_are_named_while_the_deployment_that_has_them_is_being_planned(tmp_path: Path) -> None:
    said: list[str] = []

    class Planned(Standins):
        def worker(self, placement: Placement, worker: WorkerSpec) -> WorkerProcess:
            for port in () if said else (placement.topology.router.port, worker.port):
                other = LocalDeployment(
                    topology(port), run_root=tmp_path / "run", log_dir=tmp_path / "logs-2", commands=Standins()
                )
                # Here nothing listens yet, and no state tells of the first one.
                thread = threading.Thread(target=begin, args=(other, said))
                thread.start()
                thread.join(120)
            return super().worker(placement, worker)

    first = LocalDeployment(topology(), run_root=tmp_path / "run", log_dir=tmp_path / "logs", commands=Planned())
    async with first:
        port = first.topology.router.port
    words = "(router) is in use by the deployment '1p1d': end that with `tercet stop 1p1d`, or choose another port"
    assert said == [f"port {port} {words}", f"port {first.topology.workers[0].port} {words}"]


async def test_a_crashed_worker_comes_back_on_the_same_port(tmp_path: Path) -> None:
    async with deployment(tmp_path) as local:
        url = local.worker_urls["decode-0"]
        before = await get(f"{url}/pid")
        os.kill(int(before), signal.SIGKILL)
        for _ in range(200):
            try:
                after = await get(f"{url}/pid")
                break
            except OSError:
                await asyncio.sleep(0.05)
        assert after != before
        assert await get(f"{local.worker_urls['prefill-0']}/pid")
    assert "stand-in starts" in (tmp_path / "logs" / "decode-0.log").read_text()


async def test_the_pauses_between_crashes_grow(tmp_path: Path) -> None:
    told: list[Progress] = []
    local = deployment(tmp_path, backoff_s=(0.05, 0.1, 0.15))
    await local.start(told.append)
    url = local.worker_urls["decode-0"]
    for crashes in range(1, 5):
        await get(f"{url}/crash")
        while sum(each.part == "decode-0" and each.state == "ready" for each in told) <= crashes:
            await asyncio.sleep(0.02)
    await local.stop()
    crashed = [progress.detail for progress in told if progress.state == "crashed"]
    assert [detail.split(";")[1].split(",")[0] for detail in crashed] == [
        f" next start in {pause} s" for pause in ("0.05", "0.1", "0.15", "0.15")
    ]
    assert "exit status 7" in crashed[0]


async def test_without_restart_a_crash_stays_and_the_rest_goes_on(tmp_path: Path) -> None:
    told: list[Progress] = []
    local = deployment(tmp_path, restart=False)
    await local.start(told.append)
    await get(f"{local.worker_urls['decode-0']}/crash")
    await eventually(lambda: any(progress.state == "failed" for progress in told))
    assert await get(f"{local.url}/pid")
    waiting = asyncio.create_task(local.wait())
    await get(f"{local.url}/crash")
    with pytest.raises(LaunchError, match="router crashed: exit status 7"):
        await asyncio.wait_for(waiting, 30)
    await local.stop()


async def test_a_part_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    local = deployment(tmp_path, {"prefill-0": ["--ignore-sigterm"]}, grace_s=0.5)
    await local.start()
    pid = int(await get(f"{local.worker_urls['prefill-0']}/pid"))
    began = time.monotonic()
    await local.stop()
    assert 0.5 <= time.monotonic() - began < 20
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


async def test_a_second_signal_ends_the_patience(tmp_path: Path) -> None:
    local = deployment(tmp_path, {"prefill-0": ["--ignore-sigterm"]}, grace_s=60.0)
    await local.start()
    stopping = asyncio.create_task(local.stop())
    await asyncio.sleep(0.3)
    local.kill()
    await asyncio.wait_for(stopping, 30)


async def test_stopping_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    local = deployment(tmp_path, {"decode-0": ["--ready-after", "99"]})
    starting = asyncio.create_task(local.start())
    await eventually(lambda: (tmp_path / "logs" / "decode-0.log").exists())
    await asyncio.sleep(0.3)
    await local.stop()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert running(tmp_path / "run") == []


LAUNCHER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_local import deployment
async def main():
    local = deployment(Path({tmp!r}), {{"prefill-0": ["--engine", "--segment", "tercet.{{id}}.p-0"]}})
    await local.start()
    print(local.name, local.url, *local.worker_urls.values(), flush=True)
    await local.wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("keeper_too", [False, True])
async def test_a_killed_launcher_leaves_no_process_and_no_segment(tmp_path: Path, keeper_too: bool) -> None:
    code = LAUNCHER.format(tests=str(Path(__file__).parent), tmp=str(tmp_path))
    launcher = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert launcher.stdout is not None
    _name, *urls = (await asyncio.wait_for(launcher.stdout.readline(), 60)).decode().split()
    pids = [int(await get(f"{url}/pid")) for url in urls]
    everyone = [process for process in psutil.process_iter() if os.getpgid(process.pid) in pids]
    assert len(everyone) == 4
    (state,) = running(tmp_path / "run")
    assert list(Path("/dev/shm").glob(f"tercet.{state.topology_id}.*"))
    keeper = children_of(f"tercet keeper {state.topology_id}")
    assert len(keeper) == 1
    if keeper_too:
        everyone = [process for process in everyone if process.pid in pids]  # an engine with no death signal needs it
        engines = [child for process in everyone for child in process.children()]
        os.kill(keeper[0], signal.SIGKILL)
    launcher.kill()
    await launcher.wait()
    await eventually(lambda: all(not p.is_running() or p.status() == "zombie" for p in everyone))
    if keeper_too:
        for engine in engines:
            engine.kill()
        assert running(tmp_path / "run") == [], "the next look cleans up"
    await eventually(lambda: not list(Path("/dev/shm").glob(f"tercet.{state.topology_id}.*")))
    await eventually(lambda: not list((tmp_path / "run").glob("1p1d*")))


def test_two_launchers_never_choose_the_same_ports(tmp_path: Path) -> None:
    first, second = deployment(tmp_path), deployment(tmp_path)
    one, two = first._reserve_ports(topology()), second._reserve_ports(topology())
    ports = [port for each in (one, two) for port in (each.router.port, *(worker.port for worker in each.workers))]
    assert len(set(ports)) == 6
    first._ports.close()
    second._ports.close()


def test_worker_ports_follow_the_routers(tmp_path: Path) -> None:
    port = free_port(3)
    local = deployment(tmp_path)
    placed = local._reserve_ports(topology(port))
    local._ports.close()
    assert placed.router.port == port
    assert port < placed.workers[0].port < placed.workers[1].port


async def test_a_worker_comes_back_when_its_logs_were_tidied_away(tmp_path: Path) -> None:
    told: list[Progress] = []
    local = deployment(tmp_path)
    await local.start(told.append)
    try:
        shutil.rmtree(tmp_path / "logs")
        await get(f"{local.worker_urls['decode-0']}/crash")
        await eventually(lambda: states_of(told, "decode-0") == ["starting", "ready", "crashed", "starting", "ready"])
        assert "stand-in starts" in (tmp_path / "logs" / "decode-0.log").read_text()
    finally:
        await local.stop()


async def test_what_can_not_be_started_now_is_tried_again(tmp_path: Path) -> None:
    told: list[Progress] = []
    local = deployment(tmp_path, backoff_s=(0.05,))
    await local.start(told.append)
    try:
        (tmp_path / "logs").rename(tmp_path / "old")
        (tmp_path / "logs").write_text("in the way")
        await get(f"{local.worker_urls['decode-0']}/crash")
        await eventually(lambda: sum("could not be started" in each.detail for each in told) > 1)
        (tmp_path / "logs").unlink()
        await eventually(lambda: states_of(told, "decode-0")[-1] == "ready")
    finally:
        await local.stop()


async def test_parts_are_watched_and_ended_though_nobody_can_be_told(tmp_path: Path) -> None:
    told: list[Progress] = []

    def closed_terminal(progress: Progress) -> None:
        told.append(progress)
        raise OSError(errno.EIO, "Input/output error")

    local = deployment(tmp_path)
    await local.start(closed_terminal)
    before = await get(f"{local.worker_urls['decode-0']}/pid")
    os.kill(int(before), signal.SIGKILL)
    await eventually(lambda: states_of(told, "decode-0") == ["starting", "ready", "crashed", "starting", "ready"])
    pids = [int(await get(f"{url}/pid")) for url in (local.url, *local.worker_urls.values())]
    await local.stop()
    assert not any(map(psutil.pid_exists, pids)) and running(tmp_path / "run") == []
    assert [each.state for each in told[-2:]] == ["stopping", "stopped"]


def states_of(told: list[Progress], part: str) -> list[str]:
    return [progress.state for progress in told if progress.part == part]
