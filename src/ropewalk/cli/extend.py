"""`ropewalk extend`: runs a recipe, and writes an extended model."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ropewalk.cli import options
from ropewalk.cli.comparison_table import facts_title
from ropewalk.cli.evaluate import (
    how_read,
    paired_shares_table,
    paired_table,
    perplexity_table,
    share_table,
    tell,
)
from ropewalk.cli.from_settings import from_settings
from ropewalk.cli.output import clock, interruptible, result, result_json, say
from ropewalk.cli.progress import show_progress
from ropewalk.search.worker_settings import WorkerSettings

if TYPE_CHECKING:
    from ropewalk.evaluate.records import EvalRecord
    from ropewalk.evaluate.settings import RetrievalSettings
    from ropewalk.recipe.run import Extended
    from ropewalk.recipe.schema import Recipe

MISSED_CODE = 3

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe (`ropewalk recipe list`), or a YAML file.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value, e.g. search.budget=60 or stages.tune.num_steps=120; give it again for more.",
    ),
]


@from_settings(workers=WorkerSettings)
def extend(
    context: typer.Context,
    recipe: RecipeName,
    workers: WorkerSettings,
    changes: Changes = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder; by default runs/RECIPE.")
    ] = None,
    continue_with: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="The checkpoint of an external training.")
    ] = None,
    cut_damaged: options.CutDamaged = False,
    json: options.Json = False,
) -> None:
    """Run a recipe (search, fine-tune, search again, readjust, evaluate), and write a checkpoint and factors.

    Complete stages in the run's folder are not repeated: after Ctrl-C, a crash or a kill, the same command
    resumes the run. Exit code 3 says that a limit of the recipe's `accept:` was missed.

    \b
    Examples:
        ropewalk extend scale-model-quick --out runs/quick
        ropewalk extend any-model-8x --set model.name=./my-model --set text.search=./books
    """
    out = out or Path("runs") / Path(recipe).stem
    again = f"What was done so far is in {out}; the same command resumes the run: " + shlex.join(
        ["ropewalk", *context.obj]
    )
    with interruptible(again):
        checked = load_for_its_model(recipe, changes or [])
        found = run_with_progress(checked, out, continue_with, cut_damaged=cut_damaged, workers=workers)
    if found is None:
        return
    if found.waits_for is not None:
        report_waiting(found.waits_for, recipe, changes or [], out, json=json)
        return
    report(found, json=json)
    if not found.is_accepted:
        raise typer.Exit(MISSED_CODE)


def load_for_its_model(name: str, changes: list[str]) -> "Recipe":
    """A recipe, checked with the window of its model."""
    from ropewalk.recipe.reading import load_recipe

    window = load_recipe(name, changes).model.describe().geometry.original_length
    return load_recipe(name, changes, window=window)


def run_with_progress(
    recipe: "Recipe",
    out: Path,
    continue_with: Path | None,
    *,
    cut_damaged: bool = False,
    workers: WorkerSettings | None = None,
) -> "Extended | None":
    """Run it with progress on stderr; of several processes, only the first one writes any."""
    from ropewalk.recipe.processes import is_first_process
    from ropewalk.recipe.progress import Watch
    from ropewalk.recipe.run import run_recipe

    if not is_first_process():
        run_recipe(recipe, out, continue_with=continue_with)
        return None

    num_stages = len(recipe.stages)

    def on_stage(index: int, title: str, is_complete: bool, seconds_left: float | None) -> None:
        left = "" if seconds_left is None or is_complete else f", about {clock(seconds_left)} left in all"
        state = "done already" if is_complete else f"begins{left}"
        say(f"\nStage {index + 1}/{num_stages}, {title}: {state}.")

    with show_progress() as progress:
        watch = Watch(
            on_stage=on_stage, on_trial=progress.on_trial, on_step=progress.on_step,
            on_answer=progress.on_answer, on_record=tell_any, say=say,
        )  # fmt: skip
        return run_recipe(
            recipe, out, continue_with=continue_with, cut_damaged=cut_damaged, watch=watch,
            workers=workers or WorkerSettings(),
        )  # fmt: skip


def tell_any(record: "EvalRecord") -> None:
    """One line of progress as a record is made."""
    if record.metric == "nll_increase":
        say(f"inputs of {record.length} tokens: {_rise(record)} ({clock(record.seconds)})")
    else:
        tell(record)


def report(found: "Extended", *, json: bool) -> None:
    """Prints the result, as text or as JSON."""
    if json:
        result_json(
            [record.as_json() for record in found.records],
            verdicts=[verdict.as_json() for verdict in found.verdicts],
            accepted=found.is_accepted,
            files=files(found),
        )
        return
    for text in tables(found.records):
        result(text)
    for verdict in found.verdicts:
        result(verdict.text[:1].upper() + verdict.text[1:] + ".")
    for name, path in files(found).items():
        result(f"{name}: {path}")


def files(found: "Extended") -> dict[str, str]:
    """The files of the result, by their role."""
    made = {} if found.checkpoint is None else {"checkpoint": str(found.checkpoint)}
    return {**made, "factors": str(found.folder / "factors.json")}


def tables(records: "tuple[EvalRecord, ...]") -> list[str]:
    """One table per metric, and a line for the NLL increase on short inputs."""
    from ropewalk.recipe.evaluate_stage import EXTENDED

    perplexities = [record for record in records if record.metric == "perplexity"]
    passkeys = [record for record in records if record.metric == "passkey"]
    made = []
    if perplexities:
        read = [record for record in perplexities if record.mode == "truncate"] or perplexities
        made.append(perplexity_table(perplexities, f"Perplexity on the test documents ({how_read(read[0])})"))
        if len({record.factors for record in perplexities}) > 1:
            made.append(paired_table(perplexities, EXTENDED))
    for answers in same_questions(records):
        made.append(share_table(answers, facts_title(answers)))
        if len({record.factors for record in answers}) > 1:
            made.append(paired_shares_table(answers, EXTENDED))
    if passkeys:
        made.append(share_table(passkeys, "Passkeys found"))
    made += [
        f"Inputs of {record.length} tokens, against the base model: {_rise(record)}.\n"
        for record in records
        if record.metric == "nll_increase"
    ]
    return made


def same_questions(records: "tuple[EvalRecord, ...]") -> "list[list[EvalRecord]]":
    """The records of retrieval, those with the same questions together."""
    groups: dict[RetrievalSettings | None, list[EvalRecord]] = {}
    for record in records:
        if record.metric == "retrieval":
            groups.setdefault(record.retrieval, []).append(record)
    return list(groups.values())


def _rise(record: "EvalRecord") -> str:
    known = record.low is not None
    interval = f"95% interval {record.low:+.4f} to {record.high:+.4f}" if known else "no interval"
    return f"{record.value:+.4f} nats per token ({interval}; n = {record.n} documents)"


def report_waiting(
    waits_for: "tuple[Path, str]", recipe: str, changes: list[str], out: Path, *, json: bool
) -> None:
    """Where the start checkpoint is, and how to resume."""
    start, note = waits_for
    command = ["ropewalk", "extend", recipe, "--out", str(out)]
    for change in changes:
        command += ["--set", change]
    to_resume = shlex.join(command) + " --continue-with CHECKPOINT"
    if json:
        waiting: dict[str, Any] = {"start": str(start), "note": note, "go_on": to_resume}
        result_json([], waits_for=waiting)
        return
    more = f" {note}" if note else ""
    result(
        f"The next stage is trained elsewhere. Start from {start}: its config.json pins the factors, so "
        f"leave the rope keys as they are.{more}\nThen resume with the trained checkpoint:\n  {to_resume}"
    )
