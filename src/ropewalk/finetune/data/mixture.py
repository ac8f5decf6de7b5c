"""Several sources of training text as one stream, by weight, with a share of generated retrieval.

Which source is next is no draw: it is the one that is furthest behind its share of the tokens, so that shares
hold at every moment to within a document. The order of documents within a source follows from the seed.
"""

import hashlib
import json
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ropewalk.errors import DataError, SettingError
from ropewalk.finetune.data.documents import TrainingDocument, require_long
from ropewalk.finetune.data.retrieval import RETRIEVAL, RetrievalMaker
from ropewalk.finetune.data.sources import Piece, SourceReader, SourceSettings
from ropewalk.text.tokens import Encoder
from ropewalk.units import LARGEST_SEED

__all__ = ["Mixture", "MixtureSettings", "SourceSettings"]

MOST_LOOKED_AT = 10_000  # pieces of a source that are looked at for one as long as a segment


class MixtureSettings(BaseModel):
    """What a stage reads.

    Attributes:
        sources: their names differ.
        retrieval_share: of all tokens, those of generated texts (see `finetune.data.retrieval`).
            Needles are hidden in text of the sources that are no chats; it is not charged to their budgets.
        answer_weight, filler_weight: what the digits of a generated text's answers weigh in the loss, and
            what stands around them, where a token of other text weighs 1. Answers weigh more in proportion in
            texts above 256 tokens, so that they are the same share of the loss at every length.
        seed: all orders and all generated texts follow from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sources: tuple[SourceSettings, ...] = ()
    retrieval_share: float = Field(default=0.0, ge=0, le=1)
    answer_weight: float = Field(default=8.0, gt=0)
    filler_weight: float = Field(default=0.05, ge=0)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        names = [source.name for source in self.sources]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two sources are called {twice}: give each a name of its own")
        if RETRIEVAL in names:
            raise ValueError(f"a source is called {RETRIEVAL}, as generated texts are: give it another name")
        if not names and self.retrieval_share < 1:
            raise ValueError("there is no source to read: name one, or set retrieval_share to 1")
        return self


class Mixture:
    """A `TrainingStream` of a mixture's documents, each at most a segment long.

    What is longer than a segment comes in pieces of one, in their order; only a document's true end lets
    the EOS behind it count, because the last token of other pieces weighs nothing. It ends when every
    source's budget is spent.

    Attributes:
        longest: of the pieces that were looked at, tokens; a whole segment's where retrieval is generated.

    Args:
        tokenizer: transformers' own object.
        length: tokens of a segment, BOS and EOS counted in.

    Raises:
        SettingError: a budget below one segment, a segment too short for generated retrieval, text that is
            for measuring, a chat without a template.
        DataError: a source that can't be read or has nothing of the lengths asked for; no document as long
            as a segment, in the first 10,000 of each source, where no retrieval is generated.
    """

    def __init__(self, settings: MixtureSettings, tokenizer: Any, length: int) -> None:
        self.settings, self.length = settings, length
        self._encode = Encoder(tokenizer)
        self._room = length - sum(i is not None for i in (tokenizer.bos_token_id, tokenizer.eos_token_id))
        if self._room < 2:
            raise SettingError(f"A segment of {length} tokens holds no text: make the stage longer.")
        self._fingerprint = self._identify()
        for source in settings.sources:
            _require_budget(source, self._room)
        self._readers = self._open("")
        self._retrieval = self._generate() if settings.retrieval_share else None
        self._given = dict.fromkeys([*self._readers, RETRIEVAL], 0)
        self.longest, self._beginnings = self._look_at_sources()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TrainingDocument:
        name = self._furthest_behind()
        if name == RETRIEVAL:
            assert self._retrieval is not None
            document = next(self._retrieval)
        else:
            document = self._next_of(name)
        self._given[name] += len(document.ids)
        return document

    def state_dict(self) -> dict[str, Any]:
        """JSON values: places and counts, no text."""
        return {
            "mixture": self._fingerprint,
            "beginnings": dict(self._beginnings),
            "given": dict(self._given),
            "places": {name: reader.state() for name, reader in self._readers.items()},
            "retrieval": None if self._retrieval is None else self._retrieval.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place of the same mixture over the same text.

        What a source begins with is compared by its documents' names and sizes, and rows by their content:
        what lies behind its first block, or was changed within a file and has its size still, goes unseen.

        Raises:
            SettingError: it is another mixture's.
            DataError: a source begins with other text.
        """
        if state.get("mixture") != self._fingerprint:
            raise SettingError(
                "This place in the training text was noted with other sources, another seed, length or "
                "tokenizer: go on with those, or start the stage anew."
            )
        for name, noted in state["beginnings"].items():
            if noted != self._beginnings[name]:
                raise DataError(
                    f"{name} holds other documents than when this place in it was noted: give the same text "
                    f"again, or start the stage anew."
                )
        self._given = dict(state["given"])
        for name, reader in self._readers.items():
            reader.go_to(state["places"][name])
        if self._retrieval is not None:
            self._retrieval.go_to(state["retrieval"])

    def describe(self) -> dict[str, Any]:
        """JSON values for the record: what is read, and how documents were joined."""
        of_text = 1 - self.settings.retrieval_share
        total = sum(source.weight for source in self.settings.sources)
        return {
            **self.settings.model_dump(mode="json", exclude={"sources"}),
            "length": self.length,
            "tokenizer_sha256": self._encode.fingerprint,
            "sources": [
                {**source.describe(), "share": of_text * source.weight / total}
                for source in self.settings.sources
            ],
        }

    def progress(self) -> dict[str, dict[str, int]]:
        """Tokens given of each source and of `retrieval`, and how often a source was read to its end."""
        rounds = {name: {"rounds": reader.place.round} for name, reader in self._readers.items()}
        return {name: {"tokens": given, **rounds.get(name, {})} for name, given in self._given.items()}

    def _furthest_behind(self) -> str:
        share = self.settings.retrieval_share
        if share == 1:
            return RETRIEVAL
        unspent = [
            source
            for source in self.settings.sources
            if source.tokens is None or self._given[source.name] < source.tokens
        ]
        if not unspent:
            raise StopIteration
        if self._given[RETRIEVAL] < share * sum(self._given.values()):
            return RETRIEVAL
        return min(unspent, key=lambda source: self._given[source.name] / source.weight).name

    def _next_of(self, name: str) -> TrainingDocument:
        """A source's next piece, cut where its budget ends."""
        reader = self._readers[name]
        piece = next(reader)
        budget = reader.settings.tokens
        left = len(piece.ids) if budget is None else budget - self._given[name]
        is_last = piece.is_last and len(piece.ids) <= left
        return TrainingDocument(
            ids=torch.tensor(piece.ids[:left]),
            counts=_counts(piece, left, is_last),
            source=f"{name}: {piece.name}",
        )

    def _open(self, purpose: str) -> dict[str, SourceReader]:
        seed = f"{self.settings.seed}{purpose}"
        return {
            source.name: SourceReader(source, self._encode, self._room, seed)
            for source in self.settings.sources
        }

    def _generate(self) -> RetrievalMaker:
        settings = self.settings
        return RetrievalMaker(
            self._encode,
            self._room,
            seed=settings.seed,
            answer_weight=settings.answer_weight,
            filler_weight=settings.filler_weight,
            readers=[r for r in self._open(" needles").values() if r.settings.kind == "text"],
        )

    def _look_at_sources(self) -> tuple[int, dict[str, str]]:
        """Find what has nothing to give before a step is made; the longest piece, what sources begin with."""
        longest, beginnings = 0, {}
        for name, reader in self._open("").items():
            beginnings[name] = reader.beginning()
            longest = max(longest, _longest(reader, self._room))
        if not self._retrieval:
            require_long(longest, self._room, self.length)
        return self._room if self._retrieval else longest, beginnings

    def _identify(self) -> str:
        said = [self.settings.model_dump(mode="json"), self.length, self._encode.fingerprint]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _longest(reader: SourceReader, room: int) -> int:
    """Tokens of the longest of a source's first pieces; looks no further than to one of a whole segment.

    Raises:
        DataError: there is none at all.
    """
    longest = 0
    for _ in range(MOST_LOOKED_AT):
        piece = next(reader)
        if reader.place.round:
            break
        longest = max(longest, len(piece.ids))
        if longest == room:
            break
    return longest


def _counts(piece: Piece, num_tokens: int, is_last: bool) -> torch.Tensor | None:
    """Weights of a piece's first tokens; where the document goes on, no EOS may count behind them."""
    if piece.weights is None and is_last:
        return None
    weights = [1.0] * len(piece.ids) if piece.weights is None else piece.weights
    counts = torch.tensor(weights[:num_tokens], dtype=torch.float32)
    if not is_last:
        counts[-1] = 0
    return counts


def _require_budget(source: SourceSettings, room: int) -> None:
    if source.tokens is not None and source.tokens < room:
        raise SettingError(
            f"{source.name} has a budget of {source.tokens} tokens, which is less than the {room} of one "
            f"segment: raise it, leave the source out, or make the stage shorter."
        )
