"""Tables of a run of `ropewalk extend`: the second interpolation, readjustment, passkeys, all lengths."""

from miniature.bench import Bench
from miniature.extended import ExtensionRun, Model
from miniature.page import Claim, Grid, Page, Rows, curve, draw_shares
from miniature.readings import Reading, Share, against, cell, lowest, verdict
from miniature.tuned import lengths_to
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.recipe.evaluate_stage import EXTENDED
from ropewalk.report.comparison import SLIDING, scheme_at_lengths
from ropewalk.report.figures import SEARCHED, draw_perplexity
from ropewalk.rope.schemes import scheme_factors

PAPERS_SHARE = 0.9
KEPT = "the factors of the tuning"


def run_of(bench: Bench) -> ExtensionRun:
    assert bench.run is not None, "the table is asked for only with a run"
    return bench.run


def tuned_model(run: ExtensionRun) -> Model | None:
    """The run's tuned model; None until it is there."""
    tuned = run.last_tuned
    return None if tuned is None else tuned.model(f"tuned at {run.tuned_length}")


def tuned_factors(run: ExtensionRun) -> RescaleFactors | None:
    return None if run.last_tuned is None else run.last_tuned.factors


def extended_reading(bench: Bench, label: str, factors: RescaleFactors | None, length: int) -> Reading | None:
    """The tuned model under some factors: the run's own record where it measured just that."""
    run = run_of(bench)
    served = None if run.readjusted is None else run.readjusted.for_length(length)
    if factors is not None and served is not None and _turn_alike(factors, served):
        found = bench.reading_of_run(label, EXTENDED, length)
        if found is not None:
            return found
    return bench.reading(tuned_model(run), label, factors, length)


# ---------------------------------------------------------------- second interpolation


def second_interpolation(bench: Bench) -> Page:
    """What is multiplied onto the tuned factors to reach the longest length."""
    run = run_of(bench)
    own, longest = tuned_factors(run), run.target_length
    on_top = bench.settings.on_top
    labels = (*on_top, SEARCHED)
    lengths = [longest]
    factors = {SEARCHED: run.second}
    for scheme in on_top:
        made = None if own is None else scheme_at_lengths(scheme, bench.geometry, longest, own)(longest)
        factors[scheme] = made
    found = {
        (label, length): extended_reading(bench, label, factors[label], length)
        for length in lengths
        for label in labels
    }
    times = longest // run.tuned_length
    rows: Rows = [[_on_top(label, times), *(found[label, length] for length in lengths)] for label in labels]
    rows += [
        [
            f"searched against {_on_top(label, times)}",
            *(against(found[SEARCHED, length], found[label, length]) for length in lengths),
        ]
        for label in on_top
    ]
    verdicts = []
    for length in lengths:
        best = lowest([found[label, length] for label in on_top])
        difference = against(found[SEARCHED, length], best)
        name = "the best scheme" if best is None else _on_top(best.label, times)
        verdicts.append(
            f"{verdict(difference)} at {length}, that the searched second interpolation reads better than "
            f"the best scheme here: against {name}, {cell(difference)}."
        )
    header = ["second interpolation", *(f"{length} tokens" for length in lengths)]
    return Page(
        grids=[Grid("Perplexity (95% interval), and paired differences:", header, rows)],
        verdicts=verdicts,
        notes=(
            f"On the run's model, tuned at {run.tuned_length} tokens; each is multiplied onto the factors "
            f"that it was tuned with, and made for {longest} tokens. `searched` are "
            f"{'not known yet' if run.second is None else _origin(run.second)}."
        ),
    )


def _on_top(label: str, times: int) -> str:
    return {SEARCHED: label, "none": KEPT}.get(label, f"{label} times {times}")


def _origin(factors: RescaleFactors) -> str:
    """What the factors are: searched, or of a finalist that was better on the validation documents."""
    made = factors.provenance
    return f"those of `{made.strategy}`" if made.seed is None else f"searched by {made.strategy}"


# ---------------------------------------------------------------- readjustment


