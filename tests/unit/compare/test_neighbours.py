"""Other programs' share of the machine."""

from __future__ import annotations

import subprocess
import sys
import time

from tercet.compare.neighbours import Neighbours

BURN = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass"


def test_a_descendants_work_is_not_a_neighbours() -> None:
    watch = Neighbours()
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", BURN + "\nprint('done', flush=True)\ntime.sleep(60)"], stdout=-1
    )
    assert child.stdout is not None
    child.stdout.readline()
    own = watch.cores()
    wall = time.perf_counter() - started
    child.kill()
    child.wait()
    # Dead, it is no descendant any more: the same work now counts as others'.
    assert watch.cores() * (time.perf_counter() - started) - own * wall >= 0.4


def test_an_idle_machine_is_never_below_zero() -> None:
    assert Neighbours().cores() >= 0.0
