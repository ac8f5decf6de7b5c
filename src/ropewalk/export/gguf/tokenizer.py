"""A checkpoint's tokenizer.json as a GGUF file's metadata: byte-level BPE in the splits that llama.cpp knows.

llama.cpp has no regular expressions of a file's own: it names splits, and a wrong name makes other tokens
without an error. So a tokenizer is written only where its split is one of these, word for word.
"""

import json
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer

from ropewalk.errors import ExportError
from ropewalk.export.gguf.file import Value, ValueType, flag, text, texts, whole
from ropewalk.export.source_checkpoint import read_json

LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The steps of a pre-tokenizer -> (llama.cpp's name, whether it looks a whole word up before it merges).
SPLITS = {
    (("ByteLevel", False, True),): ("gpt-2", False),
    (("Digits", True), ("ByteLevel", False, True)): ("smollm", False),
    (("Split", LLAMA_3_SPLIT, "Isolated", False), ("ByteLevel", False, False)): ("llama-bpe", True),
}


def tokenizer_metadata(folder: Path, config: Any) -> dict[str, Value]:
    """Every `tokenizer.*` key of this checkpoint.

    Args:
        config: transformers' configuration; its `vocab_size` is that of the stored embeddings.

    Raises:
        ExportError: no tokenizer.json, one that can't be read, or one that llama.cpp would split otherwise.
    """
    tokenizer = _read(folder / "tokenizer.json", folder)
    name = _split_name(tokenizer, folder)
    tokens, kinds = _vocabulary(tokenizer, config.vocab_size, folder)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    keys = {
        "ggml.model": text("gpt2"),
        "ggml.pre": text(name),
        "ggml.tokens": texts(tokens),
        "ggml.token_type": Value(kinds, ValueType.ARRAY, ValueType.INT32),
        "ggml.merges": texts(merges),
        **_special(tokenizer, config),
        **_chat_template(folder),
    }
    return {f"tokenizer.{key}": value for key, value in keys.items()}


def _read(file: Path, folder: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ExportError(
            f"{folder} holds no tokenizer.json, which a GGUF file needs: save the tokenizer there, or "
            f"convert with llama.cpp's converter and name that file with --gguf."
        )
    try:
        # The library that it is written for checks it, and writes all of it out.
        read: dict[str, Any] = json.loads(Tokenizer.from_file(str(file)).to_str())
    except Exception as error:  # the library raises bare ones
        reason = " ".join(str(error).split())[:120]
        raise ExportError(f"{file} can't be read as a tokenizer ({reason}): copy it again.") from None
    return read


def _split_name(tokenizer: dict[str, Any], folder: Path) -> str:
    model, steps = tokenizer["model"], _steps(tokenizer.get("pre_tokenizer"))
    known = SPLITS.get(steps)
    plain = (
        model["type"] == "BPE"
        and model["merges"]  # without any, llama.cpp does not load the file
        and not model.get("byte_fallback")
        and not _steps(tokenizer.get("normalizer"))
    )
    if known is None or not plain or bool(model.get("ignore_merges")) != known[1]:
        raise ExportError(
            f"{folder} has a tokenizer that can't be named to llama.cpp here: convert it with llama.cpp's "
            f"converter, and name that file with --gguf."
        )
    return known[0]


def _steps(part: dict[str, Any] | None) -> tuple[tuple[Any, ...], ...]:
    """A part of tokenizer.json as a flat tuple of what each step does."""
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
    """(tokens by id, the kind of each); ids that no token has are marked unused."""
    tokens = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    kinds = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
    for added in tokenizer.get("added_tokens", []):
        number = added["id"]
        tokens[number] = added["content"]
        kinds[number] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    if max(tokens) >= size:
        raise ExportError(
            f"{folder} has a token with the number {max(tokens)}, but its model has only {size}: save the "
            f"model and the tokenizer that belong together."
        )
    unused = gguf.TokenType.UNUSED
    return (
        [tokens.get(number, f"[PAD{number}]") for number in range(size)],
        [int(kinds.get(number, unused)) for number in range(size)],
    )


def _special(tokenizer: dict[str, Any], config: Any) -> dict[str, Value]:
    ids = {
        name: number
        for name in ("bos", "eos", "pad")
        if (number := _first(getattr(config, f"{name}_token_id", None))) in range(config.vocab_size)
    }
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    first, last = _opens_and_closes_with(tokenizer.get("post_processor"))
    return {
        **{f"ggml.{names[name]}_token_id": whole(number) for name, number in ids.items()},
        "ggml.add_bos_token": flag(first is not None and first == ids.get("bos")),
        "ggml.add_eos_token": flag(last is not None and last == ids.get("eos")),
    }


def _first(number: Any) -> Any:
    """Of several numbers the first."""
    return (number or [None])[0] if isinstance(number, list) else number


def _opens_and_closes_with(processor: dict[str, Any] | None) -> tuple[int | None, int | None]:
    """The tokens that are put before and after a text."""
    if processor is None:
        return None, None
    if processor["type"] == "Sequence":
        found = [_opens_and_closes_with(one) for one in processor["processors"]]
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
            said = read_json(settings) if settings.is_file() else {}
            template = said.get("chat_template") if isinstance(said, dict) else None
        if not isinstance(template, str) or not template:
            return {}
        template.encode("utf-8")
    except UnicodeError:
        raise ExportError(f"{folder} has a chat template that is not UTF-8: copy it again.") from None
    return {"chat_template": text(template)}
