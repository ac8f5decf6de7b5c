"""A model's tokenizer: one that is there, and makes only numbers that the model has embeddings for."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoTokenizer

from ropewalk.errors import ModelError
from ropewalk.models.load_errors import one_line_errors

# Any of these is what some family's tokens are read from.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model*", "vocab.*", "*.tiktoken", "tekken.json", "*.spm", "spiece.model",
    "sentencepiece*", "*.gguf",
)  # fmt: skip


def read_tokenizer(path: str, name: str, *, config: Any = None, **options: Any) -> Any:
    """A tokenizer that has tokens; transformers makes some families' out of nothing where files are missing.

    Args:
        path: a folder, or a name on the hub.
        name: how errors call the model.
        config: the model's configuration where it is known.
        options: as `AutoTokenizer.from_pretrained` takes them.

    Raises:
        ModelError: none, or one that can't be read.
    """
    is_local = Path(path).is_dir()
    given = {} if config is None else {"config": config}
    try:
        with one_line_errors(name, on_hub=not is_local):
            tokenizer = AutoTokenizer.from_pretrained(path, **given, **options)
            is_empty = set(tokenizer.get_vocab()) <= set(_added(tokenizer))
    except ModelError as error:
        if is_local and not _has_files(Path(path)):
            raise ModelError(_missing(name)) from error
        raise
    if is_empty:
        raise ModelError(_missing(name))
    return tokenizer


def require_embeddings(model: Any, tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer whose numbers go beyond the model's embeddings, now or when such a number comes in.

    Added tokens beyond them are common, and matter only in a text that has them: there, the embedding itself
    refuses.

    Raises:
        ModelError: the vocabulary itself, or what is put around every text, goes beyond them.
    """
    embedding = model.get_input_embeddings()
    size = getattr(embedding, "num_embeddings", None)
    if size is None:
        return
    beyond = {number for number in tokenizer.get_vocab().values() if number >= size}
    if not beyond:
        return
    used = {*tokenizer("a").input_ids, *(beyond - set(_added(tokenizer).values()))}
    if used & beyond:
        raise ModelError(_not_embedded(f"{name} has a tokenizer with token {max(used)}", size))
    embedding.register_forward_pre_hook(_EmbeddedOnly(name, size))


class _EmbeddedOnly:
    """Raises on tokens without an embedding, where torch would end in an error of its own."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest = int(inputs[0].max())
        if largest >= self.size:
            raise ModelError(
                _not_embedded(f"The text has token {largest} of {self.name}'s tokenizer", self.size)
            )


def _added(tokenizer: Any) -> dict[str, int]:
    """Tokens beside the vocabulary; the tokenizers of mistral-common have no such list."""
    added: dict[str, int] = getattr(tokenizer, "get_added_vocab", dict)()
    return added


def _not_embedded(what: str, size: int) -> str:
    return (
        f"{what}, but the model has embeddings for 0 to {size - 1} only: save the model and the tokenizer "
        f"that belong together, or resize the embeddings."
    )


def _has_files(folder: Path) -> bool:
    return any(file.is_file() for pattern in TOKENIZER_FILES for file in folder.glob(pattern))


def _missing(name: str) -> str:
    return (
        f"{name} holds no tokenizer: copy the model's tokenizer.json and tokenizer_config.json there, or "
        f"save its tokenizer with save_pretrained."
    )
