"""The flags of an engine, shared by `tercet serve` and `tercet worker`.

`serve` gives them the default None, so that only flags really given win over the topology file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tercet.core.api_keys import HASHED, key_lines
from tercet.core.errors import UsageError

Model = Annotated[
    str | None, typer.Option(metavar="NAME", help="A name of `tercet model list`, a folder, or a Hugging Face id.")
]
RandomWeights = Annotated[
    str | None,
    typer.Option(
        metavar="CONFIG", help="Random weights of this shape instead of a model's: tiny, a config.json, or its folder."
    ),
]
CacheDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where models are kept.  [default: ~/.cache/tercet]")
]
Engine = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="tercet computes; virtual answers at the speed of --gpu.  [default: tercet]"),
]
ServedEngine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="tercet computes; virtual answers at the speed of --gpu; vllm, sglang, trtllm: those engines' workers "
        "(see `tercet engine`).  [default: tercet]",
    ),
]
EnginePython = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="The Python that has the engine.  [default: this one, else `tercet engine install`'s]"
    ),
]
Gpu = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The GPU that --engine virtual imitates: a100, h100, h200.  [default: h100]"),
]
GpuSlowdown = Annotated[
    float | None,
    typer.Option(metavar="FACTOR", help="Times of the virtual GPU: 1.1 makes it 10% slower.  [default: 1]"),
]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="TYPE", help="bf16 or fp32: type of the weights and of the KV cache.  [default: bf16]"),
]
TensorParallel = Annotated[
    int | None,
    typer.Option(min=1, metavar="GPUS", help="GPUs of each rank: for vllm, sglang and trtllm.  [default: 1]"),
]
BlockSize = Annotated[int | None, typer.Option(metavar="N", help="Tokens per KV block.  [default: 16]")]
KvBlocks = Annotated[
    int | None, typer.Option(metavar="N", help="KV blocks of each rank; 0: as many as fit.  [default: 0]")
]
MaxNumSeqs = Annotated[int | None, typer.Option(metavar="N", help="Sequences in one batch.  [default: 64]")]
ServedMaxNumSeqs = Annotated[
    int | None,
    typer.Option(metavar="N", help="Sequences in one batch.  [default: 64; vllm, sglang and trtllm on GPUs: 256]"),
]
MaxNumBatchedTokens = Annotated[
    int | None,
    typer.Option(metavar="N", help="Token budget of one step; longer prompts are cut in chunks.  [default: 512]"),
]
ServedMaxNumBatchedTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Token budget of one step; longer prompts are cut in chunks.  [default: 512; vllm, sglang and trtllm on "
        "GPUs: 8192]",
    ),
]
MaxModelLen = Annotated[
    int | None, typer.Option(metavar="N", help="Longest prompt plus answer, in tokens.  [default: 4096]")
]
EmbeddingCacheBytes = Annotated[
    int | None,
    typer.Option(metavar="N", help="Bytes of pictures' embeddings each rank keeps; 0 keeps none.  [default: 67108864]"),
]
Transport = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How KV blocks and embeddings move: shm (same machine), tcp, nixl, mooncake, or auto, the fastest that "
        "both ends have.  [default: auto]",
    ),
]
KvConnector = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="What hands KV on between vllm's workers: nixl, or mooncake (on GPUs).  [default: nixl]"
    ),
]
Events = Annotated[
    bool, typer.Option("--events", help="Have vllm's workers tell the router exactly what they cache (KV events).")
]
CacheReset = Annotated[
    bool,
    typer.Option(
        "--cache-reset",
        help="Let vllm's workers be told to empty their caches (POST /cache/reset), by whoever reaches them.",
    ),
]
TokeniseOnce = Annotated[
    bool, typer.Option("--tokenise-once", help="Have vllm's D take a text prompt's tokens from P.")
]
Hybrid = Annotated[
    bool,
    typer.Option(
        "--hybrid",
        help="Under pd, ppd, epd and eppd, workers that do both (A) answer beside the pairs of P and D, by load.",
    ),
]
RankMatch = Annotated[
    str | None,
    typer.Option(
        metavar="WHICH",
        help="Which ranks of D may take over from rank i of P: exact (rank i), or any.  [default: any, unless the "
        "engine's connector pairs ranks]",
    ),
]
Lease = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="How long P keeps the blocks of a ticket nobody has read.  [default: 30]"),
]
AllowLocalMedia = Annotated[
    bool,
    typer.Option(
        "--allow-local-media",
        help="Let image_url name local files and private addresses: only for clients as trusted as this machine.",
    ),
]
MaxImages = Annotated[int | None, typer.Option(metavar="N", help="Pictures in one request.  [default: 32]")]
MaxImageBytes = Annotated[int | None, typer.Option(metavar="N", help="Size of a picture's file.  [default: 16777216]")]
MaxImagePixels = Annotated[int | None, typer.Option(metavar="N", help="Pixels of a picture.  [default: 36000000]")]
MediaTimeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="How long fetching a picture may take.  [default: 10]")
]
BlockingImageLoading = Annotated[
    bool,
    typer.Option(
        "--blocking-image-loading",
        help="Fetch and decode pictures on the event loop, as some servers do: only to measure what that costs.",
    ),
]
TlsCert = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Certificate chain (PEM) of the router: serve https.")
]
TlsKey = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Its key (PEM).  [default: in the file of --tls-cert]")
]
TlsClientCa = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Serve only clients with a certificate of this authority (PEM).")
]


def read_keys(path: Path | None, flag: str = "--api-key-file") -> tuple[str, ...]:
    """Return the keys of an API key file, one a line; empty lines and # comments are skipped. Raises UsageError that
    names the `flag`."""
    if path is None:
        return ()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"cannot read {flag} {path}: {reason}") from error
    keys = key_lines(text)
    if not keys:
        raise UsageError(f"{flag} {path} holds no key: write one a line")
    return keys


def first_key(path: Path | None, flag: str = "--api-key-file") -> str | None:
    """Return the key to send, in a file's first line. Raises UsageError, also for a key's hash, which opens nothing."""
    key = next(iter(read_keys(path, flag)), None)
    if key is not None and key.startswith(HASHED):
        raise UsageError(
            f"{path} holds the hash of a key: what is needed here is the key that `tercet keys new` printed"
        )
    return key
