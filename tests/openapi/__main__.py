"""`python -m tests.openapi 600`: schemathesis for ten minutes, other requests each time."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.openapi.checking import check


def main(seconds: str = "300") -> int:
    with tempfile.TemporaryDirectory() as folder:
        code, said = check(Path(folder), "--max-time", seconds)
    print(said)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
