"""`ropewalk demo`: the bundled model, extended and measured."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ropewalk.cli import options
from ropewalk.cli.comparison_table import facts_title, gap_table, of_search
from ropewalk.cli.evaluate import (
    how_read,
    paired_shares_table,
    paired_table,
    perplexity_table,
    share_table,
    tell,
)
from ropewalk.cli.from_settings import option
from ropewalk.cli.output import clock, interruptible, result, result_json, say
from ropewalk.cli.progress import show_progress
from ropewalk.cli.search_result import files, story
from ropewalk.cli.splits import read_split
from ropewalk.search.settings import SearchSettings
from ropewalk.text.settings import TextSplit

if TYPE_CHECKING:
    from ropewalk.evaluate.records import EvalRecord, FactorsAtLength
    from ropewalk.models.model import Model
    from ropewalk.report.comparison import Gap
    from ropewalk.search.result import SearchResult
    from ropewalk.search.run_folder import RunFolder
    from ropewalk.text.splits import DocumentSplit

RATIO = 8
NUM_PASSKEYS = 20
NUM_FACTS, NUM_QUESTIONS = 4, 40  # of one text, and at each length


def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder for factors, records and figures.")
    ] = Path("runs/demo"),
    budget: Annotated[str | None, option(SearchSettings, "budget")] = None,
    json: options.Json = False,
) -> None:
    """Extend the bundled model to eight times its window, and measure the result.

    Searches on some documents, and compares the result on others with every closed-form scheme, near-far
    factors and a sliding window. The same command with the same --out resumes.

    \b
    Example:
        ropewalk demo --out runs/demo
    """
    with interruptible(f"What was done so far is in {out}; the same command resumes."):
        demonstrate("scale-model", out, TextSplit(), SearchSettings.checked({"budget": budget}), json=json)


def demonstrate(
    model: str, out: Path, text: TextSplit, settings: SearchSettings, *, json: bool = False
) -> None:
    """The demo on any model: search, report on other documents, draw."""
    from ropewalk.models.model import load_model
    from ropewalk.report.comparison import comparison_sentence, measure_gaps
    from ropewalk.search.run_folder import RunFolder

    started = time.monotonic()
    with RunFolder.resume(out) as folder:
        loaded = load_model(model)
        target = RATIO * loaded.geometry.original_length
        say(f"{model} was trained on {loaded.geometry.original_length} tokens; the target is {target}.\n")
        split = read_split(text, loaded.tokenizer, target)
        found = _search(loaded, split, folder, target, settings)
        records = _measure(loaded, split, found, target)
        gaps, extra = measure_gaps(
            loaded, split.by_role, _factors(loaded, found), known=records, length=target
        )
        records, extra = of_search(records, found), of_search(extra, found)
        folder.write_records(records + extra)
        _draw(loaded, found, records, folder)
    if json:
        result_json(
            [record.as_json() for record in records + extra],
            search=found.as_dict(), gaps=[gap.as_json() for gap in gaps],
            verdict=comparison_sentence(records, length=target, documents="held-out"),
            files=files(found, folder),
        )  # fmt: skip
    else:
        _report(loaded, found, records, gaps, folder)
        result(f"\nAll of this took {clock(time.monotonic() - started)}. The same for a model of your own:\n")
        result(f"  {own_command(found)}")


def own_command(found: "SearchResult") -> str:
    """The command that does the same for a model of the user."""
    budget = found.identity["budget"]
    return (
        f"ropewalk search YOUR-MODEL --target-length {RATIO}x --text YOUR-TEXT --budget {budget} "
        f"--out runs/mine"
    )


def _search(
    loaded: "Model", split: "DocumentSplit", folder: "RunFolder", target: int, settings: SearchSettings
) -> "SearchResult":
    from ropewalk.search.search import search_factors

    num_documents = len(split.search.documents)
    say(f"1/3 Search: {settings.budget} evaluations of {num_documents} documents of {target} tokens.")
    if folder.journal_path.exists():
        say(f"{folder.path} has trials already: they are not computed again.")
    with show_progress() as progress:
        found = search_factors(
            loaded, split.search, target_length=target, settings=settings,
            validation_documents=split.validation, journal=folder.journal, on_trial=progress.on_trial,
        )  # fmt: skip
    folder.write_search(found)
    return found


def _factors(loaded: "Model", found: "SearchResult") -> "dict[str, FactorsAtLength]":
    """What is measured at every length, by label."""
    from ropewalk.report.comparison import (
        base_label,
        closed_forms,
        constant,
        scheme_at_lengths,
        without_factors,
    )
    from ropewalk.report.figures import SEARCHED
    from ropewalk.rope.schemes import NEAR_FAR

    target = found.factors.target_length
    schemes = closed_forms(loaded.geometry, target)
    schemes[NEAR_FAR] = scheme_at_lengths(NEAR_FAR, loaded.geometry, target)
    if found.closed_form is not None:
        schemes.setdefault(found.closed_form.label, constant(found.factors))
    base = base_label(loaded.description)
    return {base: without_factors, **schemes, SEARCHED: constant(found.searched_factors)}


def _measure(
    loaded: "Model", split: "DocumentSplit", found: "SearchResult", target: int
) -> "list[EvalRecord]":
    """Perplexities and facts on the report documents, and passkeys."""
    from ropewalk.errors import SettingError
    from ropewalk.evaluate.passkey import measure_passkey
    from ropewalk.evaluate.perplexity import measure_perplexity
    from ropewalk.evaluate.retrieval import measure_retrieval
    from ropewalk.evaluate.settings import RetrievalSettings
    from ropewalk.report.comparison import measure_sliding_window

    lengths = doublings(loaded.geometry.original_length, target)
    documents = split.test
    assert documents is not None, "the library has a held-out part"
    factors = _factors(loaded, found)
    say(f"\n2/3 Perplexity on {len(documents.documents)} held-out documents, which the search has not seen.")
    records = measure_perplexity(loaded, documents, lengths, factors=factors, on_record=tell)
    records += measure_sliding_window(loaded, documents, lengths, on_record=tell)
    records = [replace(record, documents="report") for record in records]
    say(
        f"\n3/3 At each length, {NUM_QUESTIONS} questions about facts hidden in these documents, and "
        f"{NUM_PASSKEYS} passkeys."
    )
    settings = RetrievalSettings(num_facts=NUM_FACTS, num_questions=NUM_QUESTIONS)
    for length in lengths:
        try:
            retrieval = measure_retrieval(
                loaded, documents, [length], factors=factors, settings=settings, on_record=tell
            )
            records += [replace(record, documents="report") for record in retrieval]
        except SettingError as error:
            say(f"left out: {error}")
    return records + measure_passkey(
        loaded, lengths, factors=factors, num_trials=NUM_PASSKEYS, seed=0, on_record=tell
    )


def doublings(shortest: int, longest: int) -> list[int]:
    """The window, twice the window ... up to the target."""
    lengths = [shortest]
    while lengths[-1] * 2 <= longest:
        lengths.append(lengths[-1] * 2)
    return lengths


def _draw(loaded: "Model", found: "SearchResult", records: "list[EvalRecord]", folder: "RunFolder") -> None:
    from ropewalk.report.comparison import (
        closed_forms,
        factor_curves,
        perplexity_curves,
    )
    from ropewalk.report.figures import SEARCHED, draw_factors, draw_perplexity

    window, target = loaded.geometry.original_length, found.factors.target_length
    num_documents = max(record.n for record in records if record.metric == "perplexity")
    title = f"{loaded.name}, trained on {window} tokens: perplexity on {num_documents} held-out documents"
    curves = perplexity_curves(records)
    folder.write_figure("perplexity", draw_perplexity(curves, original_length=window, title=title))
    schemes = {label: at(target) for label, at in closed_forms(loaded.geometry, target).items()}
    everything = {label: factors for label, factors in schemes.items() if factors is not None}
    title = f"{loaded.name}: rescale factors from {window} to {target} tokens"
    unfinished = loaded.geometry.first_unfinished_pair
    curves = factor_curves({**everything, SEARCHED: found.searched_factors})
    folder.write_figure("factors", draw_factors(curves, first_unfinished_pair=unfinished, title=title))


def _report(
    loaded: "Model",
    found: "SearchResult",
    records: "list[EvalRecord]",
    gaps: "list[Gap]",
    folder: "RunFolder",
) -> None:
    from ropewalk.report.comparison import comparison_sentence, sliding_window_remark
    from ropewalk.report.figures import SEARCHED

    perplexities = [record for record in records if record.metric == "perplexity"]
    facts = [record for record in records if record.metric == "retrieval"]
    passkeys = [record for record in records if record.metric == "passkey"]
    say("")
    result(story(found, folder))
    title = f"Perplexity of {loaded.name} on held-out documents ({how_read(perplexities[0])})"
    result(perplexity_table(perplexities, title))
    result(paired_table([r for r in perplexities if r.length == found.factors.target_length], SEARCHED))
    if facts:
        result(share_table(facts, facts_title(facts)))
        result(paired_shares_table([r for r in facts if r.length == found.factors.target_length], SEARCHED))
    result(share_table(passkeys, f"Passkeys found by {loaded.name}, out of {NUM_PASSKEYS}"))
    result(gap_table(gaps))
    result(comparison_sentence(records, length=found.factors.target_length, documents="held-out"))
    result(sliding_window_remark(records, length=found.factors.target_length))
    result(
        "near-far keeps the trained rotation between near tokens and rescales that of far ones only. "
        "Ropewalk's runtime computes it; other engines can't (docs/near-far.md)."
    )
    result(f"\nFigures: {folder.figure_path('perplexity')}, {folder.figure_path('factors')}")
    result(f"Records: {folder.records_path}")
