"""The tokenizer of a model, checked: its files exist, and the model has embeddings for its token ids."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoTokenizer

from ropewalk.errors import ModelError
from ropewalk.models.load_errors import one_line_errors

# Each of these is the vocabulary file of some family.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model*", "vocab.*", "*.tiktoken", "tekken.json", "*.spm", "spiece.model",
    "sentencepiece*", "*.gguf",
)  # fmt: skip


def read_tokenizer(path: str, name: str, *, config: Any = None, **options: Any) -> Any:
    """Read a tokenizer. If its files are missing, transformers creates one without tokens for some families.

    Args:
        path: a folder, or a name on the hub.
        name: the model's name in errors.
        config: the model's configuration, if it is known.
        options: further arguments of `AutoTokenizer.from_pretrained`.

    Raises:
        ModelError: there is no tokenizer, or it can't be read.
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
    """Refuse a tokenizer with token ids beyond the model's embeddings.

    Added tokens beyond the embeddings are common, and matter only in a text that has them: a hook on the
    embedding refuses such a text.

    Raises:
        ModelError: an id of the vocabulary, or of the tokens around every text, is beyond the embeddings.
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
    """A hook that raises an error of one line for tokens without an embedding."""

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
    """Tokens added to the vocabulary; the tokenizers of mistral-common have no such list."""
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
        f"{name} has no tokenizer: copy the model's tokenizer.json and tokenizer_config.json there, or "
        f"save its tokenizer with save_pretrained."
    )
