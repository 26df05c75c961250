"""The points on which the shipped grid was sampled, the same for every model, GPU and engine."""

from __future__ import annotations

_TILES = (48, 64, 80, 96, 112, 128, 160, 192, 224, 256)
_LONG = (512, 768, *range(1024, 4353, 256))
TOKENS = tuple(
    sorted(
        {*range(1, 18), 24, 32, 33, 384, 640, 8192, 12288, 16384, 32768}
        | {at + more for at in (*_TILES, *_LONG) for more in (0, 1)}
    )
)
"""Computed tokens of a step: where the kernels were measured, on both sides of their tiles."""
SEQUENCES = (1, 2, 3, 4, 6, 8, 12, 16, 17, 24, 32, 33, 48, 64, 65, 80, 96, 128, 129, 192, 256, 257, 384, 512, 513, 1024)
DECODE_BATCH = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
DECODE_CONTEXT = (
    1, 16, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768,
    49152, 65536, 98304, 131072,
)  # fmt: skip
PROMPT_BATCH = (1, 2, 4, 8, 16, 32)
PROMPT_TOKENS = (
    1, 8, 16, 32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192, 10240, 12288,
    16384, 32768,
)  # fmt: skip
PROMPT_PREFIX = (0, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
IMAGES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
PATCHES = (64, 144, 256, 400, 576, 784, 1024, 1444, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
