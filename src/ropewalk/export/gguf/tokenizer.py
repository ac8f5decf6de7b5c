"""A checkpoint's tokenizer.json as a GGUF file's metadata: byte-level BPE with a split that llama.cpp knows.

A GGUF file has no regular expressions: it names a split of llama.cpp, and a wrong name gives other tokens
without an error. A tokenizer is therefore written only if its split is equal to one of these.
"""

import json
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer

from ropewalk.errors import ExportError
from ropewalk.export.gguf.file import Value
from ropewalk.export.source_checkpoint import read_checkpoint_json

LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The steps of a pre-tokenizer to (llama.cpp's name, whether it looks up a whole word before it merges).
SPLITS = {
    (("ByteLevel", False, True),): ("gpt-2", False),
    (("Digits", True), ("ByteLevel", False, True)): ("smollm", False),
    (("Split", LLAMA_3_SPLIT, "Isolated", False), ("ByteLevel", False, False)): ("llama-bpe", True),
}


def tokenizer_metadata(folder: Path, config: Any) -> dict[str, Value]:
    """All `tokenizer.*` keys of a checkpoint.

    Args:
        config: transformers' configuration; its `vocab_size` is that of the stored embeddings.

    Raises:
        ExportError: tokenizer.json is missing, can't be read, or has a split that llama.cpp does not know.
    """
    tokenizer = _read(folder / "tokenizer.json", folder)
    name = _split_name(tokenizer, folder)
    tokens, token_types = _vocabulary(tokenizer, config.vocab_size, folder)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    keys = {
        "ggml.model": Value.string("gpt2"),
        "ggml.pre": Value.string(name),
        "ggml.tokens": Value.strings(tokens),
        "ggml.token_type": Value.int32s(token_types),
        "ggml.merges": Value.strings(merges),
        **_special(tokenizer, config),
        **_chat_template(folder),
    }
    return {f"tokenizer.{key}": value for key, value in keys.items()}


def _read(file: Path, folder: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ExportError(
            f"{folder} has no tokenizer.json, which a GGUF file needs: save the tokenizer there, or convert "
            f"the model with llama.cpp's converter and name that file with --gguf."
        )
    try:
        # The tokenizers library checks the file and writes every key with its default.
        read: dict[str, Any] = json.loads(Tokenizer.from_file(str(file)).to_str())
    except Exception as error:  # the library raises plain Exception
        reason = " ".join(str(error).split())[:120]
        raise ExportError(f"{file} can't be read as a tokenizer ({reason}): copy it again.") from None
    return read


def _split_name(tokenizer: dict[str, Any], folder: Path) -> str:
    model, steps = tokenizer["model"], _steps(tokenizer.get("pre_tokenizer"))
    known = SPLITS.get(steps)
    plain = (
        model["type"] == "BPE"
        and model["merges"]  # llama.cpp does not load a file without merges
        and not model.get("byte_fallback")
        and not _steps(tokenizer.get("normalizer"))
    )
    if known is None or not plain or bool(model.get("ignore_merges")) != known[1]:
        raise ExportError(
            f"{folder} has a tokenizer that Ropewalk can't write for llama.cpp: convert the model with "
            f"llama.cpp's converter, and name that file with --gguf."
        )
    return known[0]


def _steps(part: dict[str, Any] | None) -> tuple[tuple[Any, ...], ...]:
    """The steps of a part of tokenizer.json, each with the settings that change its output."""
    if part is None:
        return ()
    if part["type"] == "Sequence":
        inner = part.get("pretokenizers") or part.get("normalizers") or []
        return tuple(step for one in inner for step in _steps(one))
    settings = {
        "ByteLevel": ("add_prefix_space", "use_regex"),
        "Digits": ("individual_digits",),
        "Split": ("pattern", "behavior", "invert"),
    }.get(part["type"], ())
    values = (part.get(name) for name in settings)
    return ((part["type"], *(v.get("Regex") if isinstance(v, dict) else v for v in values)),)


def _vocabulary(tokenizer: dict[str, Any], size: int, folder: Path) -> tuple[list[str], list[int]]:
    """The tokens by id, and their token types; an id without a token is marked as unused."""
    tokens = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    token_types = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
    for added in tokenizer.get("added_tokens", []):
        number = added["id"]
        tokens[number] = added["content"]
        is_special = added["special"]
        token_types[number] = gguf.TokenType.CONTROL if is_special else gguf.TokenType.USER_DEFINED
    if max(tokens) >= size:
        raise ExportError(
            f"{folder} has a token with the id {max(tokens)}, but its model has {size} embeddings: save the "
            f"tokenizer that belongs to the model."
        )
    unused = gguf.TokenType.UNUSED
    return (
        [tokens.get(number, f"[PAD{number}]") for number in range(size)],
        [int(token_types.get(number, unused)) for number in range(size)],
    )


def _special(tokenizer: dict[str, Any], config: Any) -> dict[str, Value]:
    ids = {
        name: number
        for name in ("bos", "eos", "pad")
        if (number := _first(getattr(config, f"{name}_token_id", None))) in range(config.vocab_size)
    }
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    first, last = _first_and_last_token(tokenizer.get("post_processor"))
    return {
        **{f"ggml.{names[name]}_token_id": Value.uint32(number) for name, number in ids.items()},
        "ggml.add_bos_token": Value.boolean(first is not None and first == ids.get("bos")),
        "ggml.add_eos_token": Value.boolean(last is not None and last == ids.get("eos")),
    }


def _first(number: Any) -> Any:
    """The first id of several, or the id itself."""
    return (number or [None])[0] if isinstance(number, list) else number


def _first_and_last_token(processor: dict[str, Any] | None) -> tuple[int | None, int | None]:
    """The ids of the tokens that the tokenizer adds before and after a text; None for no token."""
    if processor is None:
        return None, None
    if processor["type"] == "Sequence":
        found = [_first_and_last_token(one) for one in processor["processors"]]
        return next((pair for pair in found if pair != (None, None)), (None, None))
    if processor["type"] != "TemplateProcessing" or not processor["single"]:
        return None, None
    ends = (processor["single"][0], processor["single"][-1])
    known = processor["special_tokens"]
    first, last = (
        known[end["SpecialToken"]["id"]]["ids"][0] if "SpecialToken" in end else None for end in ends
    )
    return first, last


def _chat_template(folder: Path) -> dict[str, Value]:
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    template: Any
    try:
        if file.is_file():
            template = file.read_text(encoding="utf-8")
        else:
            values = read_checkpoint_json(settings) if settings.is_file() else {}
            template = values.get("chat_template") if isinstance(values, dict) else None
        if not isinstance(template, str) or not template:
            return {}
        template.encode("utf-8")
    except UnicodeError:
        raise ExportError(f"{folder} has a chat template that is not UTF-8: copy it again.") from None
    return {"chat_template": Value.string(template)}
