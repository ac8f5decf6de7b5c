"""A named source of training text: what it is, and its documents in an order that can be resumed.

    documents -> groups (joined by folder or topic) -> blocks (shuffled) -> token ids -> pieces of one length

At most a block is held in memory, as names and unread files or as rows. A place in a source is five numbers,
and everything random follows from them: nothing else has to be kept to go on from there.
"""

import hashlib
import json
import math
import random
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from itertools import chain, groupby, islice
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from ropewalk.errors import DataError, SettingError
from ropewalk.finetune.data.chat import encode_chat, require_template
from ropewalk.text.documents import Document, DocumentKind
from ropewalk.text.sources import STDLIB_SPLITS, is_stdlib, read_documents
from ropewalk.text.tokens import Encoder
from ropewalk.units import LONGEST, MOST

Join = Literal["none", "folder", "topic"]

GROUPS_IN_BLOCK = 256
DOCUMENTS_IN_BLOCK = 4096
MOST_TOKENS = 10**15  # of a budget: more than was ever written
BETWEEN_JOINED = "\n\n"


class SourceSettings(BaseModel):
    """One source of a mixture.

    Attributes:
        name: in records and messages.
        text: as `documents.read_documents` takes it; of `stdlib` its training part.
        weight: its share of the tokens, in relation to the other sources.
        min_tokens, max_tokens: documents of other lengths are left out (without BOS and EOS; joined ones as
            joined). Longer ones than a segment are cut into pieces of one.
        tokens: a budget; when it is spent, the other sources go on by their weights, and when all are spent
            the mixture ends. None reads the source over and over, in a new order each time.
        kind: `chat` reads rows of `messages`; only the assistant's answers count in the loss.
        join: `folder` makes one document of all that lie in one folder (of `stdlib`: in one package), `topic`
            of all rows with one `topic` among 4096 that follow each other.
        skip: so many of its first documents are left out, e.g. those that are measured on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    text: str
    weight: float = Field(default=1.0, gt=0)
    min_tokens: int = Field(default=1, ge=1, le=LONGEST)
    max_tokens: int | None = Field(default=None, ge=1, le=LONGEST)
    tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    kind: DocumentKind = "text"
    join: Join = "none"
    skip: int = Field(default=0, ge=0, le=MOST)

    @model_serializer(mode="wrap")
    def _as_ever(self, write: Any) -> Any:
        """Without `skip` where nothing is skipped: trainings that began before there was one are the same."""
        values = write(self)
        if not self.skip:
            values.pop("skip", None)
        return values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            raise ValueError(
                f"{self.name} takes documents of {self.min_tokens} to {self.max_tokens} tokens, which is "
                f"none: put min_tokens below max_tokens"
            )
        if self.skip and self.join == "folder":
            raise ValueError(
                f"{self.name} is joined by folder, so its first documents can't be skipped: leave one out"
            )
        if self.kind == "chat" and self.join != "none":
            raise ValueError(f"{self.name} is a chat, and chats are not joined: leave join out")
        return self

    def describe(self) -> dict[str, Any]:
        """JSON values for the record; says in words how documents were joined."""
        joined = {
            "none": "each document by itself",
            "folder": "documents of one folder joined into one",
            "topic": f"documents of one topic joined into one, among {DOCUMENTS_IN_BLOCK} in succession",
        }
        return {**self.model_dump(mode="json"), "joined": joined[self.join]}


@dataclass(frozen=True)
class Place:
    """Where in a source: round, block, group in the block's order, piece; pieces given in this round."""

    round: int = 0
    block: int = 0
    group: int = 0
    piece: int = 0
    num_pieces: int = 0


@dataclass(frozen=True, kw_only=True)
class Piece:
    """At most `room` tokens of a document.

    Attributes:
        weights: of each token in the loss; None for 1 everywhere.
        name: of the document, or of the first and last that were joined.
        is_last: whether the document ends with it.
    """

    ids: list[int]
    weights: list[float] | None
    name: str
    is_last: bool


Group = tuple[Document, ...]


