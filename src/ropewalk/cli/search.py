"""`ropewalk search`: a model and text in, factors out."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ropewalk.cli import options
from ropewalk.cli.comparison_table import compare
from ropewalk.cli.output import interruptible, result, result_json, say
from ropewalk.cli.progress import search_progress
from ropewalk.cli.search_result import files, story
from ropewalk.cli.splits import check_sources, read_texts
from ropewalk.errors import SettingError

if TYPE_CHECKING:
    from ropewalk.factors.geometry import RopeGeometry
    from ropewalk.models.rope_config import RopeDescription
    from ropewalk.search.run_folder import RunFolder


def search(
    context: typer.Context,
    model: options.Model,
    target_length: Annotated[
        str, typer.Option(metavar="LENGTH", help="How far to read: 8x (times the window), 32768, 32k.")
    ],
    text: options.Text = "stdlib",
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="gradient (default; descent on a spline), hybrid, cma, evolution (the paper's Algorithm 1), "
            "random, or package.module:Name.",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Evaluations of all search documents, in forward passes; 27 by default. `paper` is 1344, "
            "the default of evolution and random.",
        ),
    ] = None,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder; by default runs/MODEL-LENGTH.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    cut_damaged: options.CutDamaged = False,
    json: options.Json = False,
    num_documents: options.NumDocuments = 5,
    stop_documents: Annotated[
        int,
        typer.Option(
            min=0,
            max=options.MOST,
            metavar="N",
            help="Next ones, that end a search which only fits the first; 0: none.",
        ),
    ] = 3,
    report_documents: Annotated[
        int,
        typer.Option(
            min=0, max=options.MOST, metavar="N", help="Others, measured once when all is chosen; 0: none."
        ),
    ] = 5,
    report_text: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Where they come from; by default the same source, for stdlib its held-out part.",
        ),
    ] = None,
    serve_with: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE",
            help="Search only what it can run: any (default), transformers, vllm, llama.cpp, ropewalk.",
        ),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="full, spline or longrope2 (docs/method.md); spline by default."),
    ] = None,
    num_knots: Annotated[
        int | None,
        typer.Option(
            min=2, max=options.MOST, help="Of the spline; 10 by default, or as many as there are places."
        ),
    ] = None,
    critical_pair: Annotated[
        int | None,
        typer.Option(min=1, max=options.MOST, help="Of longrope2: the first pair that is searched."),
    ] = None,
    monotone: Annotated[
        bool | None,
        typer.Option("--monotone/--free-order", help="Whether factors may never fall; they may not."),
    ] = None,
    start_tokens: Annotated[
        str | None, typer.Option(help="search: n-hat from the paper's list; none: keep it 0.")
    ] = None,
    attention_factor: Annotated[
        str | None,
        typer.Option(metavar="A", help="A number, longrope (sqrt(1 + ln s / ln L)), or search."),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="perplexity (default), tail (beyond the window), needle, or package.module:Name.",
        ),
    ] = None,
    short_weight: Annotated[
        float | None, typer.Option(help="Of the perplexity of the first L tokens, beside the rest's 1.")
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(min=0.0001, help="Stop after so long; the result then depends on the machine."),
    ] = None,
    base: options.BaseOrNone = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    attn_implementation: options.Attention = "sdpa",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    original_length: options.OriginalLength = None,
    full_attention: options.FullAttention = False,
) -> None:
    """Search the rescale factors with which a model reads a longer target, without training.

    It follows the search documents, stops by others, and is reported on others again. Every trial is on disk
    as it ends: after Ctrl-C, a crash or a kill, --resume goes on and finds what an uninterrupted run finds.

    \b
    Examples:
        ropewalk search scale-model --target-length 8x --text stdlib --seed 0 --out runs/mine
        ropewalk search scale-model --target-length 8x --strategy evolution --budget paper
    """
    out = out or Path("runs") / f"{Path(model).name or 'model'}-{target_length}"
    if cut_damaged and not resume:
        raise SettingError("`--cut-damaged` is for a run that is resumed: give it beside --resume.")
    with interruptible(how_to_resume(context.obj, out)):
        check_sources(text, report_text)
        from ropewalk.models.model import describe_model, load_model
        from ropewalk.search.run_folder import RunFolder
        from ropewalk.search.search import require_beyond_reach, search_factors

        description = describe_model(
            model, revision=revision, trust_remote_code=trust_remote_code, original_length=original_length
        )
        own, window = description.own_under(base or "native"), options.window(description, base or "native")
        target = options.parse_target(target_length, window)
        require_beyond_reach(description, target, base)
        tell_base(description, base)
        given: dict[str, Any] = {
            "strategy": strategy, "budget": budget, "seed": seed, "serve_with": serve_with, "space": space,
            "num_knots": num_knots, "critical_pair": critical_pair, "monotone": monotone,
            "start_tokens": start_tokens, "attention_factor": attention_factor, "objective": objective,
            "short_weight": short_weight, "base": base, "max_minutes": max_minutes,
        }  # fmt: skip
        check_settings(description.geometry, window, target, given)
        begun = RunFolder.resume(out, cut_damaged=cut_damaged) if resume else RunFolder.create(out)
        with begun as folder:
            loaded = load_model(
                model, device=device, dtype=dtype, attn_implementation=attn_implementation,
                revision=revision, trust_remote_code=trust_remote_code,
                original_length=original_length, full_attention=full_attention,
            )  # fmt: skip
            texts = read_texts(
                text, loaded.tokenizer, length=target, num_search=num_documents, num_stop=stop_documents,
                num_report=report_documents, report_source=report_text,
            )  # fmt: skip
            with search_progress() as on_trial:
                found = search_factors(
                    loaded, texts.search, target_length=target, stop_documents=texts.stop,
                    journal=folder.journal, on_trial=on_trial, **given,
                )  # fmt: skip
            folder.write_search(found)
            compared = compare(loaded, texts, found, own)
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
        result(next_step(model, folder, target, base, reported=texts.report is not None))


def tell_base(description: "RopeDescription", base: "options.Base | None") -> None:
    """What is not as it seems about the model's window, and that a scaling of its own is replaced."""
    for note in description.window_notes:
        say(note)
    if description.has_own_scaling and base != "as-is":
        unsaid = "; say --base as-is to extend it instead" if description.own is not None else ""
        say(
            f"This model's own scaling, with which it reads {description.own_reach} tokens, is replaced "
            f"(--base native){unsaid}."
        )


