"""`tercet deploy`: a topology as a folder of manifests, and what watches it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tercet.cli import engine_options as flags

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
"""The sub-commands of `tercet deploy`."""


@app.callback()
def deploy() -> None:
    """Write what puts a topology on a cluster, from the file that `tercet serve` reads, and what watches a router."""


@app.command("kubernetes")
def kubernetes_command(
    topology: Annotated[str, typer.Argument(metavar="TOPOLOGY.yaml|1P1D", help="A file or a short form.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the manifests and scripts.")],
    model: flags.Model = None,
    engine: flags.ServedEngine = None,
    namespace: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where all of it lives.  [default: tercet-NAME of the topology]")
    ] = None,
    image_router: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="Built from docker/router.Dockerfile.  [default: tercet-router:VERSION]"),
    ] = None,
    image_worker: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="Built from docker/worker.Dockerfile, or an engine's own.  [default: tercet-worker:VERSION, on GPUs "
            "with -cuda; of vllm, sglang and trtllm their published image]",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="What ranks compute on where the topology names no devices: cuda or cpu.  [default: cpu for tercet "
            "and virtual, else cuda]",
        ),
    ] = None,
    cpus_per_rank: Annotated[
        int | None,
        typer.Option(metavar="N", help="Cores, where the topology names none.  [default: 2; beside a GPU 8]"),
    ] = None,
    memory_per_rank: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="KV in shared memory counts.  [default: 4Gi; beside a GPU 64Gi]"),
    ] = None,
    gpu_resource: Annotated[
        str, typer.Option(metavar="NAME", help="What the cluster calls its GPUs.")
    ] = "nvidia.com/gpu",
    storage_class: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Keep models in a volume of each pod.  [default: fetched with each pod]"),
    ] = None,
    cache_size: Annotated[str, typer.Option(metavar="SIZE", help="Of the models' volume.")] = "100Gi",
    shared_storage_class: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a volume with many writers, for what vllm's encode workers hand on."),
    ] = None,
    grace: Annotated[
        int, typer.Option(metavar="SECONDS", help="For answers under way when a pod is asked to end.")
    ] = 60,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
) -> None:
    """Write a folder for `kubectl apply -k`, with deploy.sh, which waits until a request has crossed the topology.

    One pod a worker, with all its ranks (and as many GPUs); StatefulSets give workers names that last, the router is
    told these. Namespace, probes, drains, budgets, network policies and secrets are there; docs/deployment.md says how
    each works, and what was never run on a cluster.

    \b
    Examples:
      tercet deploy kubernetes examples/topologies/pd.yaml --out out/
      tercet deploy kubernetes topology.yaml --out out/ --image-worker registry/tercet-worker:0.1.0
      tercet deploy kubernetes 1P1D --engine vllm --model meta-llama/Llama-3.1-8B-Instruct --out out/
      ./out/deploy.sh && kubectl -n tercet-pd port-forward service/router 8000:8000
    """
    from tercet.launch.kubernetes.folder import kubernetes_files, write_folder
    from tercet.launch.kubernetes.options import IMAGE_ROUTER, IMAGES_WORKER, DeployOptions
    from tercet.launch.kubernetes.placing import OWN_ENGINES
    from tercet.launch.source import topology_from, with_settings

    asked = with_settings(topology_from(topology, None), {"model": model, "engine": engine})
    kind = asked.engine.engine
    named = {name.partition(":")[0] for worker in asked.workers for name in worker.devices or asked.devices}
    place = device or ("cpu" if kind in OWN_ENGINES else "cuda")
    beside_gpu = kind != "virtual" and ("cuda" in named or (not named and place == "cuda"))
    options = DeployOptions(
        namespace=namespace or f"tercet-{asked.name}",
        image_router=image_router or IMAGE_ROUTER,
        image_worker=image_worker or IMAGES_WORKER[kind] + ("-cuda" if beside_gpu and kind == "tercet" else ""),
        device=place,
        cpus_per_rank=(8 if beside_gpu else 2) if cpus_per_rank is None else cpus_per_rank,
        memory_per_rank=memory_per_rank or ("64Gi" if beside_gpu else "4Gi"),
        storage_class=storage_class,
        cache_size=cache_size,
        shared_storage_class=shared_storage_class,
        gpu_resource=gpu_resource,
        grace_s=grace,
    )
    texts = kubernetes_files(asked, options)
    write_folder(texts, out, force=force)
    typer.echo(f"{asked.name}: {asked.short_form} in mode {asked.mode}, {len(texts)} files in {out}")
    typer.echo(f"images: {options.image_router} and {options.image_worker}; put it up with {out / 'deploy.sh'}")


@app.command("monitoring")
def monitoring_command(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the files.")],
    namespace: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of a router in a cluster: for Grafana's sidecar and the Prometheus operator, too."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other files.")] = False,
) -> None:
    """Write a dashboard for Grafana and alert rules for Prometheus, about what the router tells at /metrics.

    docs/observability.md says where they go, and with what they were tried.

    \b
    Examples:
      tercet deploy monitoring --out watch/
      tercet deploy monitoring --out watch/ --namespace tercet-pd && kubectl apply -f watch/kubernetes.yaml
    """
    from tercet.launch.kubernetes.folder import write_folder
    from tercet.launch.monitoring.files import monitoring_files

    texts = monitoring_files(namespace)
    write_folder(texts, out, force=force)
    typer.echo(f"{', '.join(texts)} in {out}")
