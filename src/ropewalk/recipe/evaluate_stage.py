"""The stage `evaluate`: the extended model and the base model, measured on the test documents."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ropewalk.errors import EvaluationError, SettingError
from ropewalk.evaluate.answers import Answer, AnswerProgress, PasskeyAnswer, RetrievalAnswer
from ropewalk.evaluate.nll_increase import document_sums, increase_record
from ropewalk.evaluate.passkey import measure_passkey
from ropewalk.evaluate.perplexity import measure_perplexity
from ropewalk.evaluate.records import EvalRecord, FactorsAtLength, found_by
from ropewalk.evaluate.retrieval import Asking, measure_retrieval
from ropewalk.models.model import Model
from ropewalk.recipe.stage_context import Run, StageOutput
from ropewalk.recipe.stage_folder import StageFolder
from ropewalk.recipe.stages import EvaluateStage
from ropewalk.report.comparison import base_label, measure_sliding_window, without_factors
from ropewalk.text.splits import read_test_documents
from ropewalk.text.tokens import DocumentSet

EXTENDED = "extended"  # the label of the extended model in records


def report_lengths(run: Run, stage: EvaluateStage) -> list[int]:
    """The lengths at which an evaluation reads the test documents, in tokens."""
    short = [run.window] if stage.short_rise else []
    return [*map(int, stage.perplexity), *stage.retrieval_lengths(run.window), *short]


def _report_documents(run: Run, stage: EvaluateStage) -> DocumentSet | None:
    lengths = report_lengths(run, stage)
    if not lengths:
        return None
    return read_test_documents(
        run.recipe.text, run.tokenizer, max(lengths), num_documents=stage.num_documents, boundary=run.boundary
    )


def evaluate_texts(run: Run, stage: EvaluateStage) -> StageOutput:
    """Reads the test documents, and returns their hash.

    Raises:
        SettingError: the facts do not fit into a length that the recipe gives.
        DataError: the questions are for a chat, and the tokenizer has no template that can be used.
    """
    documents = _report_documents(run, stage)
    if documents is None:
        return {"report": None}
    run.reported.append(documents)
    _retrieval_lengths(run, stage, documents)  # so a mistake is found before the first stage runs
    return {"report": documents.data_sha256}


def _retrieval_lengths(run: Run, stage: EvaluateStage, documents: DocumentSet) -> list[int]:
    """Returns the lengths of retrieval; those of the default only where the facts fit."""
    asking = Asking(run.models.base(), documents, stage.questions(len(documents.documents)))
    lengths = []
    for length in stage.retrieval_lengths(run.window):
        try:
            asking.require_fit(length)
            lengths.append(length)
        except SettingError:
            if stage.retrieval is not None:
                raise
    return lengths


class _Records:
    """Records of a stage and its answers, each written at once, so that none is measured again."""

    def __init__(self, folder: StageFolder, run: Run) -> None:
        self.all = folder.read_records()
        self._answers: dict[type[Any], list[Any]] = {
            PasskeyAnswer: folder.read_answers(PasskeyAnswer),
            RetrievalAnswer: folder.read_answers(RetrievalAnswer),
        }
        self._folder, self._watch, self._run_id = folder, run.watch, run.run_id

    def has(self, metric: str, label: str, length: int) -> bool:
        return any((r.metric, r.factors, r.length) == (metric, label, length) for r in self.all)

    def add(self, record: EvalRecord) -> None:
        record = replace(record, run_id=self._run_id)
        self.all.append(replace(record, documents="report") if record.metric != "passkey" else record)
        self._folder.write_records(self.all)
        self._watch.on_record(record)

    def answers(self, kind: type[Answer]) -> list[Answer]:
        return self._answers[kind]

    def add_answer(self, progress: AnswerProgress[Any]) -> None:
        kind = type(progress.answer)
        self._answers[kind].append(progress.answer)
        self._folder.write_answers(kind, self._answers[kind])
        self._watch.on_answer(progress)


def evaluate(run: Run, stage: EvaluateStage, folder: StageFolder) -> StageOutput:
    """Measures what the folder has no record of yet."""
    documents, records = _report_documents(run, stage), _Records(folder, run)
    factors = {EXTENDED: run.state.factor_set().for_length}
    if documents is not None:
        lengths = _retrieval_lengths(run, stage, documents)
        for length in stage.retrieval_lengths(run.window):
            if length not in lengths:
                run.watch.say(f"left out: retrieval at {length} tokens, where the facts do not fit")
        _against_the_base(run, stage, documents, lengths, records)
        for length in map(int, stage.perplexity):
            if not records.has("perplexity", EXTENDED, length):
                measure_perplexity(
                    run.models.current(run.state), documents, [length], factors=factors, on_record=records.add
                )
        for length in lengths:
            _ask(run, stage, documents, length, factors, records)
    for length in map(int, stage.passkey):
        if not records.has("passkey", EXTENDED, length):
            measure_passkey(
                run.models.current(run.state), [length], factors=factors, num_trials=stage.num_trials,
                seed=stage.seed, answered=records.answers(PasskeyAnswer), on_answer=records.add_answer,
                on_record=records.add,
            )  # fmt: skip
    if not records.all:
        folder.write_records([])
    return {"outputs": [folder.records_path]}


def _ask(
    run: Run,
    stage: EvaluateStage,
    documents: DocumentSet,
    length: int,
    factors: Mapping[str, FactorsAtLength],
    records: _Records,
) -> None:
    """Asks the questions about facts, with one label of factors."""
    (label,) = factors
    if records.has("retrieval", label, length):
        return
    loaded = run.models.current(run.state) if label == EXTENDED else run.models.base()
    measure_retrieval(
        loaded, documents, [length], factors=factors, settings=stage.questions(len(documents.documents)),
        answered=records.answers(RetrievalAnswer), on_answer=records.add_answer, on_record=records.add,
    )  # fmt: skip


def _against_the_base(
    run: Run, stage: EvaluateStage, documents: DocumentSet, retrieval: list[int], records: _Records
) -> None:
    """Measures the base model: unchanged, with a sliding window, and its NLL on short inputs.

    Args:
        retrieval: lengths; the base model is asked at those that it reads.
    """
    description = run.recipe.model.describe()
    if stage.base_model:
        for length in map(int, stage.perplexity):
            _as_it_is(run, documents, length, records)
        for length in retrieval:
            if length <= description.own_reach:
                _ask(run, stage, documents, length, {base_label(description): without_factors}, records)
    if stage.sliding_window:
        for length in map(int, stage.perplexity):
            if length > run.window and not records.has("perplexity", "sliding window", length):
                measure_sliding_window(run.models.base(), documents, [length], on_record=records.add)
    if stage.short_rise and not records.has("nll_increase", EXTENDED, run.window):
        started = time.perf_counter()
        before = document_sums(run.models.base(), documents, run.window, None)
        loaded: Model = run.models.current(run.state)
        factors = run.state.factor_set().for_length(run.window)
        after = document_sums(loaded, documents, run.window, factors)
        record = increase_record(
            before, after, loaded=loaded, documents=documents, length=run.window, label=EXTENDED,
            started=started,
        )  # fmt: skip
        records.add(replace(record, **found_by(factors)))


def _as_it_is(run: Run, documents: DocumentSet, length: int, records: _Records) -> None:
    """Measures the base model with its own scaling; reports if it gives no number."""
    label = base_label(run.recipe.model.describe())
    if records.has("perplexity", label, length):
        return
    try:
        measure_perplexity(
            run.models.base(), documents, [length], factors={label: without_factors}, on_record=records.add
        )
    except EvaluationError as error:
        run.watch.say(f"left out: {error}")
