"""Which tokenizers are written, and which are refused."""

from pathlib import Path
from typing import Any

import pytest
from gguf_files import edit, refused
from transformers import AutoTokenizer

from ropewalk.export.gguf.export import write_base_gguf
from ropewalk.export.gguf.file import read_gguf


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            }
        },
        {"pre_tokenizer": None},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}},
    ],
)
def test_tokenizers_that_llama_cpp_would_split_otherwise_are_refused(
    tiny_model_folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    edit(tiny_model_folder / "tokenizer.json", **change)
    refused(tiny_model_folder, tmp_path / "out.gguf", "tokenizer")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", "null", '{"model":' * 9999, '{"model": {"type": "BPE"}}', "\udcff",
     '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [3]}}',
     '{"model": {"type": "BPE", "vocab": {"a": "0"}, "merges": []}}'],
)  # fmt: skip
def test_a_broken_tokenizer_is_refused(tiny_model_folder: Path, tmp_path: Path, content: str) -> None:
    (tiny_model_folder / "tokenizer.json").write_text(content, errors="surrogateescape")
    refused(tiny_model_folder, tmp_path / "out.gguf", "tokenizer.json")


def test_tokens_beyond_the_embeddings_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(tiny_model_folder)
    refused(tiny_model_folder, tmp_path / "out.gguf", "token")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer_config.json", "{", "JSON"),
        ("tokenizer_config.json", '{"chat_template": "\\ud800"}', "surrogate"),
        ("chat_template.jinja", "\udcff", "UTF-8"),
    ],
)
def test_a_broken_chat_template_is_refused(
    tiny_model_folder: Path, tmp_path: Path, file: str, content: str, said: str
) -> None:
    (tiny_model_folder / file).write_text(content, errors="surrogateescape")
    refused(tiny_model_folder, tmp_path / "out.gguf", said)


@pytest.mark.parametrize("number", [-1, 5000, 2**40])
def test_special_token_ids_out_of_range_are_left_out(
    tiny_model_folder: Path, tmp_path: Path, number: int
) -> None:
    """Llama's first configurations have the padding token -1."""
    edit(tiny_model_folder / "config.json", pad_token_id=number)
    write_base_gguf(tiny_model_folder, tmp_path / "out.gguf")
    assert "tokenizer.ggml.padding_token_id" not in read_gguf(tmp_path / "out.gguf").metadata
