"""A worker whose engine process is the stub. Argument: the port."""

from __future__ import annotations

import sys
from pathlib import Path

from tercet.worker.config import WorkerConfig
from tercet.worker.front import run

if __name__ == "__main__":
    stub = Path(__file__).with_name("stub_engine.py")
    config = WorkerConfig(
        name="stub", random_weights="tiny", dtype="fp32", port=int(sys.argv[1]), max_num_seqs=128, topology_id="bench"
    )
    sys.exit(run(config, engine_command=(sys.executable, str(stub))))
