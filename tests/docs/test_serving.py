"""The commands of docs/serving.md run as they stand there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from ropewalk.factors.geometry import RopeGeometry
from ropewalk.rope.schemes import scheme_factors

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
SCALE = RopeGeometry(head_dim=64, rotary_dim=64, rope_theta=625.0, original_length=256, num_layers=4)


def test_its_commands_run(tmp_path):
    scheme_factors("yarn", SCALE, 512).save(tmp_path / "factors.json")
    (block,) = re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    lines = block.splitlines()
    assert len(lines) == 2
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "ropewalk"
        ended = subprocess.run(
            [sys.executable, "-m", "ropewalk", *arguments],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Right: transformers" in ended.stdout
