"""The commands of docs/near-far.md, on a small model and small texts."""

import re
import shlex
from pathlib import Path

from ropewalk.factors.rescale_factors import RescaleFactors

PAGE = Path(__file__).parents[2] / "docs" / "near-far.md"


def test_the_commands_of_the_page_run(ropewalk, model, shelf, tmp_path):
    (block,) = re.findall(
        r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    evaluate, search = (shlex.split(line)[1:] for line in block.splitlines())
    small = {
        "scale-model": model,
        "stdlib": shelf,
        "256,2048": "128,512",
        "8x": "4x",
        "runs/near-far": tmp_path / "run",
    }
    ended = ropewalk(*(small.get(word, word) for word in evaluate))
    assert ended.code == 0, ended.err
    assert "near-far" in ended.out
    few = ("--text", shelf, "--num-test-documents", "1")
    ended = ropewalk(*(small.get(word, word) for word in search), *few)
    assert ended.code == 0, ended.err
    factors = RescaleFactors.load(tmp_path / "run" / "factors.json")
    assert factors.target_length == 512
