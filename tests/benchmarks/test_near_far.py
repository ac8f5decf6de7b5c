"""`benchmarks/near_far.py`: what is chosen, which targets are met, what its page says."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import near_far
import near_far_measured
import near_far_page
import near_far_speed
from facts_measured import BASE, CLOSED, DEFAULT, FOUR, RAMPS, SEEN, UNSEEN, Measured
from near_far_measured import Choice
from near_far_speed import DECODING, OURS, PLAIN, PREFILL
from ropewalk.rope.schemes import NEAR_FAR, scheme_factors

WINDOW, LENGTHS = 256, (512, 2048)
NUM_DOCUMENTS, NUM_QUESTIONS = 40, 80
ABOUT = {"versions": {"torch": "2"}, "python": "3", "processor": "CPU", "threads": 1, "model": "0" * 64,
         "questions": NUM_QUESTIONS, "documents": NUM_DOCUMENTS, "choice_documents": 2, "window": WINDOW,
         "target": 2048, "lengths": LENGTHS, "size": "tiny", "layers": 2}  # fmt: skip
CHOSEN = Choice(window=64, far=1.1, near=1.0, value=10.0)
OTHER = Choice(window=32, far=1.2, near=1.0, value=11.0)


def answers(right):
    return [[question < right, question % NUM_DOCUMENTS] for question in range(NUM_QUESTIONS)]


def measured(*, found=60, nats=2.0, prefill=1.2, decoding=1.1, extra=100):
    """A closed form and a ramp of 2.5 nats, a default search of 2.2; the base model finds 60 of 80."""
    groups = {"yarn": (CLOSED, 50, 2.5), "yarn:beta_fast=8,beta_slow=1": (RAMPS, 50, 2.5),
              "default, seed 0": (DEFAULT, 40, 2.2), OTHER.scheme: (NEAR_FAR, 10, 2.4),
              CHOSEN.scheme: (NEAR_FAR, found, nats)}  # fmt: skip
    values = {f"choice {one.scheme}": one.as_json() for one in (OTHER, CHOSEN)}
    values[f"factors {BASE}"] = {"group": BASE, "as": BASE, "values": None}
    for kind in (SEEN, UNSEEN, FOUR):
        values[f"found {BASE} / {kind} / {WINDOW}"] = answers(60)
    for label, (group, right, each) in groups.items():
        values[f"factors {label}"] = {"group": group, "as": label, "values": {}}
        values[f"nats {label}"] = [[100 * each + n % 3, 100] for n in range(NUM_DOCUMENTS)]
        for kind in (SEEN, UNSEEN, FOUR):
            for length in LENGTHS:
                values[f"found {label} / {kind} / {length}"] = answers(right)
    for number in range(2):
        ours = {PREFILL: prefill + number, DECODING: decoding + number}
        plain = {PREFILL: 1.0 + number, DECODING: 1.0 + number}
        values[f"seconds 4096 / {number}"] = {OURS: ours, PLAIN: plain}
    values["memory 4096"] = {"key_bytes": 100, "extra_bytes": extra}
    return Measured(values)


def results(seen):
    return [row[-1] for row in near_far_measured.targets(seen, ABOUT)]


def test_near_far_factors_that_are_better_in_everything_meet_every_target():
    assert results(measured()) == ["met"] * 7


@pytest.mark.parametrize(
    ("changed", "row", "result"),
    [
        ({"nats": 2.45}, 0, "missed"),
        ({"nats": 2.12}, 1, "missed"),
        ({"nats": 2.12}, 2, "missed"),
        ({"found": 55}, 3, "undecided"),
        ({"found": 30}, 3, "missed"),
        ({"prefill": 1.4}, 4, "missed"),
        ({"decoding": 1.2}, 5, "missed"),
        ({"extra": 101}, 6, "missed"),
    ],
)
def test_each_target_can_be_missed(changed, row, result):
    assert results(measured(**changed))[row] == result


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert results(Measured({})) == ["not measured"] * 3  # costs; of factors there are none to judge
    without = {
        name: value for name, value in measured().values.items() if not name.startswith(("nats", "found"))
    }
    assert results(Measured(without))[:4] == ["not measured"] * 4


def test_the_choice_is_the_lowest_value_on_search_documents():
    assert near_far_measured.chosen(measured()) == CHOSEN
    assert near_far_measured.chosen(measured(), 32) == OTHER


def test_the_page_compares_every_kind_and_length_with_the_base_model():
    lines = near_far_page.page(measured(found=57), "tiny", ABOUT, "python benchmarks/near_far.py")
    start = lines.index("## Answers, compared with the base model inside its window")
    rows = [line for line in lines[start:] if line.startswith("| one, ") or line.startswith("| four, ")]
    assert len(rows[:6]) == len([row for row in rows[:6] if "| 60 | 57 | 95% |" in row])
    assert any(line.startswith(f"| {PREFILL} | 4096 | 1.00 s | 1.20 s | 1.200 |") for line in lines)


def test_a_page_without_measurements_has_the_targets_alone():
    titles = [line for line in near_far_page.page(Measured({}), "tiny", ABOUT, "") if line.startswith("## ")]
    assert titles == ["## Targets"]


def test_factors_with_another_window_are_others():
    values = {"rescale_factors": [[1.0, 2.0]], "num_start_tokens": 0, "attention_factor": 1.0}
    known = {**values, "near_window": 64, "near_attention_factor": 1.0}
    seen = Measured({"factors near": {"group": NEAR_FAR, "as": "near", "values": known}})
    assert seen.first_with(known) == "near"
    assert seen.first_with({**known, "near_window": 32}) is None
    assert seen.first_with({**known, "near_attention_factor": 1.2}) is None
    assert seen.first_with(values) is None


def test_fewer_layers_have_a_smaller_vocabulary():
    model = near_far_speed.random_model("tiny", 1).model
    assert (model.config.num_hidden_layers, model.config.vocab_size) == (1, 500)
    assert model.config._attn_implementation == "sdpa"


def test_texts_within_the_window_are_timed_with_near_far_factors_too():
    bench = near_far_speed.SpeedBench(near_far_speed.random_model("tiny", 1), None, 0, 64)
    assert bench.factors[OURS].near_window == 32
    assert bench._memory(64)["extra_bytes"] == bench._memory(64)["key_bytes"] > 0


def test_a_second_set_of_keys_counts_as_memory_of_keys(monkeypatch):
    monkeypatch.setattr(near_far_speed, "scheme_factors", lambda _, *given: scheme_factors("yarn", *given))
    bench = near_far_speed.SpeedBench(near_far_speed.random_model("tiny", 2), None, 32, 512)
    alone = bench._memory(256)
    kept, prefill = [], bench._prefill

    def prefill_and_copy(length):
        cache = prefill(length)
        if bench.model.factors is not None:
            kept.extend(layer.keys.clone() for layer in cache.layers)
        return cache

    monkeypatch.setattr(bench, "_prefill", prefill_and_copy)
    assert alone["extra_bytes"] == 0
    assert bench._memory(256)["extra_bytes"] == alone["key_bytes"] > 0


def test_an_unknown_part_is_refused(capsys):
    with pytest.raises(SystemExit):
        near_far.arguments(["--parts", "quality,other"])
    assert "other" in capsys.readouterr().err
