"""`ropewalk search`: searches rescale factors for a model on text."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ropewalk.cli import options
from ropewalk.cli.comparison_table import compare
from ropewalk.cli.from_settings import from_settings
from ropewalk.cli.output import interruptible, result, result_json, say
from ropewalk.cli.progress import show_progress
from ropewalk.cli.search_result import files, story
from ropewalk.cli.splits import check_sources, read_split
from ropewalk.errors import SettingError
from ropewalk.models.settings import ModelSettings
from ropewalk.search.settings import SearchSettings
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.text.settings import TextSplit

if TYPE_CHECKING:
    from ropewalk.models.rope_config import RopeDescription
    from ropewalk.search.run_folder import RunFolder

NUM_TEST_DOCUMENTS = 5  # one measurement of every scheme, where a recipe has an evaluation of its own


@from_settings(
    {"num_test_documents": NUM_TEST_DOCUMENTS}, model=ModelSettings, text=TextSplit, settings=SearchSettings,
    workers=WorkerSettings,
)  # fmt: skip
def search(
    context: typer.Context,
    *,
    target_length: Annotated[
        str, typer.Option(metavar="LENGTH", help="Target length: 8x (times the window), 32768 or 32k tokens.")
    ],
    text: TextSplit,
    settings: SearchSettings,
    workers: WorkerSettings,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder; by default runs/MODEL-LENGTH.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")] = False,
    cut_damaged: options.CutDamaged = False,
    json: options.Json = False,
    model: ModelSettings,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Search rescale factors that extend a model's context window, without training.

    The search minimises its objective on search documents. Validation documents stop it and choose the
    result; test documents measure it. Every trial is on disk as it ends: after Ctrl-C, a crash or a kill,
    --resume continues, with the same result.

    \b
    Examples:
        ropewalk search scale-model --target-length 8x --text stdlib --seed 0 --out runs/mine
        ropewalk search scale-model --target-length 8x --strategy evolution --budget paper
    """
    out = out or Path("runs") / f"{Path(model.name).name or 'model'}-{target_length}"
    if cut_damaged and not resume:
        raise SettingError("`--cut-damaged` is for a run that is resumed: give --resume too.")
    with interruptible(how_to_resume(context.obj, out)):
        check_sources(text)
        from ropewalk.models.model import load_model
        from ropewalk.models.model_files import describe_model
        from ropewalk.search.plan import plan_search
        from ropewalk.search.run_folder import RunFolder

        description = describe_model(
            model.name, revision=model.revision, trust_remote_code=trust_remote_code,
            original_length=model.original_length,
        )  # fmt: skip
        target = options.parse_target(target_length, options.window(description, settings.base))
        plan = plan_search(description, target, settings)
        tell_base(description, settings)
        begun = RunFolder.resume(out, cut_damaged=cut_damaged) if resume else RunFolder.create(out)
        with begun as folder:
            loaded = load_model(**model.model_dump(), trust_remote_code=trust_remote_code)
            split = read_split(text, loaded.tokenizer, target)
            opened = plan.open_workers(workers, loaded, split.search, split.validation)
            with opened as pool, show_progress() as progress:
                found = plan.run(
                    loaded, split.search, validation_documents=split.validation, journal=folder.journal,
                    on_trial=progress.on_trial, workers=pool,
                )  # fmt: skip
            folder.write_search(found)
            compared = compare(loaded, split, found, plan.base_factors)
            folder.write_records(compared.records)
    if json:
        result_json(
            [record.as_json() for record in compared.records],
            search=found.as_dict(), gaps=[gap.as_json() for gap in compared.gaps],
            verdict=compared.verdict, files=files(found, folder),
        )  # fmt: skip
    else:
        result(story(found, folder))
        result(compared.tables())
        result(next_step(model.name, folder, target, settings, reported=split.test is not None))


def tell_base(description: "RopeDescription", settings: SearchSettings) -> None:
    """Report what is unusual about the model's window, and that a scaling of its own is replaced."""
    for note in description.window_notes:
        say(note)
    if description.has_own_scaling and settings.base != "as-is":
        instead = "; give --base as-is to extend it instead" if description.own is not None else ""
        say(
            f"This model's own scaling, with which it reads {description.own_reach} tokens, is replaced "
            f"(--base native){instead}."
        )


def how_to_resume(arguments: list[str], out: Path) -> str:
    """The command line that resumes this run."""
    command = ["ropewalk", *arguments]
    if "--resume" not in command:
        command.append("--resume")
    return f"The trials so far are in {out}; resume with: {shlex.join(command)}"


def next_step(
    model: str, folder: "RunFolder", target: int, settings: SearchSettings, *, reported: bool
) -> str:
    """The command that measures the result next: passkeys, or perplexity on other documents."""
    evaluate = ["ropewalk", "evaluate"]
    factors = ["--factors", str(folder.factors_path), "--scheme", "yarn", "--lengths", str(target)]
    if settings.base == "as-is":
        factors += ["--base", settings.base]
    if reported:
        command = [*evaluate, "passkey", model, *factors]
        return f"Next, measure whether it finds passkeys:\n  {shlex.join(command)}"
    command = [*evaluate, "perplexity", model, *factors, "--text"]
    return f"Now measure it on text that the search has not seen:\n  {shlex.join(command)} OTHER-TEXT"
