"""Makes the pictures of docs/dashboard.md anew: a fleet of virtual H100s under traffic, before a real browser.

python -m scripts.dashboard_screenshots [FOLDER]      # about four minutes; default: docs
"""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

from PIL import Image
from tests.browser import Browser, browser
from tests.e2e.conftest import Serve, start_serve, stop_serve

ROOT = Path(__file__).parents[1]
TOPOLOGY = f"""
name: dashboard
model: llava-mistral-7b
mode: epd
workers: 2E2P2D
engine:
  engine: virtual
  gpu: h100
  random_weights: {ROOT}/examples/models/llava-mistral-7b.json
  kv_blocks: 1200
router:
  ppd_threshold: 512
"""
TRAFFIC = (
    "--workload images --images 1-2 --image-pool 0 --output-tokens 120 --turns 3 --think 2 --qps 2.5",
    "--workload 1000/160 --turns 3 --think 2 --qps 2",
)
"""Of `tercet bench`: conversations about pictures, and others."""
BEFORE_S, AFTER_S = 100, 50
LOOKS = (("light", 1440, 1480, 1.25), ("dark", 1440, 1480, 1.25), ("phone", 390, 1240, 2.0))
MOST_BYTES = 200_000


@contextmanager
def traffic(url: str, folder: Path) -> Iterator[None]:
    """Send it while this is entered."""
    begin = (sys.executable, "-m", "tercet", "bench", url, "--duration", "3600", "--output")
    running = [
        subprocess.Popen(
            [*begin, str(folder / str(i)), *flags.split()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for i, flags in enumerate(TRAFFIC)
    ]
    try:
        yield
        assert all(process.poll() is None for process in running), "the traffic has ended"
    finally:
        for process in running:
            process.kill()
            process.wait()


def picture(page: Browser, path: Path) -> None:
    """Write what is seen as a PNG. Fails when it is larger than a repository should hold."""
    seen = Image.open(io.BytesIO(base64.b64decode(page.driver.get_screenshot_as_base64()))).convert("RGB")
    out = io.BytesIO()
    seen.save(out, "PNG", optimize=True)
    if len(out.getvalue()) > MOST_BYTES:
        out = io.BytesIO()
        seen.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    assert len(out.getvalue()) <= MOST_BYTES, f"{path} would have {len(out.getvalue()):,} bytes"
    path.write_bytes(out.getvalue())
    print(f"{path}: {seen.width} x {seen.height}, {len(out.getvalue()):,} bytes")


def look(serve: Serve, page: Browser, folder: Path) -> None:
    """Take the pictures: some time after the mode was switched."""
    page.emulate("light", 1440)
    page.driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    page.visit(serve.url + "/ui")
    sleep(BEFORE_S)
    serve.mode("eppd")
    sleep(AFTER_S)
    for name, width, height, pixels in LOOKS:
        page.emulate("dark" if name == "dark" else "light", width, height, pixels=pixels)
        sleep(2.5)
        picture(page, folder / f"dashboard-{name}.png")


def main() -> None:
    """Start everything, take the pictures, end everything."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    with tempfile.TemporaryDirectory() as temporary:
        own = Path(temporary)
        (own / "topology.yaml").write_text(TOPOLOGY)
        serve = start_serve(own / "logs", str(own / "topology.yaml"))
        try:
            with traffic(serve.url, own), browser(own / "profile") as page:
                look(serve, page, folder)
        finally:
            stop_serve(serve)


if __name__ == "__main__":
    main()
