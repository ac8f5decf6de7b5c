"""Which files are refused as not a whole model."""

from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from gguf_files import changed, refused

from ropewalk.export.gguf.file import Value


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.3, 0.7, 0.9999])
def test_truncated_files_are_refused(base: Path, tmp_path: Path, part: float) -> None:
    content = base.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * part)])
    refused(tmp_path / "cut.gguf", tmp_path / "out.gguf", "truncated")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda path: path.write_bytes(b"GGUF is not all there is to it" * 99), "truncated"),
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: changed(path, path, metadata={"general.type": Value.string("adapter")}), "adapter"),
        (lambda path: changed(path, path, metadata={"split.count": Value.uint32(3)}), "one of 3 parts"),
        (lambda path: changed(path, path, metadata={"llama.block_count": Value.uint32(0)}), "block_count"),
    ],
)
def test_broken_files_are_refused(
    base: Path, tmp_path: Path, break_it: Callable[[Path], object], said: str
) -> None:
    break_it(base)
    refused(base, tmp_path / "out.gguf", said)


@pytest.mark.parametrize(
    "key", ["attention.head_count", "rope.freq_base", "attention.key_length", "block_count"]
)
@pytest.mark.parametrize(
    "value",
    [Value.string("four"), Value(True, gguf.GGUFValueType.BOOL), Value(-4, gguf.GGUFValueType.INT32),
     Value([2, 2], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32)],
    ids=["text", "bool", "negative", "list"],
)  # fmt: skip
def test_sizes_of_another_type_are_refused(
    tiny_model_folder: Path, base: Path, tmp_path: Path, key: str, value: Value
) -> None:
    other = changed(base, tmp_path / "other.gguf", metadata={f"llama.{key}": value})
    refused(tiny_model_folder, tmp_path / "out.gguf", "heads|must be", base=other)
    if key != "attention.head_count":  # the head's size is stated, so it is not needed
        refused(other, tmp_path / "out.gguf", "must be")
