"""A source of training text: its groups of documents as token ids, and checks of its first documents."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from ropewalk.errors import DataError, SettingError
from ropewalk.finetune.data.chat import encode_chat, require_template
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.joining import BETWEEN_JOINED, Group, read_groups
from ropewalk.finetune.data.packing import Packing
from ropewalk.finetune.data.settings import SourceSettings
from ropewalk.finetune.data.streaming import BLOCK_SEGMENTS, MOST_DOCUMENTS, SHUFFLED_DOCUMENTS
from ropewalk.text.documents import WHOLE, Document
from ropewalk.text.sources import STDLIB_SPLITS, is_stdlib
from ropewalk.text.tokens import Encoder

MOST_CHECKED = 10_000  # documents that are searched for one as long as a segment
CHARACTERS_PER_TOKEN = 4  # an estimate; it decides only how many documents are packed at once


class Source:
    """A source with a tokenizer.

    Args:
        settings: the source.
        encode: the tokenizer.

    Raises:
        SettingError: a part of the standard library that is for measuring, or a chat with a tokenizer that
            has no chat template.
    """

    def __init__(self, settings: SourceSettings, encode: Encoder) -> None:
        part = settings.text.partition(":")[2]
        if is_stdlib(settings.text) and STDLIB_SPLITS.get(part, "train") != "train":
            raise SettingError(
                f"{settings.name} is {settings.text}, a part for measuring that must not be trained on: use "
                f"stdlib."
            )
        if settings.kind == "chat":
            require_template(encode.tokenizer, settings.name)
        self.settings = settings
        self._encode = encode
        self._between = encode(BETWEEN_JOINED)

    def document(self, group: Group, limit: int | None = None) -> TrainingDocument | None:
        """The tokens of a group, or None if it has too few or too many, or a chat has no answer.

        Args:
            limit: stop reading after about this number of tokens.
        """
        if self.settings.kind == "chat":
            return self._chat(group[0])
        fewest, most = self.settings.min_tokens, self.settings.max_tokens
        enough = None if limit is None else max(limit, fewest, (most or 0) + 1)
        parts, num_tokens = list[torch.Tensor](), 0
        for ids in self._stretches(group):
            parts.append(torch.tensor(ids, dtype=torch.int64))
            num_tokens += len(ids)
            if (most is not None and num_tokens > most) or (enough is not None and num_tokens >= enough):
                break
        if not self._accepts(num_tokens):
            return None
        return TrainingDocument(ids=torch.cat(parts), source=self.settings.name)

    def _accepts(self, num_tokens: int) -> bool:
        most = self.settings.max_tokens
        return self.settings.min_tokens <= num_tokens and (most is None or num_tokens <= most)

    def _stretches(self, group: Group) -> Iterator[list[int]]:
        """The token ids of a group, some at a time."""
        for index, document in enumerate(group):
            if index:
                yield self._between
            yield from self._encode.in_blocks(document)

    def _chat(self, document: Document) -> TrainingDocument | None:
        assert document.messages is not None
        ids, weights = encode_chat(self._encode.tokenizer, document.messages, document.name)
        if not self._accepts(len(ids)) or not any(weights):
            return None
        return TrainingDocument(
            ids=torch.tensor(ids), weights=torch.tensor(weights), source=self.settings.name
        )


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """What the first documents of a source say about it.

    Attributes:
        longest: tokens of the longest one, at most those of a segment.
        shuffled: how many groups of documents are shuffled together: all, if there are at most 256.
        block: how many groups give about `BLOCK_SEGMENTS` segments.
        beginning: hash of the names of the first documents, and of the sizes of files or the text of rows.
    """

    longest: int
    shuffled: int
    block: int
    beginning: str


def check_source(source: Source, packing: Packing) -> SourceCheck:
    """Read the first documents of a source.

    Raises:
        DataError: the source can't be read, or none of the first 10,000 documents can be used.
        SettingError: its budget is less than a segment.
    """
    settings = source.settings
    if settings.tokens is not None and settings.tokens < packing.length:
        raise SettingError(
            f"{settings.name} has a budget of {settings.tokens} tokens, but a segment has {packing.length}: "
            f"raise the budget, remove the source, or make the stage shorter."
        )
    first = list(islice(read_groups(settings), SHUFFLED_DOCUMENTS))
    fingerprints = [document.fingerprint() for group in first for document in group]
    characters = sum(_num_characters(document) for group in first for document in group)
    needed = BLOCK_SEGMENTS * packing.length * CHARACTERS_PER_TOKEN
    return SourceCheck(
        longest=_longest(source, packing.text_length),
        shuffled=len(first),
        block=min(MOST_DOCUMENTS, math.ceil(needed * len(first) / characters)) if characters else 1,
        beginning=hashlib.sha256(json.dumps(fingerprints).encode()).hexdigest()[:16],
    )


def _num_characters(document: Document) -> int:
    """The size of a file, or the characters of a row."""
    return document.file.stat().st_size if document.file is not None else len(document.head(WHOLE))


def _longest(source: Source, text_length: int) -> int:
    """Tokens of the longest of the first documents; stops at one of `text_length` tokens."""
    longest, num_read = 0, 0
    for group in islice(read_groups(source.settings), MOST_CHECKED):
        num_read += 1
        document = source.document(group, limit=text_length)
        if document is None:
            continue
        longest = max(longest, min(len(document.ids), text_length))
        if longest == text_length:
            break
    if not longest:
        raise DataError(_nothing_usable(source.settings, num_read))
    return longest


def _nothing_usable(settings: SourceSettings, num_read: int) -> str:
    what = f"{settings.name} ({settings.text})"
    if num_read == 0:
        rest = f" after its first {settings.skip}" if settings.skip else ""
        return f"{what} has no document{rest}: give another text."
    bucket = f"{settings.min_tokens} to {settings.max_tokens or 'more'} tokens"
    if settings.kind == "chat":
        return (
            f"{what} has no chat of {bucket} with an answer in the first {num_read}: a chat needs a message "
            f'of the role "assistant" after another one.'
        )
    return (
        f"{what} has no document of {bucket} in the first {num_read}: change min_tokens or max_tokens, or "
        f"give another text."
    )
