"""A tiny Llama as a GGUF file."""

from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf_files import changed
from merged_tokenizer import make_merged_tokenizer

from ropewalk.export.gguf.export import write_base_gguf
from ropewalk.export.gguf.file import Value


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """One that a GGUF file can hold."""
    return make_merged_tokenizer()


@pytest.fixture
def base(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The tiny Llama as a GGUF file, with values of every type that others write there."""
    write_base_gguf(tiny_model_folder, tmp_path / "plain.gguf")
    odd = {
        "general.tags": Value([b"one", b"\xff\xfe"], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING),
        "odd.uint8": Value(7, gguf.GGUFValueType.UINT8),
        "odd.int64": Value(-(2**40), gguf.GGUFValueType.INT64),
        "odd.float64": Value(1 / 3, gguf.GGUFValueType.FLOAT64),
        "odd.floats": Value([0.1, 0.2], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.FLOAT64),
        "odd.flags": Value([True, False], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.BOOL),
    }
    return changed(tmp_path / "plain.gguf", tmp_path / "base.gguf", metadata=odd)
