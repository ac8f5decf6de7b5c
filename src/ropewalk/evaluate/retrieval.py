"""Retrieval: the share of questions about facts in real text that a model answers, at several depths.

`text.facts` has the facts, `text.wordings` their sentences, `evaluate.retrieval_texts` the texts.

Two modes decide about the same text:

- All questions of a text in one reading (default). K facts and K questions cost one forward pass. Every
  question sees the earlier questions with their TRUE answers (teacher forcing), so the model has examples of
  the form of an answer from the second question on.
- One question per reading. The question stands alone at the end of the text, and the answer is decoded
  greedily. Questions of one text share the KV cache of the text.

An answer is right if it begins with the whole value, followed by a character that is no part of a value. Up
to the first token that differs from the true answer, the most likely tokens under teacher forcing are those
of greedy decoding, so one rule judges both modes. Only a value that the model writes in other tokens than the
tokenizer does is wrong in one reading and can be right in decoding.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ropewalk.evaluate.answers import OnAnswer, RetrievalAnswer, collect, summary
from ropewalk.evaluate.greedy import GreedyDecoder
from ropewalk.evaluate.length_notes import length_note
from ropewalk.evaluate.lm_head import evaluating
from ropewalk.evaluate.perplexity import require_lengths
from ropewalk.evaluate.records import EvalRecord, FactorsAtLength, OnRecord, found_by
from ropewalk.evaluate.retrieval_texts import Framing, HiddenFacts, Prompt, draw_hidden_facts, prompts
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.evaluate.teacher_forcing import forced_answers
from ropewalk.models.model import Model
from ropewalk.text.facts import FactText, fact_text
from ropewalk.text.tokens import DocumentSet, Encoder

TOKENS_PER_BATCH = 4096  # short texts of one length are read together


def measure_retrieval(
    loaded: Model,
    documents: DocumentSet,
    lengths: Sequence[int],
    *,
    factors: Mapping[str, FactorsAtLength],
    settings: RetrievalSettings | None = None,
    answered: Iterable[RetrievalAnswer] = (),
    on_answer: OnAnswer | None = None,
    on_record: OnRecord | None = None,
) -> list[EvalRecord]:
    """Measures the share of questions that a model answers, for each label of `factors` and each length.

    Facts are hidden in documents, each cut to the length, and questions stand at the end. All factors read
    the same texts, so their answers can be compared question by question: `EvalRecord.share_difference`. The
    interval of a record is Wilson's, 95%. By default all questions of a text are asked in one reading, after
    the true answers to the questions before them; see `RetrievalSettings.one_question_per_reading`.

    Example:
        documents = token_documents("books/*.txt", model.tokenizer, length=32768, num_documents=40)
        yarn = scheme_factors("yarn", model.geometry, 32768)
        ours = load_factors("runs/mine/factors.json")
        records = measure_retrieval(
            model, documents, [32768], factors={"yarn": lambda length: yarn, "ours": lambda length: ours}
        )
        records[1].share_difference(records[0])  # found by ours - found by YaRN, with its interval

    Args:
        documents: at least as long as the longest length. Text i hides its facts in document i, and begins
            with the first document again after the last one.
        lengths: tokens of text, facts, questions and answers together.
        factors: label to a function from a length to factors, or to None for the model as configured.
        settings: the number of questions and the kind of their facts; None for the defaults.
        answered: answers of an interrupted measurement with the same model, factors, documents and settings;
            a text with all its answers is not read again.
        on_answer: called after each question, or for each question of a batch.
        on_record: called with each record as soon as it is complete.

    Returns:
        One record with the metric `retrieval` per label and length; `value` is from 0 to 1.

    Raises:
        SettingError: a length is above the documents' length, or too short for the facts and questions.
        DataError: `settings.chat`, and the tokenizer has no chat template that can be used.
    """
    settings = settings or RetrievalSettings()
    require_lengths(lengths, documents)
    asking = Asking(loaded, documents, settings)
    for length in lengths:
        asking.require_fit(length)
    known = {answer.question: answer for answer in answered}
    records = []
    for label, factors_at in factors.items():
        for length in lengths:
            started = time.perf_counter()
            installed = factors_at(length)
            with loaded.using(installed):
                given = asking.answers(label, length, known, on_answer)
            record = EvalRecord(
                **summary(given),
                metric="retrieval",
                length=length,
                factors=label,
                seed=settings.seed,
                seconds=time.perf_counter() - started,
                model=loaded.name,
                where=loaded.where,
                source=documents.source,
                data_sha256=documents.data_sha256,
                retrieval=settings,
                note=length_note(loaded, installed, length),
                **found_by(installed),
            )
            records.append(record)
            if on_record:
                on_record(record)
    return records


class Asking:
    """Asks a model the questions of `RetrievalSettings` about facts in documents.

    Raises:
        DataError: as `Framing`.
    """

    def __init__(self, loaded: Model, documents: DocumentSet, settings: RetrievalSettings) -> None:
        self._loaded, self._documents, self._settings = loaded, documents, settings
        self._encode = Encoder(loaded.tokenizer)
        self._framing = Framing(self._encode, chat=settings.chat)

    def require_fit(self, length: int) -> None:
        """Raises SettingError if the facts of a text do not fit into `length` tokens."""
        for index, hidden in enumerate(draw_hidden_facts(self._settings, length)):
            if self._settings.asks_each_alone:
                self._prompts(length, index, hidden)
            else:
                self._text(length, index, hidden)

    def answers(
        self,
        label: str,
        length: int,
        known: Mapping[tuple[object, ...], RetrievalAnswer],
        on_answer: OnAnswer | None,
    ) -> list[RetrievalAnswer]:
        """The answers under the installed factors; texts whose answers are all known are not read."""
        earlier: list[RetrievalAnswer] = []
        left: list[tuple[int, HiddenFacts, list[RetrievalAnswer]]] = []
        for index, hidden in enumerate(draw_hidden_facts(self._settings, length)):
            blank = self._blank_answers(label, length, index, hidden)
            found = [known[answer.question] for answer in blank if answer.question in known]
            if len(found) == len(blank):
                earlier += found
            else:
                left.append((index, hidden, blank))
        texts = self._each_alone(length, left) if self._settings.asks_each_alone else self._all(length, left)
        blanks = itertools.chain.from_iterable(blank for _, _, blank in left)
        new = (replace(answer, text=text) for answer, text in zip(blanks, texts, strict=True))
        return collect(earlier, new, self._settings.num_questions, on_answer)

    def _document(self, length: int, index: int) -> list[int]:
        documents = self._documents.documents
        ids: list[int] = documents[index % len(documents)].ids[:length].tolist()
        return ids

    def _blank_answers(
        self, label: str, length: int, index: int, hidden: HiddenFacts
    ) -> list[RetrievalAnswer]:
        """The questions of a text, with empty answers."""
        return [
            RetrievalAnswer(
                factors=label,
                length=length,
                number=index * self._settings.num_facts + number,
                document=index % len(self._documents.documents),
                wording=hidden.facts[place].wording.name,
                key=hidden.facts[place].key,
                value=hidden.facts[place].value,
                depth=hidden.depths[place],
                text="",
            )
            for number, place in enumerate(hidden.asked)
        ]

    def _text(self, length: int, index: int, hidden: HiddenFacts) -> FactText:
        document = self._document(length, index)
        return fact_text(document, length, hidden.facts, hidden.depths, hidden.asked, self._encode)

    def _prompts(self, length: int, index: int, hidden: HiddenFacts) -> list[Prompt]:
        return prompts(self._document(length, index), length, hidden, self._framing, self._encode)

    def _all(self, length: int, left: Sequence[tuple[int, HiddenFacts, Any]]) -> Iterator[str]:
        """The answers of each text, several short texts in a batch."""
        num_rows = max(1, TOKENS_PER_BATCH // length)
        for start in range(0, len(left), num_rows):
            batch = left[start : start + num_rows]
            texts = [self._text(length, index, hidden) for index, hidden, _ in batch]
            yield from forced_answers(self._loaded.model, self._loaded.tokenizer, texts)

    def _each_alone(self, length: int, left: Sequence[tuple[int, HiddenFacts, Any]]) -> Iterator[str]:
        with evaluating(self._loaded.model):
            decoder = GreedyDecoder(self._loaded.model, self._loaded.tokenizer)
            for index, hidden, _ in left:
                for prompt in self._prompts(length, index, hidden):
                    ids = torch.tensor([prompt.ids], device=self._loaded.model.device)
                    yield from decoder.continuations(ids, prompt.num_answer_tokens)
