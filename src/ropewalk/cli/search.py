"""`ropewalk search`: a model and text in, factors out."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ropewalk.cli import options
from ropewalk.cli.evaluate import how_read, perplexity_table, tell
from ropewalk.cli.output import clock, interruptible, result, result_json, say
from ropewalk.cli.progress import search_progress

if TYPE_CHECKING:
    from ropewalk.evaluate.records import EvalRecord
    from ropewalk.factors import RescaleFactors
    from ropewalk.geometry import RopeGeometry
    from ropewalk.models.load import LoadedModel
    from ropewalk.run_folder import RunFolder
    from ropewalk.search.search import SearchResult
    from ropewalk.text.tokens import DocumentSet


def search(
    context: typer.Context,
    model: options.Model,
    target_length: Annotated[
        str, typer.Option(metavar="LENGTH", help="How far to read: 8x (times the window), 32768, 32k.")
    ],
    text: options.Text = "stdlib",
    strategy: Annotated[
        str, typer.Option(help="evolution (the paper's Algorithm 1) or random.")
    ] = "evolution",
    budget: Annotated[
        str,
        typer.Option(metavar="N", help="Evaluations of all documents; `paper` is 1344."),
    ] = "paper",
    seed: options.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder; by default runs/MODEL-LENGTH.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    json: options.Json = False,
    num_documents: options.NumDocuments = 5,
    start_tokens: Annotated[
        str, typer.Option(help="search: n-hat from the paper's list; none: keep it 0.")
    ] = "search",
    attention_factor: Annotated[
        str, typer.Option(metavar="A", help="A number, longrope (sqrt(1 + ln s / ln L)), or search.")
    ] = "1",
    max_minutes: Annotated[
        float | None,
        typer.Option(min=0.0001, help="Stop after so long; the result then depends on the machine."),
    ] = None,
    base: options.BaseOption = "native",
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    attn_implementation: options.Attention = "sdpa",
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    original_length: options.OriginalLength = None,
    full_attention: options.FullAttention = False,
) -> None:
    """Search the rescale factors with which a model reads a longer target, without training.

    Every trial is on disk as it ends: after Ctrl-C, a crash or a kill, --resume goes on and finds what an
    uninterrupted run finds. `stdlib` means its search part, which reports do not read.

    \b
    Example:
        ropewalk search scale-model --target-length 8x --text stdlib --budget 100 --seed 0 --out runs/mine
    """
    out = out or Path("runs") / f"{Path(model).name or 'model'}-{target_length}"
    with interruptible(how_to_resume(context.obj, out)):
        options.check_early(None, None, text)
        from ropewalk.models.load import describe_model, load_model
        from ropewalk.run_folder import RunFolder
        from ropewalk.search.search import search_factors
        from ropewalk.text.tokens import token_documents

        description = describe_model(
            model, revision=revision, trust_remote_code=trust_remote_code, original_length=original_length
        )
        own = description.own_under(base)
        target = options.parse_target(target_length, options.window(description, base))
        check_settings(description.geometry, target, strategy, budget, seed, start_tokens, attention_factor)
        with RunFolder.resume(out) if resume else RunFolder.create(out) as folder:
            loaded = load_model(
                model, device=device, dtype=dtype, attn_implementation=attn_implementation,
                revision=revision, trust_remote_code=trust_remote_code,
                original_length=original_length, full_attention=full_attention,
            )  # fmt: skip
            documents = token_documents(
                text, loaded.tokenizer, length=target, num_documents=num_documents, split="search"
            )
            say(options.about_documents(documents, num_documents))
            with search_progress() as on_trial:
                found = search_factors(
                    loaded, documents, target_length=target, strategy=strategy, budget=budget, seed=seed,
                    attention_factor=attention_factor, start_tokens=start_tokens, base=base,
                    max_minutes=max_minutes, journal=folder.journal, on_trial=on_trial,
                )  # fmt: skip
            folder.write_search(found)
            records = compare(loaded, documents, found, own)
            folder.write_records(records)
    if json:
        result_json([record.as_json() for record in records], search=found.as_dict(), files=files(folder))
    else:
        result(story(found, folder))
        result(perplexity_table(records, f"Perplexity on the search documents ({how_read(records[0])})"))
        result(next_step(model, folder, target))


def check_settings(
    geometry: "RopeGeometry",
    target: int,
    strategy: str,
    budget: str,
    seed: int,
    start_tokens: str,
    attention: str,
) -> None:
    """Find a wrong setting before weights are read, which may take minutes.

    Raises:
        SettingError: as `search_factors`.
    """
    from ropewalk.search.search import number_of_evaluations
    from ropewalk.search.space import SearchSpace, attention_choices, start_token_choices
    from ropewalk.search.strategies import make_strategy

    number_of_evaluations(budget)
    choices = attention_choices(attention, geometry, target)
    space = SearchSpace(geometry=geometry, target_length=target, attention_factors=choices)
    make_strategy(strategy, replace(space, start_tokens=start_token_choices(start_tokens)), seed)


def how_to_resume(arguments: list[str], out: Path) -> str:
    """The command line that goes on with this run."""
    command = ["ropewalk", *arguments]
    if "--resume" not in command:
        command.append("--resume")
    return f"The trials so far are kept in {out}; go on with: {shlex.join(command)}"


def compare(
    loaded: "LoadedModel", documents: "DocumentSet", found: "SearchResult", own: "RescaleFactors | None"
) -> "list[EvalRecord]":
    """Every closed form and what was found, on the documents that were searched on, at the target.

    A scheme with which the model gives no number is said and left out: the search is over and written.
    """
    from ropewalk.errors import EvaluationError
    from ropewalk.evaluate.perplexity import measure_perplexity
    from ropewalk.report.comparison import closed_forms, constant
    from ropewalk.report.figures import SEARCHED

    target = found.factors.target_length
    factors = closed_forms(loaded.geometry, target, own)
    plain = found.factors_without_start_tokens
    if plain is not None and found.factors.num_start_tokens:
        factors["searched, n-hat 0"] = constant(plain)
    factors[SEARCHED] = constant(found.factors)
    records = []
    for label, at in factors.items():
        try:
            records += measure_perplexity(loaded, documents, [target], factors={label: at}, on_record=tell)
        except EvaluationError as error:
            say(f"left out: {error}")
    return records


def files(folder: "RunFolder") -> dict[str, str]:
    """What a search leaves behind, by its role."""
    return {
        "factors": str(folder.factors_path),
        "factors_without_start_tokens": str(folder.factors_without_start_tokens_path),
        "journal": str(folder.journal_path),
        "run": str(folder.run_path),
    }


def story(found: "SearchResult", folder: "RunFolder") -> str:
    """What was found, what n-hat is worth, and where it lies."""
    outcome, factors = found.outcome, found.factors
    failed = f", {outcome.num_failed} failed" if outcome.num_failed else ""
    lines = [
        f"Searched factors: {folder.factors_path}",
        f"  perplexity {found.value:.4f} on the search documents at {factors.target_length} tokens, "
        f"n-hat {factors.num_start_tokens}, attention factor {factors.attention_factor:g}",
        f"  found as trial {outcome.best.index + 1} of {len(outcome.trials)}{failed}, "
        f"in {clock(outcome.seconds)}; stopped by {outcome.stopped_by}",
    ]
    lines.append(f"  {_worth_of_start_tokens(found)}")
    if found.factors_without_start_tokens is not None:
        lines.append(f"  the best with n-hat 0: {folder.factors_without_start_tokens_path}")
    if not found.reproducible:
        lines.append("  not reproducible to the bit: a time limit, or versions that changed on the way")
    return "\n".join(lines) + "\n"


def _worth_of_start_tokens(found: "SearchResult") -> str:
    plain, cost = found.outcome.best_without_start_tokens, found.nats_without_start_tokens
    if found.factors.num_start_tokens == 0:
        return "n-hat 0, which every engine can run, costs nothing: it is the best"
    if plain is None or cost is None:
        return "with n-hat 0 nothing could be evaluated"
    return f"n-hat 0, which every engine can run, costs {cost:.4f} nats a token: perplexity {plain.value:.4f}"


def next_step(model: str, folder: "RunFolder", target: int) -> str:
    """These documents were searched on: a report needs others."""
    command = ["ropewalk", "evaluate", "perplexity", model, "--factors", str(folder.factors_path),
               "--scheme", "yarn", "--lengths", str(target), "--text"]  # fmt: skip
    return f"Now measure it on text that the search has not seen:\n  {shlex.join(command)} OTHER-TEXT"
