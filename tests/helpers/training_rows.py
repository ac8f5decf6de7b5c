"""Rows of a .jsonl file for training."""

import json
from pathlib import Path
from typing import Any


def write_rows(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
