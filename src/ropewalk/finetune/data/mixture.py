"""Several sources of training text as one stream of segments, with a share of generated retrieval texts.

Each source is packed into segments by itself. The source of each segment is drawn with the probability of
its weight (`datasets.interleave_datasets`), so the shares of the tokens hold in expectation.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import zip_longest
from typing import Any

from datasets import interleave_datasets

from ropewalk.errors import SettingError
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.joining import Group, read_groups
from ropewalk.finetune.data.packing import Packing
from ropewalk.finetune.data.retrieval import RetrievalTexts
from ropewalk.finetune.data.settings import MixtureSettings, SourceSettings
from ropewalk.finetune.data.sources import Source, SourceCheck, check_source
from ropewalk.finetune.data.streaming import packed, read_repeatedly, shuffled
from ropewalk.finetune.data.training_text import require_long
from ropewalk.text.tokens import Encoder

__all__ = ["Mixture", "MixtureSettings", "SourceSettings"]

TEXTS_AT_ONCE = 32  # generated texts that are packed at once


class Mixture:
    """A `TrainingText` of the sources of a mixture.

    It ends when the budgets of all sources are used up.

    Attributes:
        longest: tokens of the longest of the first documents, at most those of a segment; with generated
            retrieval texts, those of a segment.
        fingerprint: hash of the settings, the length, the tokenizer and the first 256 documents of each
            source; for a file, of its name and size only.

    Args:
        settings: the sources.
        tokenizer: a tokenizer of transformers.
        length: tokens per segment, BOS and EOS included.

    Raises:
        SettingError: a budget below one segment, a segment too short for generated retrieval texts, text that
            is for measuring, or a chat without a template.
        DataError: a source that can't be read or has no document to use; or no document as long as a segment
            among the first 10,000 of each source, without generated retrieval texts.
    """

    def __init__(self, settings: MixtureSettings, tokenizer: Any, length: int) -> None:
        self.settings, self.length = settings, length
        encode = Encoder(tokenizer)
        packing = Packing.of(tokenizer, length)
        if packing.text_length < 2:
            raise SettingError(f"A segment of {length} tokens has no space for text: make the stage longer.")
        self._sources = [Source(source, encode) for source in settings.sources]
        self._retrieval: RetrievalTexts | None = None
        if settings.retrieval_share:
            self._retrieval = RetrievalTexts(settings, encode, packing.text_length)
        checks = [check_source(source, packing) for source in self._sources]
        self._checks = checks
        self.longest = packing.text_length if self._retrieval else max(check.longest for check in checks)
        require_long(self.longest, packing.text_length, length)
        identity = [
            settings.model_dump(mode="json"),
            length,
            encode.fingerprint,
            [check.beginning for check in checks],
        ]
        self.fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def segments(self, packing: Packing) -> Any:
        """A `datasets.IterableDataset` of segments, see `TrainingText`.

        Raises:
            SettingError: the mixture was made for segments of another length.
        """
        if packing.length != self.length:
            raise SettingError(
                f"The mixture was made for segments of {self.length} tokens, but the stage has segments of "
                f"{packing.length}: give both the same length."
            )
        share = self.settings.retrieval_share
        total = sum(source.weight for source in self.settings.sources)
        streams, shares = list[Any](), list[float]()
        if share < 1:
            sources = zip(self._sources, self._checks, strict=True)
            streams = [self._source_segments(source, check, packing) for source, check in sources]
            shares = [(1 - share) * source.weight / total for source in self.settings.sources]
        if self._retrieval is not None:
            streams.append(self._retrieval_segments(self._retrieval, packing))
            shares.append(share)
        return interleave_datasets(
            streams,
            probabilities=shares,
            seed=self.settings.seed,
            stopping_strategy="all_exhausted_without_replacement",
        )

    def _source_segments(self, source: Source, check: SourceCheck, packing: Packing) -> Any:
        def documents(groups: list[Group], index: int) -> list[TrainingDocument]:
            found = (source.document(group) for group in groups)
            return [document for document in found if document is not None]

        read = partial(read_groups, source.settings)
        seed = f"{self.settings.seed} {source.settings.name}"
        groups = shuffled(read_repeatedly(read), seed, check.shuffled)
        segments = packed(groups, documents, packing, block=check.block)
        budget = source.settings.tokens
        return segments if budget is None else segments.take(budget // packing.length)

    def _retrieval_segments(self, texts: RetrievalTexts, packing: Packing) -> Any:
        """Segments of generated texts: 32 texts for each block of text that facts are hidden in.

        Every second text has facts, so half a block is enough.
        """
        sources = {source.settings.name: source for source in self._sources}
        hiding = [source for source in self.settings.sources if source.kind == "text"]
        block = max(1, max((check.block for check in self._checks), default=1) // 2)

        def documents(items: list[tuple[str, Group] | None], index: int) -> list[TrainingDocument]:
            around = filter(None, items)
            found = (sources[name].document(group, limit=packing.text_length) for name, group in around)
            first = index // block * TEXTS_AT_ONCE
            numbers = range(first, first + TEXTS_AT_ONCE)
            return list(texts.make(numbers, [document for document in found if document is not None]))

        read: Callable[[], Iterable[Any]] = partial(_in_turn, hiding) if hiding else partial(list, [None])
        items = shuffled(read_repeatedly(read), f"{self.settings.seed} facts")
        segments = packed(items, documents, packing, block=block)
        num_others = _num_segments(self.settings, packing.length)
        if num_others is None:
            return segments
        share = self.settings.retrieval_share
        return segments.take(max(1, round(num_others * share / (1 - share))))


def _num_segments(settings: MixtureSettings, length: int) -> int | None:
    """Segments of the sources together, or None if they don't end."""
    budgets = [source.tokens for source in settings.sources]
    if settings.retrieval_share == 1 or None in budgets:
        return None
    return sum(budget // length for budget in budgets if budget is not None)


def _in_turn(sources: list[SourceSettings]) -> Iterator[tuple[str, Group]]:
    """The name of a source and a group of it, of each source in turn, until all sources end."""
    for groups in zip_longest(*map(read_groups, sources)):
        for source, group in zip(sources, groups, strict=True):
            if group is not None:
                yield source.name, group