class SourceReader:
    """A source's documents in pieces, over and over, each round in an order of its own.

    Documents are shuffled within blocks of 256 (joined ones counting as one); the blocks follow each other as
    the source has them.

    Args:
        room: tokens of a piece at most.
        seed: of the orders.

    Raises:
        SettingError: the standard library's evaluation text, or a chat with a tokenizer that has no template.
        DataError: the source can't be read.
    """

    def __init__(self, settings: SourceSettings, encode: Encoder, room: int, seed: str) -> None:
        assert room >= 1, room
        self.settings = settings
        self.place = Place()
        self._encode, self._room, self._seed = encode, room, seed
        self._between = encode(BETWEEN_JOINED)
        self._blocks: Iterator[list[Group]] | None = None
        self._block: list[Group] = []
        self._number = -1  # of `_block`
        self._pieces: Iterator[Piece] | None = None  # what is left of the group at `place`
        self._seen = _Lengths()
        _require_training_text(settings)
        if settings.kind == "chat":
            require_template(encode.tokenizer, settings.name)
        self._read()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece:
        while True:
            if self._pieces is None:
                self._pieces = self._open()
            piece = next(self._pieces, None)
            place = self.place
            if piece is not None:
                self.place = replace(place, piece=place.piece + 1, num_pieces=place.num_pieces + 1)
                return piece
            self._pieces = None
            self.place = replace(place, group=place.group + 1, piece=0)

    def state(self) -> list[int]:
        """The place as JSON values."""
        return list(astuple(self.place))

    def go_to(self, state: list[int]) -> None:
        """Go on from a place; the block at hand is kept where it is that place's or comes before it."""
        place = Place(*state)
        if place != self.place:
            self.place, self._pieces = place, None

    def beginning(self) -> str:
        """A hash of the first block: its names, the sizes of files, and of rows the text."""
        said = [document.fingerprint() for group in self._block_at(0) or [] for document in group]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    def _open(self) -> Iterator[Piece]:
        """The pieces from `place` on, which moves on to the next block or round where one has ended."""
        while True:
            place = self.place
            block = self._block_at(place.block)
            if block is None:
                if place.num_pieces == 0:
                    raise DataError(self._seen.complaint(self.settings))
                self.place = Place(round=place.round + 1)
            elif place.group >= len(block):
                self.place = replace(place, block=place.block + 1, group=0)
            else:
                rng = random.Random(f"{self._seed} {self.settings.name} {place.round} {place.block}")
                chosen = rng.sample(range(len(block)), len(block))[place.group]
                return islice(self._cut(block[chosen]), place.piece, None)

    def _block_at(self, number: int) -> list[Group] | None:
        """A block by its number, None behind the last; going back begins the source anew."""
        if self._blocks is None or number < self._number:
            self._blocks, self._number = _blocks(join_documents(self._read(), self.settings.join)), -1
        while self._number < number:
            block = next(self._blocks, None)
            if block is None:
                self._blocks = None
                return None
            self._block, self._number = block, self._number + 1
        return self._block

    def _read(self) -> Iterator[Document]:
        settings = self.settings
        by_folder = settings.join == "folder"
        documents = read_documents(settings.text, split="train", kind=settings.kind, by_folder=by_folder)
        return islice(documents, settings.skip, None) if settings.skip else documents

    def _cut(self, group: Group) -> Iterator[Piece]:
        """A document's pieces; none where its length is not asked for."""
        name = group_name(group)
        tokens = self._tokens(group)
        fewest, most = self.settings.min_tokens, self.settings.max_tokens
        head = list(islice(tokens, fewest if most is None else most + 1))
        self._seen.note(len(head), most)
        if len(head) < fewest or (most is not None and len(head) > most):
            return
        tokens = chain(head, tokens)
        piece = list(islice(tokens, self._room))
        while piece:
            following = list(islice(tokens, self._room))
            ids, weights = [token for token, _ in piece], [weight for _, weight in piece]
            is_plain = self.settings.kind == "text"
            if is_plain or any(weights):  # what has no answer in it teaches nothing
                yield Piece(ids=ids, weights=None if is_plain else weights, name=name, is_last=not following)
            piece = following

    def _tokens(self, group: Group) -> Iterator[tuple[int, float]]:
        """Every token of a document with its weight."""
        for index, document in enumerate(group):
            if document.messages is not None:
                yield from zip(
                    *encode_chat(self._encode.tokenizer, document.messages, document.name), strict=True
                )
                continue
            if index:
                yield from ((token, 1.0) for token in self._between)
            for ids in self._encode.in_blocks(document):
                yield from ((token, 1.0) for token in ids)


