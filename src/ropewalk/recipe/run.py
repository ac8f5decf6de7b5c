"""Recipe to result: the whole method, a stage after another, each done once.

    base model ─ search ─> factors ─ finetune ─> tuned model ─ search ─> total factors ─ readjust ─> set
                                                                                                      │
                                                                                                  evaluate

A stage that the run's folder holds already is taken from there: it was begun with the same inputs (weights,
factors, text and settings, compared by content), was finished, and its files are still what they were. A
stage that was killed in the middle goes on by itself: a search from its journal, a training from its last
checkpoint, an evaluation after its last record.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import SettingError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.factors.factor_set import FactorSet
from ropewalk.recipe.acceptance import Verdict, judge
from ropewalk.recipe.document_split import part_text, require_disjoint
from ropewalk.recipe.processes import follow, is_first_process, take_own_device
from ropewalk.recipe.progress import Clock, Watch
from ropewalk.recipe.run_folders import PipelineFolder, StageFolder
from ropewalk.recipe.schema import Recipe
from ropewalk.recipe.stage_runs import KINDS, Run, StopForExternal
from ropewalk.recipe.stages import EvaluateStage, ExternalStage, SearchStage, Stage
from ropewalk.recipe.state import Models, State
from ropewalk.search.provenance import run_id

FORMAT, FORMAT_VERSION = "ropewalk.result", 1


@dataclass(frozen=True, kw_only=True)
class Extended:
    """What a run gives back.

    Attributes:
        folder: `result`: the checkpoint, if one was tuned, and the factor set.
        checkpoint: of the tuned model; None where the recipe's own is used.
        factors: the set.
        records: of all evaluations; of a metric at a length, the last one counts.
        verdicts: a limit each.
        waits_for: set where the run stopped for external training: the folder to start from, and what the
            recipe says to it. Nothing else is complete then.
    """

    folder: Path
    checkpoint: Path | None = None
    factors: FactorSet | None = None
    records: tuple[EvalRecord, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    waits_for: tuple[Path, str] | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether every limit is held."""
        return all(verdict.is_held for verdict in self.verdicts)


def extend(
    recipe: Recipe,
    path: str | Path,
    *,
    continue_with: str | Path | None = None,
    cut_damaged: bool = False,
    watch: Watch | None = None,
) -> Extended:
    """Run a recipe in a folder, from where it stands there.

    Of several processes the first one gives back what comes out; the others, only where it is.

    Args:
        recipe: checked, as `load_recipe` gives it.
        path: the run's folder: new, empty, or of this recipe.
        continue_with: the checkpoint that an external training made, where the run waits for one.
        cut_damaged: as `Journal`, of every stage's journal.

    Raises:
        RunFolderError: the folder is another recipe's, in use, or a stage's inputs have changed.
        RopewalkError: whatever a stage can't do.
    """
    window = recipe.model.describe().geometry.original_length
    recipe = recipe.resolved(window)
    if not is_first_process():
        return _follow(recipe, window, path, continue_with)
    with PipelineFolder.open(path, identity(recipe)) as folder:
        run = _begin(recipe, window, continue_with, watch or Watch(), cut_damaged=cut_damaged)
        _tell_reach(run)
        # All text is looked at first: what is too short for the last stage is said before the first one.
        texts = [KINDS[type(stage)].texts(run, stage) for stage in recipe.stages]
        require_disjoint(run)
        clock = Clock(recipe.stages, run.hidden_size)
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
    """Nothing done yet: the recipe's own model, untouched."""
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
    part_text(run)
    return run


def _tell_reach(run: Run) -> None:
    """What is not as it seems about the base model's window, and which searches lie within what it reads."""
    description = run.recipe.model.describe()
    for note in description.window_notes:
        run.watch.say(note)
    lengths = [int(stage.length) for stage in run.recipe.stages if isinstance(stage, SearchStage)]
    within = [str(length) for length in lengths if length <= description.own_reach]
    if within:
        run.watch.say(
            f"The base model already reads {description.own_reach} tokens as it is. A recipe replaces its "
            f"own scaling, so what is searched at {', '.join(within)} tokens may read no better: compare it "
            f"with the base model's row, or search at longer lengths."
        )


def _follow(recipe: Recipe, window: int, path: str | Path, continue_with: str | Path | None) -> Extended:
    """What a process does that is not the first."""
    folder = PipelineFolder(Path(path))
    try:
        follow(_begin(recipe, window, continue_with, Watch()), folder, identity(recipe))
    except StopForExternal as stopped:
        return Extended(folder=folder.result_path, waits_for=(stopped.folder, stopped.stage.note))
    return Extended(folder=folder.result_path)


def _do(
    run: Run, clock: Clock, index: int, stage: Stage, folder: StageFolder, texts: Mapping[str, Any]
) -> None:
    """One stage: held already, gone on with, or begun."""
    kind = KINDS[type(stage)]
    folder.begin({"settings": stage.model_dump(mode="json"), "text": texts, **run.state.as_values()})
    made = folder.done()
    run.watch.on_stage(index, stage.title, made is not None, clock.left(index))
    if made is None:
        started = time.perf_counter()
        told = kind.work(run, stage, folder)
        outputs = told.pop("outputs")
        folder.finish(outputs, **told, seconds=time.perf_counter() - started)
        made = folder.done()
        assert made is not None, "what was written just now is there"
    clock.took(index, made["seconds"])
    kind.apply(run, stage, folder, made)


def _finish(run: Run, folder: PipelineFolder) -> Extended:
    """The result's folder, and the verdicts."""
    records: list[EvalRecord] = []
    for index, stage in enumerate(run.recipe.stages):
        if isinstance(stage, EvaluateStage):
            records += folder.stage(index, stage.title).read_records()
    verdicts = judge(run.recipe.accept, records)
    factors = None if run.state.factors is None else run.state.factor_set()
    if factors is not None:
        folder.write_result(run.state.checkpoint, factors.to_json())
    folder.write_summary(
        {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "model": run.recipe.model.model_dump(mode="json"),
            "weights_sha256": run.state.weights_sha256,
            "run_id": run.run_id,
            "records": [record.as_json() for record in records],
            "verdicts": [verdict.as_json() for verdict in verdicts],
        }
    )
    return Extended(
        folder=folder.result_path,
        checkpoint=folder.result_path if run.state.checkpoint is not None else None,
        factors=factors,
        records=tuple(records),
        verdicts=tuple(verdicts),
    )


def identity(recipe: Recipe) -> dict[str, Any]:
    """What a folder's recipe is compared by; stages by number and name, so that a difference names one."""
    values = recipe.as_dict()
    stages = {f"{n + 1:02d}-{stage['name']}": stage for n, stage in enumerate(values["stages"])}
    return {**values, "stages": stages}


def _nothing_waits(recipe: Recipe, checkpoint: Path) -> SettingError:
    external = [stage.title for stage in recipe.stages if isinstance(stage, ExternalStage)]
    if not external:
        return SettingError(
            f"{checkpoint} was to be gone on with, but this recipe has no stage of kind external: leave it "
            f"out."
        )
    return SettingError(
        f"{checkpoint} was to be gone on with, but no external stage waits for one ({', '.join(external)} "
        f"went on with another before): leave it out, or begin anew in another folder."
    )
