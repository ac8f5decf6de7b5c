"""The Python of docs/golden-vectors.md runs as it stands there."""

import re
from pathlib import Path

from ropewalk.testing.golden_vectors import VECTORS

PAGE = (Path(__file__).parents[2] / "docs" / "golden-vectors.md").read_text(encoding="utf-8")


def test_it_runs():
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    exec(block, {})
    assert (Path(__file__).parents[2] / "src/ropewalk/testing/golden" / VECTORS.name).is_file()
