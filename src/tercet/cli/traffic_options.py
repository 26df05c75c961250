"""The flags that describe traffic, shared by the commands that send it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tercet.core.errors import UsageError
from tercet.traffic.arrivals import Arrivals
from tercet.traffic.lengths import parse_lengths
from tercet.traffic.pictures import Pictures, parse_size
from tercet.traffic.workload import Workload as Shape
from tercet.traffic.workload import workload_from_name

DEFAULT_WORKLOAD = "W1"

Workload = Annotated[
    str,
    typer.Option(
        help="W1 (512 tokens in / 256 out), W2 (4096/128), W3 (256/1024), W4 (8192/64), random (1024/128), prefix "
        "(1280/128 behind 8 shared system prompts), images (64/500 and a picture), or your own such as 2048/32 or "
        "256-1024/64; per turn, before --scale."
    ),
]
Dataset = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Send a file instead: ShareGPT's JSON; or JSON lines with prompt or messages; or a trace (Mooncake's "
        "format: timestamp in ms, input_length, output_length, hash_ids), replayed by its time stamps.",
    ),
]
TraceSpeed = Annotated[float, typer.Option(help="Replay a trace so many times as fast as it happened.")]
Slo = Annotated[
    list[str] | None,
    typer.Option(metavar="METRIC:MS", help="Goodput counts answers within ttft:500, tpot:30, e2e:4000; repeat it."),
]
Qps = Annotated[
    str,
    typer.Option(
        metavar="RATE[,RATE...]",
        help="Requests (turns) a second; several rates are measured one after the other. Open loop: conversations "
        "arrive at RATE / turns, and no arrival waits for an answer.",
    ),
]
IMAGE_LOADS = "1,8,16,32,64"
"""Requests at once that traffic with pictures is measured under when nobody names a load."""

ShowResponses = Annotated[
    int,
    typer.Option(min=0, metavar="N", help="Print the beginnings of the first N answers under each load."),
]
Turns = Annotated[
    int,
    typer.Option(help="Turns of a conversation. Each adds the workload's input tokens to all that was said before."),
]
Scale = Annotated[float, typer.Option(help="Multiply the workload's lengths: 0.125 makes W1 64/32, fit for a CPU.")]
Think = Annotated[float, typer.Option(help="Seconds between an answer and the conversation's next turn.")]
ArrivalPattern = Annotated[
    str,
    typer.Option(
        "--arrivals",
        help="poisson, constant, gamma (see --burstiness) or trace.  [default: poisson; trace for a data set with time "
        "stamps when neither these nor a load are named]",
    ),
]
Burstiness = Annotated[
    float, typer.Option(help="Shape of gamma arrivals: 1 is Poisson, below it bursts, above it evenness.")
]
Seed = Annotated[int, typer.Option(help="Decides prompts and arrivals: the same seed sends the same conversations.")]
Output = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Folder for the results file; its name holds the time, nothing is overwritten."),
]

InputTokens = Annotated[
    str, typer.Option(metavar="N|LOW-HIGH", help="New input tokens per turn, instead of the workload's: 512, 256-1024.")
]
OutputTokens = Annotated[
    str, typer.Option(metavar="N|LOW-HIGH", help="Output tokens per turn, instead of the workload's.")
]
PrefixTokens = Annotated[
    int | None,
    typer.Option(help="Of a first turn's input, so many tokens are a system prompt that conversations share."),
]
PrefixGroups = Annotated[int | None, typer.Option(help="How many different system prompts there are.")]
Images = Annotated[
    str, typer.Option(metavar="N|LOW-HIGH", help="Pictures with each conversation's first turn: 3, or a range 1-8.")
]
ImageSize = Annotated[str, typer.Option(metavar="WxH", help="Their size in pixels.  [default: 512x512]")]
ImagePool = Annotated[
    int | None,
    typer.Option(help="So many pictures rotate, so that an encoder's cache can help; 0 makes every picture new."),
]


def arrival_pattern(text: str) -> Arrivals:
    """Return the pattern of that name. Raises UsageError."""
    try:
        return Arrivals(text)
    except ValueError:
        raise UsageError(f"--arrivals {text!r} is unknown: choose {', '.join(Arrivals)}") from None


def parse_rates(text: str, flag: str = "--qps") -> tuple[float, ...]:
    """Read `0.5,1`. Raises UsageError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text!r} is not a list of numbers: write for instance 0.5,1") from None


def parse_counts(text: str, flag: str) -> tuple[float, ...]:
    """Read `1,8,16`: whole numbers above 0. Raises UsageError."""
    counts = parse_rates(text, flag)
    if any(not count.is_integer() or count < 1 for count in counts):
        raise UsageError(f"{flag} {text!r}: write whole numbers above 0, for instance 1,8,16")
    return counts


def shaped(
    workload: str,
    scale: float,
    *,
    input_tokens: str = "",
    output_tokens: str = "",
    prefix_tokens: int | None = None,
    prefix_groups: int | None = None,
    images: str = "",
    image_size: str = "",
    image_pool: int | None = None,
    dataset: Path | None = None,
) -> Shape:
    """Return the workload of that name with what the flags change about it, scaled. Raises UsageError, also where a
    data set takes its place and a flag would be ignored."""
    if dataset is not None:
        told = {
            "--workload": workload != DEFAULT_WORKLOAD,
            "--scale": scale != 1,
            "--input-tokens": input_tokens,
            "--output-tokens": output_tokens,
            "--prefix-tokens": prefix_tokens is not None,
            "--prefix-groups": prefix_groups is not None,
            "--images": images,
            "--image-size": image_size,
            "--image-pool": image_pool is not None,
        }
        if given := [flag for flag, said in told.items() if said]:
            raise UsageError(f"{', '.join(given)}: {dataset} says what is sent, which takes a workload's place")
    shape = workload_from_name(workload)
    shape = shape.with_lengths(
        parse_lengths(input_tokens, "--input-tokens") if input_tokens else None,
        parse_lengths(output_tokens, "--output-tokens") if output_tokens else None,
    )
    changes: dict[str, Any] = {"prefix_tokens": prefix_tokens, "prefix_groups": prefix_groups}
    changes = {name: value for name, value in changes.items() if value is not None}
    if images or image_size or image_pool is not None:
        if not images and shape.pictures is None:
            raise UsageError("--image-size and --image-pool need --images, or --workload images")
        changes["pictures"] = _pictures(shape.pictures or Pictures(), images, image_size, image_pool)
    return replace(shape, **changes).scaled(scale)


def _pictures(before: Pictures, images: str, size: str, pool: int | None) -> Pictures:
    number = parse_lengths(images, "--images") if images else None
    width, height = parse_size(size) if size else (before.width, before.height)
    return Pictures(
        number.low if number else before.low,
        number.high if number else before.high,
        width,
        height,
        before.pool if pool is None else pool,
    )


def headers_from(api_key: str, given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read --api-key and --header: (name, value) of what every request carries. Raises UsageError."""
    headers = [("Authorization", f"Bearer {api_key}")] if api_key else []
    for line in given:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise UsageError("--header: write 'NAME: VALUE'")
        headers.append((name.strip(), value.strip()))
    return tuple(headers)
