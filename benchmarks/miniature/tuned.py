"""Tables that train: every scheme tuned alike, and one long stage against two."""

from miniature.bench import Bench
from miniature.page import Claim, Grid, Page
from miniature.readings import against, cell, lowest, verdict
from miniature.untuned import factors_of
from ropewalk.finetune.data.mixture import MixtureSettings, SourceSettings
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.report.figures import SEARCHED

AS_ANOTHER = ("none", "dynamic-ntk")  # no extension, and NTK's factors at one length
SHORTEST_TEXT = 8  # training documents have at least an eighth of a segment


def tuned_alike(bench: Bench) -> Page:
    """Each scheme before and after the same steps on the same text."""
    settings = bench.settings
    length = settings.tuned_ratio * bench.window
    before, after = {}, {}
    schemes = [label for label in settings.schemes if label not in AS_ANOTHER]
    for label in (*schemes, SEARCHED):
        factors = factors_of(bench, label, length)
        before[label] = bench.reading(bench.base, label, factors, length)
        tuned = bench.tuning(
            f"{length}-{label.replace(':', '-')}-steps-{settings.tuning_steps}-batch-{settings.tuning_batch}",
            factors,
            FinetuneSettings(
                length=length, num_steps=settings.tuning_steps, batch_size=settings.tuning_batch,
                learning_rate=settings.learning_rate, warmup_steps=settings.tuning_steps // 10,
                save_every=5, seed=settings.seed,
            ),
            _text(bench, length),
        )  # fmt: skip
        after[label] = bench.reading(tuned, label, factors, length)
    rows = [
        [
            label,
            before[label],
            after[label],
            against(before[SEARCHED], before[label]) if label != SEARCHED else "",
            against(after[SEARCHED], after[label]) if label != SEARCHED else "",
        ]
        for label in (*schemes, SEARCHED)
    ]
    verdicts = []
    for when, found in (("untuned", before), ("tuned", after)):
        best = lowest([found[label] for label in schemes])
        difference = against(found[SEARCHED], best)
        name = "the best scheme" if best is None else best.label
        verdicts.append(
            f"{verdict(difference)} {when}, that searched factors read better than the best scheme here at "
            f"{settings.tuned_ratio}x: against {name}, {cell(difference)}."
        )
    header = ["factors", "untuned", "tuned", "searched against it, untuned", "searched against it, tuned"]
    return Page(
        grids=[Grid(f"Perplexity (95% interval) at {length} tokens:", header, rows)],
        verdicts=verdicts,
        notes=(
            f"{settings.tuning_steps} steps of {settings.tuning_batch} segments of {length} tokens, learning "
            f"rate {settings.learning_rate:g} falling to 0, the same seed and the same text for each."
        ),
    )


def _text(bench: Bench, length: int) -> MixtureSettings:
    text, shortest = bench.settings.training_text, length // SHORTEST_TEXT
    source = SourceSettings(name="library", text=text, join="folder", min_tokens=shortest)
    return MixtureSettings(sources=(source,), seed=bench.settings.seed)


def straight_or_by_way(bench: Bench) -> Page:
    """The run's two trainings against one at the longer length with as many tokens, the same factors."""
    run = bench.run
    assert run is not None
    by_way_stage, recipe = run.tunings[-1], run.recipe
    first = recipe.finetune_settings(run.tunings[0])
    last = recipe.finetune_settings(by_way_stage)
    of_each = [recipe.finetune_settings(stage) for stage in run.tunings]
    num_tokens = sum(one.num_steps * one.batch_size * one.length for one in of_each)
    num_steps = max(1, num_tokens // (first.batch_size * last.length))
    settings = first.model_copy(update={"length": last.length, "num_steps": num_steps})
    done = run.last_tuned
    factors = run.first_search(last.length) if done is None else done.factors
    assert recipe.data is not None, "a recipe with a training has data"
    straight = bench.tuning(f"{last.length}-straight-steps-{num_steps}", factors, settings, recipe.data)
    by_way = None if done is None else done.model("tuned by way of a shorter length")
    lengths = lengths_to(bench, last.length)
    grids, verdicts = [], []
    rows, keys = [], []
    for length in lengths:
        one = bench.reading(straight, "straight", factors, length)
        two = bench.reading(by_way, "by way", factors, length)
        difference = against(two, one)
        rows.append([str(length), one, two, difference])
        keys.append(
            [
                str(length),
                bench.passkeys(straight, "straight", factors, length),
                bench.passkeys(by_way, "by way", factors, length),
            ]
        )
        if length == last.length:
            verdicts.append(
                f"{verdict(difference)} at {length}, that going by way of a shorter length reads better than "
                f"tuning straight at it with as many tokens: {cell(difference)}."
            )
    shorter = " and ".join(f"{one.num_steps} steps at {one.length}" for one in of_each)
    names = [f"straight ({num_steps} steps at {last.length})", f"by way ({shorter})"]
    grids.append(Grid("Perplexity (95% interval):", ["tokens", *names, "by way against straight"], rows))
    grids.append(Grid("Passkeys found (95% interval):", ["tokens", *names], keys))
    return Page(
        grids=grids,
        verdicts=verdicts,
        notes=(
            f"{num_tokens} tokens each, the same text and factors; the straight training has the first "
            f"stage's learning rate of {first.learning_rate:g} throughout its one schedule."
        ),
    )


def lengths_to(bench: Bench, longest: int) -> list[int]:
    """The window, four times it, and so on up to a longest length, which is always the last."""
    lengths = [bench.window]
    while lengths[-1] * 4 < longest:
        lengths.append(lengths[-1] * 4)
    return [*lengths, longest]


CLAIMS = (
    Claim(
        "tuned",
        "Tuned alike",
        "Table 3 (Proof-pile at 64k, 16x), untuned / tuned: PI 72.54 / 2.44, YaRN 4.15 / 2.42, searched "
        "3.22 / 2.36.",
        tuned_alike,
    ),
    Claim(
        "straight-tuning",
        "Tuned straight at the longer length, or by way of half of it",
        "Table 12 compares tuning at 256k by way of 128k with tuning at 256k alone, and prefers the first.",
        straight_or_by_way,
        needs_run=True,
    ),
)