class _Lengths:
    """The lengths that a reader met, for the message when none was of use."""

    def __init__(self) -> None:
        self.num_read, self.shortest, self.longest, self.is_cut = 0, math.inf, 0, False

    def note(self, num_tokens: int, most: int | None) -> None:
        self.num_read += 1
        self.shortest = min(self.shortest, num_tokens)
        self.longest = max(self.longest, num_tokens)
        self.is_cut |= most is not None and num_tokens > most

    def complaint(self, settings: SourceSettings) -> str:
        if self.num_read == 0 or self.longest == 0:
            rest = f" after its first {settings.skip}" if settings.skip else ""
            return f"{settings.name} ({settings.text}) holds no document{rest}: name a text."
        if settings.kind == "chat" and settings.min_tokens == 1 and settings.max_tokens is None:
            return (
                f"{settings.name} ({settings.text}) holds no answer to learn from: its chats must have "
                f'messages of the role "assistant" after others.'
            )
        most = "more" if settings.max_tokens is None else str(settings.max_tokens)
        longest = f"more than {settings.max_tokens}" if self.is_cut else str(self.longest)
        return (
            f"{settings.name} ({settings.text}) has no document of {settings.min_tokens} to {most} tokens: "
            f"its {self.num_read} have {self.shortest} to {longest}; change min_tokens or max_tokens."
        )


def _require_training_text(settings: SourceSettings) -> None:
    part = settings.text.partition(":")[2]
    if is_stdlib(settings.text) and STDLIB_SPLITS.get(part, "train") != "train":
        raise SettingError(
            f"{settings.name} names {settings.text}, which is for measuring, never for training: say stdlib."
        )


def join_documents(documents: Iterator[Document], join: Join) -> Iterator[Group]:
    """Documents that become one, at most `DOCUMENTS_IN_BLOCK` of them.

    Args:
        documents: with those of one folder in succession, for `folder` (see `read_documents`).

    Raises:
        DataError: one has no folder or no topic to be joined by.
    """
    if join == "none":
        yield from ((document,) for document in documents)
        return

    def label(document: Document) -> str:
        value: str = getattr(document, join)
        if not value:
            remedy = "name a folder or a pattern" if join == "folder" else "give rows a field `topic`"
            raise DataError(f"{document.name} has no {join} to be joined by: {remedy}, or set join to none.")
        return value

    if join == "topic":
        documents = _sorted_in_parts(documents, label)
    for _, alike in groupby(documents, key=label):
        while group := tuple(islice(alike, DOCUMENTS_IN_BLOCK)):
            yield group


def group_name(group: Group) -> str:
    """The document's name, or the first and the last of those that are joined."""
    return group[0].name if len(group) == 1 else f"{group[0].name} ... {group[-1].name}"


def _sorted_in_parts(documents: Iterator[Document], label: Any) -> Iterator[Document]:
    while part := list(islice(documents, DOCUMENTS_IN_BLOCK)):
        yield from sorted(part, key=label)  # stable: in their own order within a topic


def _blocks(groups: Iterator[Group]) -> Iterator[list[Group]]:
    """Groups that are shuffled together: so many of them, or so many documents."""
    block: list[Group] = []
    num_documents = 0
    for group in groups:
        block.append(group)
        num_documents += len(group)
        if len(block) == GROUPS_IN_BLOCK or num_documents >= DOCUMENTS_IN_BLOCK:
            yield block
            block, num_documents = [], 0
    if block:
        yield block