def readjustment(bench: Bench) -> Page:
    """The extended model at short lengths with its long factors, and with readjusted ones."""
    run = run_of(bench)
    model, factors = tuned_model(run), run.readjusted
    longest = max(run.short_lengths, default=bench.window)
    lengths = [bench.window]
    while lengths[-1] < longest:
        lengths.append(min(2 * lengths[-1], longest))
    own = tuned_factors(run)
    of_schemes = {
        label: [bench.reading(model, label, scheme_factors(label, bench.geometry, n), n) for n in lengths]
        for label in bench.settings.schemes
    }
    rows, keys, verdicts, against_best = [], [], [], list[object]()
    for index, length in enumerate(lengths):
        short = None if factors is None else factors.for_length(length)
        tried = {"off": run.second, KEPT: own, "on": short}
        base = bench.reading(bench.base, "base", None, length, plain=True)
        off, kept, on = (bench.reading(model, name, at, length) for name, at in tried.items())
        found = [bench.passkeys(model, name, at, length) for name, at in tried.items()]
        best = lowest([readings[index] for readings in of_schemes.values()])
        rows.append([str(length), base, off, kept, on, against(on, off), against(on, kept)])
        keys.append([str(length), *found])
        against_best.append(against(on, best))
        name = "the best closed form" if best is None else f"{best.label}, the best closed form,"
        verdicts.append(
            f"{verdict(against(on, off))} at {length}, that readjusted factors read short inputs better than "
            f"the long ones: {cell(against(on, off))}; against {KEPT} {cell(against(on, kept))}, against "
            f"{name} {cell(against_best[-1])}; passkeys {_or_missing(found[0])} before, "
            f"{_or_missing(found[2])} after. The factors there are {_origin_at(short, run.second)}."
        )
    header = ["factors", *map(str, lengths)]
    closed: Rows = [[label, *readings] for label, readings in of_schemes.items()]
    return Page(
        grids=[
            Grid(
                "Perplexity (95% interval):",
                ["tokens", "base model", "off", KEPT, "on", "on against off", f"on against {KEPT}"],
                rows,
            ),
            Grid("Passkeys found (95% interval):", ["tokens", "off", KEPT, "on"], keys),
            Grid(
                "Closed forms on the tuned model, each made for the length:",
                header,
                [*closed, ["on against the best of them", *against_best]],
            ),
        ],
        verdicts=verdicts,
        notes=(
            "The base model reads each length as it stands, without any factors. `on` are the factors that "
            "the run's set has for the length. Within the window every closed form leaves each pair as it is."
        ),
    )


def _origin_at(short: RescaleFactors | None, long: RescaleFactors | None) -> str:
    if short is None or long is None:
        return "not known yet"
    return "the long ones" if _turn_alike(short, long) else _origin(short)


def _turn_alike(one: RescaleFactors, other: RescaleFactors) -> bool:
    return one.replace(target_length=1).as_values() == other.replace(target_length=1).as_values()


def _or_missing(share: Share | None) -> str:
    return "not measured" if share is None else str(share)


# ---------------------------------------------------------------- passkeys by length


def passkeys_by_length(bench: Bench) -> Page:
    """The run's own records where there are some, else prompts read here."""
    run = run_of(bench)
    shares, rows = [], []
    for length in lengths_to(bench, run.target_length):
        record = run.passkeys(length)
        factors = None if run.readjusted is None else run.readjusted.for_length(length)
        share: Share | None
        if record is not None and record.found is not None:
            share = Share(label="extended", length=length, found=record.found, n=record.n)
            bench.used[bench.table][f"run-passkey-{length}"] = {"record": record.as_json()}
        else:
            share = bench.passkeys(tuned_model(run), "extended", factors, length)
        rows.append([str(length), share, "" if share is None else _by_whom(record is not None)])
        shares += [] if share is None else [share]
    below = [share for share in shares if share.found / share.n < PAPERS_SHARE]
    surely = [share for share in below if share.interval[1] < PAPERS_SHARE]
    if len(shares) < len(rows):
        said = f"Cannot be said yet for all lengths ({len(shares)} of {len(rows)} are measured)"
    elif not below:
        said = "Holds"
    else:
        said = "Does not hold" if surely else "Undecided"
    counted = ", ".join(f"{share} at {share.length}" for share in (below or shares[-1:]))
    verdicts = [
        f"{said}, that at least {PAPERS_SHARE:.0%} of passkeys are found at every length up to "
        f"{run.target_length}: {counted or 'nothing is measured'}" + (" (below it)." if below else ".")
    ]
    return Page(
        grids=[Grid("", ["tokens", "passkeys found (95% interval)", "counted by"], rows)],
        verdicts=verdicts,
        figure=(lambda: draw_shares(shares, title="Passkeys found by the extended model"))
        if shares
        else None,
    )


def _by_whom(from_run: bool) -> str:
    return "the run" if from_run else "this script"


# ---------------------------------------------------------------- perplexity by length


