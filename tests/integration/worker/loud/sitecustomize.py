"""Has every Python process that finds it log all it has to say: its modules', asyncio's and the libraries'."""

import logging
import sys

logging.basicConfig(level=logging.DEBUG, format="LOUD %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
