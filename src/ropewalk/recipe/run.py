"""Runs a recipe: the whole method, one stage after another.

    base model ─ search ─> factors ─ finetune ─> tuned model ─ search ─> total factors ─ readjust ─> set
                                                                                                      │
                                                                                                  evaluate

A stage that is complete in the run's folder does not run again, provided that its inputs (weights, factors,
text and settings, compared by content) and its files have not changed. A stage that was killed
resumes: a search from its journal, a training from its last checkpoint, an evaluation after its last record.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import SettingError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.factors.factor_set import FactorSet
from ropewalk.recipe.acceptance import LimitResult, check_limits
from ropewalk.recipe.document_split import divide_text, require_unseen_tests
from ropewalk.recipe.processes import follow, is_first_process, take_own_device
from ropewalk.recipe.progress import Clock, Watch
from ropewalk.recipe.run_folder import PipelineFolder
from ropewalk.recipe.schema import Recipe
from ropewalk.recipe.stage_context import Run, StopForExternal
from ropewalk.recipe.stage_folder import StageFolder
from ropewalk.recipe.stage_runs import STAGE_FUNCTIONS
from ropewalk.recipe.stages import EvaluateStage, ExternalStage, SearchStage, Stage
from ropewalk.recipe.state import Models, State
from ropewalk.search.provenance import run_id
from ropewalk.search.worker_settings import WorkerSettings


@dataclass(frozen=True, kw_only=True)
class Extended:
    """The result of a run.

    Attributes:
        folder: `result`: the checkpoint, if one was trained, and the factor set.
        checkpoint: the trained model; None if the recipe's own model is used.
        factors: the factor set.
        records: of all evaluations; of a metric at a length, the last one counts.
        verdicts: one per acceptance limit.
        waits_for: if the run stopped for external training: the folder to start from, and the recipe's note
            on it. Nothing else is complete then.
    """

    folder: Path
    checkpoint: Path | None = None
    factors: FactorSet | None = None
    records: tuple[EvalRecord, ...] = ()
    verdicts: tuple[LimitResult, ...] = ()
    waits_for: tuple[Path, str] | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether every acceptance limit is met."""
        return all(verdict.is_held for verdict in self.verdicts)


def run_recipe(
    recipe: Recipe,
    path: str | Path,
    *,
    continue_with: str | Path | None = None,
    cut_damaged: bool = False,
    watch: Watch | None = None,
    workers: int | WorkerSettings = 1,
) -> Extended:
    """Runs a recipe in a folder, or resumes it there.

    Args:
        recipe: checked, as `load_recipe` returns it.
        path: the run's folder: new, empty, or of this recipe.
        continue_with: the checkpoint of an external training, if the run waits for one.
        cut_damaged: as `Journal`, for the journal of every stage.
        watch: callbacks for progress.
        workers: of the searches, as for `search_factors`.

    Returns:
        The result. Of several processes, the first one returns all of it, and the others its folder only.

    Raises:
        RunFolderError: the folder is another recipe's, in use, or a stage's inputs have changed.
        RopewalkError: a stage fails.
    """
    window = recipe.model.describe().geometry.original_length
    recipe = recipe.resolved(window)
    if not is_first_process():
        return _follow(recipe, window, path, continue_with)
    with PipelineFolder.open(path, identity(recipe)) as folder:
        run = _begin(recipe, window, continue_with, watch or Watch(), cut_damaged=cut_damaged)
        run.workers = WorkerSettings.of(workers)
        _tell_reach(run)
        # All text is read first: a text too short for the last stage is an error before the first one runs.
        texts = [STAGE_FUNCTIONS[type(stage)].texts(run, stage) for stage in recipe.stages]
        require_unseen_tests(run)
        clock = Clock(recipe.stages, run.window, run.hidden_size)
        try:
            for index, stage in enumerate(recipe.stages):
                _do(run, clock, index, stage, folder.stage(index, stage.title), texts[index])
        except StopForExternal as stopped:
            return Extended(folder=folder.result_path, waits_for=(stopped.folder, stopped.stage.note))
        if run.continue_with is not None:
            raise _nothing_waits(recipe, run.continue_with)
        return _finish(run, folder)


