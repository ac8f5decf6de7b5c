"""The stage `evaluate`: the extended model and the base model, measured on the test documents."""

import time
from dataclasses import replace

from ropewalk.errors import EvaluationError
from ropewalk.evaluate.answers import AnswerProgress, PasskeyAnswer
from ropewalk.evaluate.nll_increase import document_sums, increase_record
from ropewalk.evaluate.passkey import measure_passkey
from ropewalk.evaluate.perplexity import measure_perplexity
from ropewalk.evaluate.records import EvalRecord, found_by
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
    return [*map(int, stage.perplexity), *([run.window] if stage.short_rise else [])]


def _report_documents(run: Run, stage: EvaluateStage) -> DocumentSet | None:
    lengths = report_lengths(run, stage)
    if not lengths:
        return None
    return read_test_documents(
        run.recipe.text, run.tokenizer, max(lengths), num_documents=stage.num_documents, boundary=run.boundary
    )


def evaluate_texts(run: Run, stage: EvaluateStage) -> StageOutput:
    """Reads the test documents, and returns their hash."""
    documents = _report_documents(run, stage)
    run.reported += [] if documents is None else [documents]
    return {"report": None if documents is None else documents.data_sha256}


class _Records:
    """Records of a stage and its passkey answers, each written at once, so that none is measured again."""

    def __init__(self, folder: StageFolder, run: Run) -> None:
        self.all = folder.read_records()
        self.answers = folder.read_answers()
        self._folder, self._watch, self._run_id = folder, run.watch, run.run_id

    def has(self, metric: str, label: str, length: int) -> bool:
        return any((r.metric, r.factors, r.length) == (metric, label, length) for r in self.all)

    def add(self, record: EvalRecord) -> None:
        record = replace(record, run_id=self._run_id)
        self.all.append(replace(record, documents="report") if record.metric != "passkey" else record)
        self._folder.write_records(self.all)
        self._watch.on_record(record)

    def add_answer(self, progress: AnswerProgress[PasskeyAnswer]) -> None:
        self.answers.append(progress.answer)
        self._folder.write_answers(self.answers)
        self._watch.on_answer(progress)


def evaluate(run: Run, stage: EvaluateStage, folder: StageFolder) -> StageOutput:
    """Measures what the folder has no record of yet."""
    documents, records = _report_documents(run, stage), _Records(folder, run)
    factors = {EXTENDED: run.state.factor_set().for_length}
    if documents is not None:
        _against_the_base(run, stage, documents, records)
        for length in map(int, stage.perplexity):
            if not records.has("perplexity", EXTENDED, length):
                measure_perplexity(
                    run.models.current(run.state), documents, [length], factors=factors, on_record=records.add
                )
    for length in map(int, stage.passkey):
        if not records.has("passkey", EXTENDED, length):
            measure_passkey(
                run.models.current(run.state), [length], factors=factors, num_trials=stage.num_trials,
                seed=stage.seed, answered=records.answers, on_answer=records.add_answer,
                on_record=records.add,
            )  # fmt: skip
    if not records.all:
        folder.write_records([])
    return {"outputs": [folder.records_path]}


def _against_the_base(run: Run, stage: EvaluateStage, documents: DocumentSet, records: _Records) -> None:
    """Measures the base model: unchanged, with a sliding window, and its NLL on short inputs."""
    for length in map(int, stage.perplexity):
        _as_it_is(run, documents, length, records)
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