def check_settings(geometry: "RopeGeometry", window: int, target: int, given: dict[str, Any]) -> None:
    """Find a wrong setting before weights are read, which may take minutes.

    Args:
        geometry: the model's.
        window: tokens that it reads before it is extended.
        given: as `SearchSettings.choose` takes it.

    Raises:
        SettingError: as `search_factors`.
    """
    from ropewalk.search.engine_constraints import Probes
    from ropewalk.search.loop import kept_back
    from ropewalk.search.objective_terms import OBJECTIVES, objective_maker
    from ropewalk.search.search import search_space
    from ropewalk.search.settings import SearchSettings
    from ropewalk.search.strategies import Task, make_strategy

    chosen = SearchSettings.choose(**given)
    space = search_space(replace(geometry, original_length=window), target, chosen)
    task = Task(space=space, seed=chosen.seed, budget=chosen.num_evaluations)
    make_strategy(chosen.strategy, task, chosen.strategy_settings)
    objective_maker(chosen.objective)
    # The stop set is not known before the text is read, nor what an objective of the user's own costs.
    least = 1 + kept_back(1.0, space, None, Probes.outside(chosen.serve_with))
    if chosen.objective in OBJECTIVES and chosen.num_evaluations < least:
        raise SettingError(
            f"The budget is {chosen.num_evaluations} evaluations, but one trial and the checks need at least "
            f"{least:g}: give more."
        )


def how_to_resume(arguments: list[str], out: Path) -> str:
    """The command line that goes on with this run."""
    command = ["ropewalk", *arguments]
    if "--resume" not in command:
        command.append("--resume")
    return f"The trials so far are kept in {out}; go on with: {shlex.join(command)}"


def next_step(
    model: str, folder: "RunFolder", target: int, base: "options.Base | None", *, reported: bool
) -> str:
    """What has not been measured yet; documents that were searched on are no report."""
    evaluate = ["ropewalk", "evaluate"]
    factors = ["--factors", str(folder.factors_path), "--scheme", "yarn", "--lengths", str(target)]
    if base == "as-is":
        factors += ["--base", base]
    if reported:
        command = [*evaluate, "passkey", model, *factors]
        return f"Next, whether it finds what lies far back:\n  {shlex.join(command)}"
    command = [*evaluate, "perplexity", model, *factors, "--text"]
    return f"Now measure it on text that the search has not seen:\n  {shlex.join(command)} OTHER-TEXT"
