"""`benchmarks/kept_keys.py`: its statistics, its arithmetic, and that it measures each candidate once."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import kept_keys
from judging import arithmetic, judge
from judging.agreement import DISTANCES, Agreement, in_bins, rank_interval
from judging.journals import EvolutionJournal, of_model
from ropewalk.models.model import load_model
from ropewalk.text.readings import Reading, choose_targets


def test_the_interval_of_a_rank_correlation_contains_the_true_one():
    rho, generator, num_drawn, inside = 0.9, np.random.default_rng(0), 400, 0
    true = 6 / np.pi * np.arcsin(rho / 2)  # of normal variables with this correlation
    for _ in range(num_drawn):
        first, noise = generator.normal(size=(2, 64))
        found = spearmanr(first, rho * first + np.sqrt(1 - rho**2) * noise).statistic
        low, high = rank_interval(float(found), 64)
        inside += low <= true <= high
    assert 0.92 < inside / num_drawn < 0.98


def test_three_candidates_have_no_interval():
    assert rank_interval(0.5, 3) is None


def test_lost_is_what_the_candidate_that_is_judged_best_lacks():
    everything = np.array([1.0, 1.2, 1.5, 2.0])
    same = everything + 0.1
    judged = np.array([1.4, 1.2, 1.7, 2.1])
    found = Agreement.of(judged, same, everything)
    assert found.lost == pytest.approx(0.2)
    assert found.largest_error == pytest.approx(0.3)
    assert found.few_tokens.number == 1.0
    assert found.same_tokens.number == pytest.approx(0.8)


def test_each_error_is_in_one_bin():
    distances, errors = [0.0, 0.05, 0.07, 4.0], np.array([0.1, -0.2, 0.4, 1.0])
    bins = list(in_bins(distances, errors, DISTANCES))
    assert [one.num_candidates for one in bins] == [1, 2, 1]
    assert bins[1].mean_error == pytest.approx(0.3)
    assert bins[1].largest_error == pytest.approx(0.4)


def test_the_shortest_length_is_the_first_that_is_cheap_enough():
    def share(length):
        return 128 / length

    found = arithmetic.shortest(share, 1.0)
    assert arithmetic.cost(share, found, 1.0) <= arithmetic.MOST_READINGS
    assert arithmetic.cost(share, found - arithmetic.STEP, 1.0) > arithmetic.MOST_READINGS


def test_tokens_for_all_documents_keep_the_limit():
    num_tokens = arithmetic.most_tokens(8192, 3, 1.0)
    cost = 1.0 + arithmetic.NUM_CANDIDATES * num_tokens / (3 * 8192)
    assert cost == pytest.approx(arithmetic.MOST_READINGS)


def test_an_exact_reading_scores_every_token_once():
    full = Reading(
        ids=torch.arange(200), scored={"text": torch.arange(1, 190), "answers": torch.arange(190, 200)}
    )
    few = choose_targets(full)
    split = judge.in_two(full, few)
    assert split.targets.tolist() == full.targets.tolist()
    assert split.scored["text"].tolist() == few.scored["text"].tolist()
    assert set(split.scored) == {"text", "text" + judge.REST, "answers"}


def test_a_journal_of_other_weights_is_refused(tiny_model_folder):
    model = load_model(tiny_model_folder)
    identity = {"model": {"weights_sha256": "0" * 64}}
    journal = EvolutionJournal(name="other", identity=identity, ranked=())
    with pytest.raises(SystemExit, match="weights"):
        of_model([journal], model)


def test_candidates_are_measured_once_and_yarn_from_its_own_keys_is_exact(
    tiny_model_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("evaluator.RESULTS", tmp_path / "results")
    command = ["--model", str(tiny_model_folder), "--out", str(tmp_path / "out"), "--parts", "lengths,cost",
               "--lengths", "256", "--candidates", "2", "--documents", "1", "--rounds", "1"]  # fmt: skip
    kept_keys.main(command)
    monkeypatch.setattr(judge, "keep", None)  # a second run reads nothing
    monkeypatch.setattr("judging.timing.keep", None)
    kept_keys.main(command)
    (raw,) = (tmp_path / "results").glob("*.json")
    (length,) = json.loads(raw.read_text())["lengths"]
    assert length["distances"]["float32"][0] == 0
    yarn, *others = length["rows"]
    assert yarn["float32"] == pytest.approx(yarn[judge.SAME], abs=1e-4)
    assert len(others) == 2
    assert str(tmp_path) not in raw.with_suffix(".md").read_text() + raw.read_text()
    capsys.readouterr()
