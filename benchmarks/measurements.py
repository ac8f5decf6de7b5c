"""What a long benchmark has measured so far, in a file, so that one that was killed goes on."""

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from evaluator import processor
from ropewalk.store import write_atomically

ROOT = Path(__file__).parents[1]


class Measurements:
    """One benchmark's measurements, in `measurements.json` of a folder; each is written as it ends.

    Those of another machine, of other versions or of other code are refused, not mixed in.

    Attributes:
        path: the file.
        about: what was measured on and with, of the results too.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """`about`: JSON values."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "measurements.json"
        self.about = about
        self._measured: dict[str, Any] = {}
        if self.path.exists():
            self._go_on()

    def measure(self, name: str, run: Callable[[], Any]) -> Any:
        """What was measured under this name, now if not before; JSON values."""
        if name not in self._measured:
            self._measured[name] = run()
            document = {"about": self.about, "measured": self._measured}
            write_atomically(self.path, (json.dumps(document, indent=1) + "\n").encode())
        return self._measured[name]

    @property
    def measured(self) -> dict[str, Any]:
        """Everything so far, by name."""
        return self._measured

    def forget(self) -> None:
        """Once all is published; the next run measures anew."""
        self.path.unlink(missing_ok=True)

    def _go_on(self) -> None:
        try:
            document = json.loads(self.path.read_bytes())
            before, self._measured = document["about"], dict(document["measured"])
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{self.path} is not a file of measurements ({error}): remove it.") from None
        others = [name for name, value in self.about.items() if before.get(name) != value]
        if others:
            raise SystemExit(
                f"{self.path} was measured with another {', '.join(others)}: go on as it was begun, or give "
                f"another folder with --out."
            )


def default_folder(benchmark: str) -> Path:
    """Where measurements lie if no folder is given; outside of the repository."""
    return Path(tempfile.gettempdir()) / f"ropewalk-{benchmark}"


def surroundings(packages: tuple[str, ...], script: str) -> dict[str, Any]:
    """What measurements depend on: the machine, versions, and the code that is measured."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "preloaded": Path(os.environ.get("LD_PRELOAD", "")).name,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "code": code_hash(script),
    }


def code_hash(script: str) -> str:
    """Of the package's source and of the script, whatever commit they are at."""
    files = [*sorted((ROOT / "src").rglob("*.py")), Path(script)]
    content = b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()[:12]
