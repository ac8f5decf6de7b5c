"""`python -m ropewalk` is `ropewalk`."""

import sys

from ropewalk.cli.main import run

sys.exit(run())