def _begin(
    recipe: Recipe, window: int, continue_with: str | Path | None, watch: Watch, *, cut_damaged: bool = False
) -> Run:
    """The state before the first stage: the recipe's own model."""
    take_own_device(recipe.model.device)
    models = Models(recipe.model)
    base = models.base()
    run = Run(
        recipe=recipe,
        models=models,
        state=State(weights_sha256=base.weights_sha256),
        watch=watch,
        window=window,
        hidden_size=int(getattr(base.model.config.get_text_config(), "hidden_size", 4096)),
        tokenizer=base.tokenizer,
        run_id=run_id({**identity(recipe), "weights_sha256": base.weights_sha256}),
        continue_with=None if continue_with is None else Path(continue_with),
        cut_damaged=cut_damaged,
    )
    divide_text(run)
    return run


def _tell_reach(run: Run) -> None:
    """Reports notes on the base model's window, and searches at lengths that it already reads."""
    description = run.recipe.model.describe()
    for note in description.window_notes:
        run.watch.say(note)
    lengths = [int(stage.length) for stage in run.recipe.stages if isinstance(stage, SearchStage)]
    within = [str(length) for length in lengths if length <= description.own_reach]
    if within:
        run.watch.say(
            f"The base model already reads {description.own_reach} tokens. A recipe replaces its scaling, so "
            f"factors searched at {', '.join(within)} tokens may be no better: compare them with the base "
            f"model, or search at longer lengths."
        )


def _follow(recipe: Recipe, window: int, path: str | Path, continue_with: str | Path | None) -> Extended:
    """The run in a process that is not the first."""
    folder = PipelineFolder(Path(path))
    try:
        follow(_begin(recipe, window, continue_with, Watch()), folder, identity(recipe))
    except StopForExternal as stopped:
        return Extended(folder=folder.result_path, waits_for=(stopped.folder, stopped.stage.note))
    return Extended(folder=folder.result_path)


def _do(
    run: Run, clock: Clock, index: int, stage: Stage, folder: StageFolder, texts: Mapping[str, Any]
) -> None:
    """Runs one stage, resumes it, or uses its complete result."""
    functions = STAGE_FUNCTIONS[type(stage)]
    folder.begin({"settings": stage.model_dump(mode="json"), "text": texts, **run.state.as_values()})
    made = folder.done()
    run.watch.on_stage(index, stage.title, made is not None, clock.left(index))
    if made is None:
        started = time.perf_counter()
        result = functions.work(run, stage, folder)
        outputs = result.pop("outputs")
        folder.finish(outputs, **result, seconds=time.perf_counter() - started)
        made = folder.done()
        assert made is not None, "the stage has just been completed"
    clock.took(index, made["seconds"])
    functions.apply(run, stage, folder, made)


def _finish(run: Run, folder: PipelineFolder) -> Extended:
    """Writes the result, and compares it with the limits of the recipe."""
    records: list[EvalRecord] = []
    for index, stage in enumerate(run.recipe.stages):
        if isinstance(stage, EvaluateStage):
            records += folder.stage(index, stage.title).read_records()
    verdicts = check_limits(run.recipe.accept, records)
    factors = None if run.state.factors is None else run.state.factor_set()
    if factors is not None:
        folder.write_result(run.state.checkpoint, factors.to_json())
    folder.write_summary(
        model=run.recipe.model.model_dump(mode="json"),
        weights_sha256=run.state.weights_sha256,
        run_id=run.run_id,
        records=[record.as_json() for record in records],
        verdicts=[verdict.as_json() for verdict in verdicts],
    )
    return Extended(
        folder=folder.result_path,
        checkpoint=folder.result_path if run.state.checkpoint is not None else None,
        factors=factors,
        records=tuple(records),
        verdicts=tuple(verdicts),
    )


def identity(recipe: Recipe) -> dict[str, Any]:
    """The identity of a recipe's run; stages by number and name, so that a difference names one."""
    values = recipe.as_dict()
    stages = {f"{n + 1:02d}-{stage['name']}": stage for n, stage in enumerate(values["stages"])}
    return {**values, "stages": stages}


def _nothing_waits(recipe: Recipe, checkpoint: Path) -> SettingError:
    external = [stage.title for stage in recipe.stages if isinstance(stage, ExternalStage)]
    if not external:
        return SettingError(
            f"{checkpoint} was given to continue with, but this recipe has no stage of kind external: leave "
            f"it out."
        )
    return SettingError(
        f"{checkpoint} was given to continue with, but no external stage waits for one "
        f"({', '.join(external)} has one already): leave it out, or begin again in another folder."
    )
