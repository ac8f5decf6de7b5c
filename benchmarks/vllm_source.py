"""vLLM's own, unchanged files, asked by `vllm_probe.py` in a process of their own."""

import json
import os
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

REPOSITORY = Path(__file__).parents[1]
PROBE = Path(__file__).with_name("vllm_probe.py")


@dataclass(frozen=True)
class Source:
    """An unpacked source archive, and the Python of an environment that has what it imports."""

    folder: Path
    python: str

    @property
    def version(self) -> str:
        return self.folder.name.removeprefix("vllm-")

    def ask(self, requests: list[dict[str, Any]], place: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """One process; answers by the requests' names, and tensors."""
        place.mkdir()
        metadata = write_metadata(place / "metadata", self.version)
        (place / "requests.json").write_text(json.dumps(requests))
        path = os.pathsep.join(map(str, (self.folder, metadata, REPOSITORY / "src")))
        result = subprocess.run(
            [self.python, str(PROBE), str(place / "requests.json"), str(place / "answer")],
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr[-4000:]
        return json.loads((place / "answer.json").read_text()), load_file(place / "answer.safetensors")


def write_metadata(folder: Path, version: str) -> Path:
    """What pip leaves of both packages: their versions, and Ropewalk's entry points as in pyproject."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["entry-points"].items()
    points = "".join(
        f"[{group}]\n{name} = {value}\n" for group, found in groups for name, value in found.items()
    )
    for name, number in (("vllm", f"{version}+cpu"), ("ropewalk", "0")):
        info = folder / f"{name}-{number}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    (info / "entry_points.txt").write_text(points)
    return folder
