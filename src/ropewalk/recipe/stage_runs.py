"""How each kind of stage runs: what it depends on, what it does, and what it changes.

A kind of stage has three functions: `texts` reads the texts it needs (so that a text that is too short is
found before any stage runs), `work` runs it and leaves its result in the stage's folder, and `apply` loads
that result, whether this or an earlier process made it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune.data.mixture import Mixture, MixtureSettings
from ropewalk.finetune.train import finetune_model
from ropewalk.models.model_files import describe_model
from ropewalk.models.training_checkpoint import require_pinned, save_pinned
from ropewalk.recipe.evaluate_stage import evaluate, evaluate_texts
from ropewalk.recipe.stage_context import Run, StageOutput, StopForExternal
from ropewalk.recipe.stage_folder import StageFolder
from ropewalk.recipe.stages import (
    EvaluateStage,
    ExternalStage,
    FinetuneStage,
    ReadjustStage,
    SearchStage,
    Stage,
    SwapStage,
)
from ropewalk.search.plan import require_disjoint
from ropewalk.search.readjust import readjust
from ropewalk.search.search import search_factors
from ropewalk.text.splits import read_search_documents
from ropewalk.text.tokens import DocumentSet

READJUST_TOKENS = 16384  # read at least at a short length, where a few documents are too little text

# ---------------------------------------------------------------- search and readjustment


def _search_documents(run: Run, stage: SearchStage) -> tuple[DocumentSet, DocumentSet | None]:
    return read_search_documents(
        run.recipe.text, run.tokenizer, int(stage.length), num_documents=stage.num_documents,
        num_validation=stage.num_validation_documents, boundary=run.boundary,
    )  # fmt: skip


def _search_texts(run: Run, stage: SearchStage) -> StageOutput:
    search, stop = _search_documents(run, stage)
    run.searched += [documents for documents in (search, stop) if documents is not None]
    _check_sets(run, stage, int(stage.length), search, stop)
    return {"search": search.data_sha256, "stop": None if stop is None else stop.data_sha256}


def _check_sets(
    run: Run, stage: SearchStage | ReadjustStage, length: int, search: DocumentSet, stop: DocumentSet | None
) -> None:
    """Reports how many documents are missing, and refuses a document that is in both sets."""
    text = run.recipe.text
    requested = text.num_documents if stage.num_documents is None else stage.num_documents
    others = stage.num_validation_documents
    num_validation = text.num_validation_documents if others is None else others
    if stop is not None:
        require_disjoint(search, stop, length)
    if len(search.documents) < requested:
        run.watch.say(
            f"{stage.title}: {text.search} has {len(search.documents)} documents of {length} tokens, but "
            f"{requested} were requested."
        )
    if stop is None and num_validation:
        run.watch.say(
            f"{stage.title}: {text.search} has no validation documents of {length} tokens left, so factors "
            f"are chosen on the search documents."
        )


def _search(run: Run, stage: SearchStage, folder: StageFolder) -> StageOutput:
    """Searches on the current model; on a trained one relative to the factors it was trained with."""
    documents, stop = _search_documents(run, stage)
    found = search_factors(
        run.models.current(run.state), documents, target_length=int(stage.length),
        settings=stage.settings, validation_documents=stop,
        journal=folder.journal(cut_damaged=run.cut_damaged), on_trial=run.watch.on_trial,
        base_factors=run.state.tuned_with, workers=run.workers,
    )  # fmt: skip
    if found.closed_form is not None:
        what = "the training" if found.closed_form.is_trained else "a closed-form scheme"
        run.watch.say(f"The factors are those of {what}, {found.about_choice}.")
    folder.write(folder.factors_path(), found.factors.to_json())
    return {"outputs": [folder.factors_path()], "search": found.as_dict()}


def _take_found(run: Run, stage: SearchStage, folder: StageFolder, made: StageOutput) -> None:
    factors = RescaleFactors.load(folder.factors_path())
    run.state.found[stage.title] = factors
    run.state.use(factors)


def _short_texts(run: Run, stage: ReadjustStage, length: int) -> tuple[DocumentSet, DocumentSet | None]:
    return read_search_documents(
        run.recipe.text, run.tokenizer, length, num_documents=stage.num_documents,
        num_validation=stage.num_validation_documents,
        num_tokens=READJUST_TOKENS if stage.num_documents is None else 0, boundary=run.boundary,
    )  # fmt: skip


def _readjust_texts(run: Run, stage: ReadjustStage) -> StageOutput:
    of_length = {}
    for length in map(int, stage.lengths):
        search, stop = _short_texts(run, stage, length)
        _check_sets(run, stage, length, search, stop)
        of_length[str(length)] = [search.data_sha256, None if stop is None else stop.data_sha256]
    return of_length


def _readjust(run: Run, stage: ReadjustStage, folder: StageFolder) -> StageOutput:
    readjusted, outputs = {}, []
    for length in map(int, stage.lengths):
        documents, stop = _short_texts(run, stage, length)
        result = readjust(
            run.models.current(run.state), documents, length=length,
            long_factors=run.state.current, trained_factors=run.state.tuned_with, ceiling=stage.ceiling,
            settings=stage.settings, validation_documents=stop,
            journal=folder.journal(length, cut_damaged=run.cut_damaged),
            on_trial=run.watch.on_trial, workers=run.workers,
        )  # fmt: skip
        if not result.is_better:
            run.watch.say(
                f"At {length} tokens no factors were found that are better than those of the long length, so "
                f"these are kept."
            )
        folder.write(folder.factors_path(length), result.factors.to_json())
        outputs.append(folder.factors_path(length))
        readjusted[str(length)] = {
            "value": result.value, "longer_value": result.long_value, "is_better": result.is_better,
        }  # fmt: skip
    return {"outputs": outputs, "readjusted": readjusted}


def _take_short(run: Run, stage: ReadjustStage, folder: StageFolder, made: StageOutput) -> None:
    run.state.short = tuple(RescaleFactors.load(folder.factors_path(int(n))) for n in stage.lengths)


# ---------------------------------------------------------------- training


def _finetune_texts(run: Run, stage: FinetuneStage) -> StageOutput:
    """The settings of the text; the training itself compares the text that it reads."""
    settings = _training_text(run)
    Mixture(settings, run.tokenizer, int(stage.length))
    return settings.model_dump(mode="json")


def _training_text(run: Run) -> MixtureSettings:
    assert run.training_text is not None, "a checked recipe with a training has data"
    return run.training_text


def train(run: Run, stage: FinetuneStage, folder: StageFolder) -> None:
    """Trains with one set of factors installed, all processes together; resumes from the last checkpoint."""
    settings = run.recipe.finetune_settings(stage)
    # Half precision loses small steps; a setting of the stage says which precision computes.
    loaded = run.models.current(run.state, dtype="float32")
    stream = Mixture(_training_text(run), run.tokenizer, int(stage.length))
    try:
        finetune_model(
            loaded, run.state.named(stage.factors), stream, settings, folder.training_path,
            on_step=run.watch.on_step, part_of_recipe=True,
        )  # fmt: skip
    finally:
        run.models.forget()  # it was trained in place


def _finetune(run: Run, stage: FinetuneStage, folder: StageFolder) -> StageOutput:
    train(run, stage, folder)
    files = sorted(path for path in folder.model_path.iterdir() if path.is_file())
    return {"outputs": files, "weights_sha256": run.models.read(folder.model_path).weights_sha256}


def _take_tuned(run: Run, stage: FinetuneStage, folder: StageFolder, made: StageOutput) -> None:
    factors = run.state.named(stage.factors)
    is_mixed = run.recipe.finetune_settings(stage).mixed_window
    original = run.recipe.model.describe().original_factors() if is_mixed else None
    run.state.move_to(folder.model_path, made["weights_sha256"], stage.title, factors, original)


def _external(run: Run, stage: ExternalStage, folder: StageFolder) -> StageOutput:
    """Writes the start checkpoint, once; then uses the trained checkpoint, or stops until there is one."""
    factors = run.state.named(stage.factors)
    if not folder.start_path.is_dir():
        with folder.writing_start() as partial:
            save_pinned(run.models.current(run.state), factors, partial)
            factors.save(partial / folder.factors_path().name)
    if run.continue_with is None:
        raise StopForExternal(folder.start_path, stage)
    try:
        checkpoint, run.continue_with = run.continue_with.expanduser().resolve(), None
    except RuntimeError as error:  # no such home folder, or links in a circle
        raise ModelError(f"{run.continue_with} is no folder ({error}): name a checkpoint's folder.") from None
    if checkpoint == folder.start_path.resolve():
        raise ModelError(
            f"{checkpoint} is the start checkpoint itself: name the folder that your trainer wrote."
        )
    # The window comes from the checkpoint: the check is that the trainer kept it.
    require_pinned(describe_model(checkpoint), factors, str(checkpoint))
    weights = run.models.read(checkpoint).weights_sha256
    if weights == run.state.weights_sha256:
        run.watch.say(f"{checkpoint} has the weights that it started with: it was not trained.")
    return {"outputs": [], "weights_sha256": weights, "checkpoint": str(checkpoint)}


def _take_external(run: Run, stage: ExternalStage, folder: StageFolder, made: StageOutput) -> None:
    factors = run.state.named(stage.factors)
    run.state.move_to(Path(made["checkpoint"]), made["weights_sha256"], stage.title, factors)


# ---------------------------------------------------------------- swap and evaluation


def _nothing_to_read(run: Run, stage: Stage) -> StageOutput:
    return {}


def _swap(run: Run, stage: SwapStage, folder: StageFolder) -> StageOutput:
    return {"outputs": []}


def _take_swapped(run: Run, stage: SwapStage, folder: StageFolder, made: StageOutput) -> None:
    run.state.use(run.state.named(stage.factors))


def _take_nothing(run: Run, stage: Stage, folder: StageFolder, made: StageOutput) -> None:
    """Records change nothing for later stages."""


@dataclass(frozen=True)
class StageFunctions:
    """The three functions of a kind of stage; see the module's description."""

    texts: Callable[[Run, Any], StageOutput]
    work: Callable[[Run, Any, StageFolder], StageOutput]
    apply: Callable[[Run, Any, StageFolder, StageOutput], None]


STAGE_FUNCTIONS: dict[type[Stage], StageFunctions] = {
    SearchStage: StageFunctions(_search_texts, _search, _take_found),
    FinetuneStage: StageFunctions(_finetune_texts, _finetune, _take_tuned),
    SwapStage: StageFunctions(_nothing_to_read, _swap, _take_swapped),
    ReadjustStage: StageFunctions(_readjust_texts, _readjust, _take_short),
    EvaluateStage: StageFunctions(evaluate_texts, evaluate, _take_nothing),
    ExternalStage: StageFunctions(_nothing_to_read, _external, _take_external),
}