def by_length(bench: Bench) -> Page:
    """Chosen paths from the window to the longest length."""
    run = run_of(bench)
    longest = run.target_length
    untuned = f"yarn at {longest // bench.window}x, untuned"
    tuned_only = f"tuned at {run.tuned_length}, its own factors"
    second = "tuned + second search"
    readjusted = SEARCHED  # the figure draws this one bold, with its interval
    lengths = lengths_to(bench, longest)
    yarn = scheme_factors("yarn", bench.geometry, longest)
    paths: dict[str, list[Reading | None]] = {SLIDING: [], untuned: [], tuned_only: [], second: []}
    paths[readjusted] = []
    for length in lengths:
        short = None if run.readjusted is None else run.readjusted.for_length(length)
        paths[untuned].append(bench.reading(bench.base, untuned, yarn, length))
        paths[tuned_only].append(extended_reading(bench, tuned_only, tuned_factors(run), length))
        paths[second].append(extended_reading(bench, second, run.second, length))
        paths[readjusted].append(extended_reading(bench, readjusted, short, length))
        paths[SLIDING].append(bench.sliding(length))
    names = {readjusted: "tuned + second search + readjusted"}
    header = ["path", *map(str, lengths)]
    rows = [[names.get(label, label), *found] for label, found in paths.items()]
    halves = [
        [names.get(label, label), *(None if at is None else at.last_half for at in found)]
        for label, found in paths.items()
    ]
    ours, window = paths[readjusted][-1], paths[SLIDING][-1]
    late = against(None if ours is None else ours.last_half, None if window is None else window.last_half)
    verdicts = [
        f"{verdict(late)} at {longest}, that the last half is read better than by a window of "
        f"{bench.window} that slides: {cell(late)}."
    ]
    for other in (untuned, tuned_only):
        difference = against(ours, paths[other][-1])
        verdicts.append(
            f"{verdict(difference)} at {longest}, that the whole path reads better than {other}: "
            f"{cell(difference)}."
        )
    verdicts.append(_flatness(paths[readjusted], lengths))

    def figure() -> bytes:
        drawn = [curve(label, found) for label, found in paths.items()]
        return draw_perplexity(
            [one for one in drawn if one is not None],
            original_length=bench.window,
            title=f"Perplexity by length; `searched` is {names[readjusted]}",
        )

    return Page(
        grids=[
            Grid("Perplexity (95% interval):", header, rows),
            Grid("Of the last half of each document alone:", header, halves),
        ],
        verdicts=verdicts,
        notes=(
            f"The documents of a length are other ones than those of the next, "
            f"{bench.num_documents(bench.window)} up to {bench.settings.long_from * bench.window} tokens and "
            f"{bench.num_documents(longest)} above, where there are so many; all paths read the same ones."
        ),
        figure=figure if any(found is not None for path in paths.values() for found in path) else None,
    )  # fmt: skip


def _flatness(readings: list[Reading | None], lengths: list[int]) -> str:
    """From the length of lowest perplexity to the longest; different documents, so no paired interval."""
    best, last = lowest(readings), readings[-1]
    if best is None or last is None or None in readings:
        return f"Cannot be said yet, how perplexity goes on from {lengths[0]} to {lengths[-1]} tokens."
    rise = last.perplexity / best.perplexity - 1
    return (
        f"From {lengths[0]} to {lengths[-1]} tokens the lowest is {best} at {best.length}, and at "
        f"{last.length} it is {last}, {rise:+.1%} (the paper's Books3: from 6.17 to 7.08, +14.7%); these "
        f"are different documents, so the difference has no paired interval."
    )


# ---------------------------------------------------------------- straight to the longest


def straight_search(bench: Bench) -> Page:
    """Factors searched for the longest length on the base model, which is never tuned."""
    run = run_of(bench)
    longest, settings = run.target_length, bench.settings
    straight = "searched straight, untuned"
    staged = "tuned + second search"
    found_factors = bench.search(
        "straight", longest, budget=settings.straight_budget, num_documents=settings.straight_documents,
        num_stop=0,
    )  # fmt: skip
    found: dict[str, Reading | None] = {}
    yarn = scheme_factors("yarn", bench.geometry, longest)
    found["yarn"] = bench.reading(bench.base, "yarn", yarn, longest)
    found[straight] = bench.reading(bench.base, straight, found_factors, longest)
    found[staged] = extended_reading(bench, staged, run.second, longest)
    found[SLIDING] = bench.sliding(longest)
    rows = [
        [
            label,
            reading,
            None if reading is None else reading.last_half,
            "" if label == straight else against(found[straight], reading),
        ]
        for label, reading in found.items()
    ]
    verdicts = []
    for name in ("yarn", staged):
        difference = against(found[straight], found[name])
        verdicts.append(
            f"{verdict(difference)}, that a search straight to {longest} reads better than {name}: "
            f"{cell(difference)}."
        )
    header = ["factors", "perplexity (95% interval)", "last half", "straight against it"]
    return Page(
        grids=[Grid(f"At {longest} tokens:", header, rows)],
        verdicts=verdicts,
        notes=(
            f"YaRN stands for the closed forms. The straight search reads {settings.straight_documents} "
            f"document(s), costs {settings.straight_budget} passes and has no stop set."
        ),
    )


CLAIMS = (
    Claim(
        "second-interpolation",
        "Second interpolation on the tuned model",
        "Table 9 (2048k, 8 times beyond tuning): PI 20.17, YaRN 8.27, searched 7.08.",
        second_interpolation,
        needs_run=True,
    ),
    Claim(
        "readjustment",
        "Readjustment for short inputs",
        "Table 10 (Proof-pile at 4k and 8k): 4.51 and 3.82 before, 3.85 and 3.65 after.",
        readjustment,
        needs_run=True,
    ),
    Claim(
        "passkeys",
        "Passkeys by length",
        "Figure 4: at least 90% from 4k to 2048k.",
        passkeys_by_length,
        needs_run=True,
    ),
    Claim(
        "by-length",
        "Perplexity by length",
        "Tables 5 and 6 (Books3, tuned at 256k, 8k to 2048k): 6.81 6.66 6.31 6.27 6.21 6.17 6.17 6.35 7.08.",
        by_length,
        needs_run=True,
    ),
    Claim(
        "straight-search",
        "What the paper never showed: a search straight to the longest length, without tuning",
        "nothing; it always tunes in between.",
        straight_search,
        needs_run=True,
    ),
)
