"""Terms, their sum, and its gradient, on a real model."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from token_nll import token_nll

from ropewalk.errors import SettingError
from ropewalk.evaluate.nll import score_windows
from ropewalk.models.model import load_model
from ropewalk.search.evaluation import Evaluator
from ropewalk.search.named_spaces import make_space
from ropewalk.search.objective import Objective, Term, TermReadings
from ropewalk.search.objectives import MOST_FACTS, ObjectiveTask, make_readings, num_facts
from ropewalk.search.space import SearchSpace
from ropewalk.search.trial import Query
from ropewalk.text.readings import Reading
from ropewalk.text.tokens import token_documents
from ropewalk.text.windows import TokenWindow, truncate

TARGET, WINDOW = 128, 64
WITH_FACTS = 300  # a fact with its question takes up to 140 tokens, at a token per byte


@pytest.fixture
def loaded(tiny_model_folder):
    return load_model(tiny_model_folder)


@pytest.fixture
def task(loaded, tmp_path):
    for name, word in (("a", "alpha beta "), ("b", "gamma delta "), ("c", "rho sigma tau ")):
        (tmp_path / f"{name}.txt").write_text(word * 40)
    documents = token_documents(str(tmp_path / "*.txt"), loaded.tokenizer, length=TARGET)
    return ObjectiveTask(
        documents=documents,
        tokenizer=loaded.tokenizer,
        original_length=WINDOW,
        target_length=TARGET,
        seed=0,
    )


@pytest.fixture
def long_task(loaded, task, tmp_path):
    documents = token_documents(str(tmp_path / "*.txt"), loaded.tokenizer, length=WITH_FACTS)
    return replace(task, documents=documents, target_length=WITH_FACTS, answer_weight=0.3)


def spline(loaded, target=TARGET, **changes):
    choices = {"start_tokens": (0,), "attention_factors": (1.0, 1.1, 1.2), **changes}
    full = SearchSpace(geometry=loaded.geometry, target_length=target, **choices)
    return make_space("spline", full, monotone=False)


def objective_of(loaded, task, name="perplexity", short_weight=0.0, space=None):
    readings = make_readings(name, task, short_weight)
    return Objective(loaded, readings, space or spline(loaded, task.target_length))


def candidate_of(objective, *at_knots, attention=0.1):
    return objective.space.nearest(np.array([*at_knots, attention]))


def measured(objective, candidate, **query):
    return Evaluator(objective).evaluate(Query(candidate=candidate, **query))


def test_perplexity_is_that_of_the_evaluator(loaded, task):
    objective = objective_of(loaded, task)
    candidate = candidate_of(objective, 0.1, 0.3, 0.6)
    windows = [window for document in task.documents.documents for window in truncate(document, TARGET)]
    with loaded.using(objective.factors(candidate)):
        expected = score_windows(loaded.model, windows).perplexity
    found = measured(objective, candidate)
    assert found.value == pytest.approx(expected, rel=1e-12)
    assert found.cost == pytest.approx(1.0)
    assert len(found.parts["perplexity"]) == 3


def test_a_part_of_the_documents_costs_its_share(loaded, task):
    objective = objective_of(loaded, task)
    found = measured(objective, candidate_of(objective, 0.1, 0.3, 0.6), documents=(2,))
    assert found.cost == pytest.approx(1 / 3)
    only = math.exp(found.parts["perplexity"][0] / (TARGET - 1))
    assert found.value == pytest.approx(only)


def test_the_tail_is_what_lies_beyond_the_window(loaded, task):
    objective = objective_of(loaded, task, "tail")
    candidate = candidate_of(objective, 0.1, 0.3, 0.6)
    found = measured(objective, candidate, documents=(0,))
    with loaded.using(objective.factors(candidate)):
        (window,) = truncate(task.documents.documents[0], TARGET)
        nats = token_nll(loaded.model, window)
    assert found.value == pytest.approx(math.exp(float(nats[WINDOW - 1 :].mean())), rel=1e-5)


def text_of(task, positions, ids):
    return task.tokenizer.decode([int(ids[position]) for position in positions])


@pytest.mark.parametrize("draw", [0, 3])
def test_text_and_answers_of_one_reading_are_weighed(loaded, long_task, draw):
    """ln value is the mean nats of the text, and the weight times those of the answers."""
    objective = objective_of(loaded, long_task, "facts")
    candidate = candidate_of(objective, 0.1, 0.3, 0.6)
    found = measured(objective, candidate, draw=draw)
    nats = {"perplexity": [], "answers": []}
    with loaded.using(objective.factors(candidate)):
        for document in range(3):
            (reading,) = objective.readings.readings_of(document, draw)
            assert len(reading.ids) == WITH_FACTS
            all_nats = token_nll(loaded.model, TokenWindow(ids=reading.ids, num_scored=WITH_FACTS - 1))
            for term, positions in reading.scored.items():
                nats[term] += all_nats[positions - 1].tolist()
    expected = np.mean(nats["perplexity"]) + 0.3 * np.mean(nats["answers"])
    assert math.log(found.value) == pytest.approx(expected, rel=1e-5)
    assert {term: len(parts) for term, parts in found.parts.items()} == {"perplexity": 3, "answers": 3}
    assert found.cost == pytest.approx(1.0), "both are of one reading"


def test_only_the_document_and_the_answers_are_scored(long_task):
    readings = make_readings("facts", long_task)
    for document, source in enumerate(long_task.documents.documents):
        (reading,) = readings.readings_of(document, 0)
        text, answers = (
            text_of(long_task, reading.scored[term], reading.ids) for term in ("perplexity", "answers")
        )
        whole = long_task.tokenizer.decode(source.ids).removeprefix("<s>")
        assert whole.startswith(text)
        assert len(text) > 150
        value = answers.strip(" .\n")
        everything = long_task.tokenizer.decode(reading.ids)
        assert everything.endswith(answers)
        assert everything.count(value) >= 2, "in the statement and in the answer"
        (alone,) = make_readings("needle", long_task).readings_of(document, 0)
        assert alone.ids.tolist() == reading.ids.tolist()
        assert {name: at.tolist() for name, at in alone.scored.items()} == {
            "answers": reading.scored["answers"].tolist()
        }


@pytest.mark.parametrize("name", ["facts", "needle"])
def test_facts_follow_from_the_seed_and_differ_between_documents_and_draws(long_task, name):
    def answers(task, document, draw):
        (reading,) = make_readings(name, task).readings_of(document, draw)
        return text_of(task, reading.scored["answers"], reading.ids)

    places = [(document, draw) for document in range(3) for draw in range(5)]
    found = [answers(long_task, *place) for place in places]
    assert found == [answers(long_task, *place) for place in places]
    assert len(set(found)) == len(found)
    assert found != [answers(replace(long_task, seed=1), *place) for place in places]


def test_a_longer_text_has_more_facts(long_task):
    assert [num_facts(length) for length in (300, 1024, 2048, 100_000)] == [1, 4, 8, MOST_FACTS]


def test_a_text_too_short_for_facts_is_scored_alone(loaded, task):
    short = replace(task, target_length=100)
    assert [term.name for term in objective_of(loaded, short, "facts").terms] == ["perplexity"]
    with pytest.raises(SettingError, match="facts"):
        objective_of(loaded, short, "needle")


def test_a_short_weight_adds_the_first_window(loaded, task):
    plain, both = objective_of(loaded, task), objective_of(loaded, task, short_weight=0.5)
    candidate = candidate_of(plain, 0.1, 0.3, 0.6)
    found, alone = measured(both, candidate), measured(plain, candidate)
    short = sum(found.parts["short perplexity"]) / (3 * (WINDOW - 1))
    assert found.parts["perplexity"] == alone.parts["perplexity"]
    assert math.log(found.value) == pytest.approx(math.log(alone.value) + 0.5 * short)
    assert found.cost == pytest.approx(1.5), "half as many tokens are read besides"


@pytest.mark.parametrize(
    ("name", "weight"),
    [("perplexity", 0.0), ("tail", 0.0), ("perplexity", 0.7), ("facts", 0.0), ("needle", 0.2)],
)
def test_the_gradient_of_ln_value_by_finite_differences(loaded, task, long_task, name, weight):
    loaded.model.double()
    chosen = long_task if name in ("facts", "needle") else task
    # A fine grid of attention factors, so that a small step along it is one.
    fine = tuple(1 + k * 1e-5 for k in range(30_000))
    space = spline(loaded, chosen.target_length, attention_factors=fine, step=1e-5)
    objective = objective_of(loaded, chosen, name, weight, space)
    at = np.array([0.2, 0.5, 0.9, 0.12])
    found = measured(objective, space.nearest(at), gradient=True, draw=2)
    assert found.value == pytest.approx(measured(objective, space.nearest(at), draw=2).value)
    assert found.cost == pytest.approx(3 * objective.cost)
    for index in range(len(at)):
        step = np.zeros(len(at))
        step[index] = 2e-4  # an answer depends on far tokens, so its curvature is large
        up, down = (space.nearest(at + sign * step) for sign in (1, -1))
        change = math.log(measured(objective, up, draw=2).value)
        change -= math.log(measured(objective, down, draw=2).value)
        moved = space.coordinates(up)[index] - space.coordinates(down)[index]
        assert found.gradient[index] == pytest.approx(change / moved, rel=0.03, abs=3e-4), index


def test_the_value_of_factors_is_that_of_their_candidate(loaded, task):
    objective = objective_of(loaded, task, short_weight=0.5)
    candidate = candidate_of(objective, 0.1, 0.3, 0.6)
    assert objective.value_of(objective.factors(candidate)) == measured(objective, candidate).value


def test_documents_are_measured_elsewhere_in_the_order_of_the_tasks(loaded, task):
    """`measure_all` gets a task per document, with the factors and the weights in them."""
    here = objective_of(loaded, task)
    tasks = []

    def measure_all(given, ahead=()):
        for one in given:
            tasks.append(one)
            yield from here._measure_all([one])

    there = Objective(loaded, here.readings, here.space, measure_all=measure_all)
    candidate = candidate_of(here, 0.1, 0.3, 0.6)
    assert measured(there, candidate, documents=(2, 0)) == measured(here, candidate, documents=(2, 0))
    measured(there, candidate, documents=(1,), gradient=True, draw=7)
    assert [(one.document, one.draw) for one in tasks] == [(2, 0), (0, 0), (1, 7)]
    assert [one.weights for one in tasks] == [None, None, {"perplexity": 1 / (TARGET - 1)}]
    assert all(one.factors == here.factors(candidate) for one in tasks)


def test_wrong_objectives_are_one_line(task):
    for name, noun in (("speed", "objective 'speed'"), ("no_module_here:f", "no_module_here")):
        with pytest.raises(SettingError, match=noun):
            make_readings(name, task)
    with pytest.raises(SettingError, match="weight of x"):
        Term(name="x", weight=0.0)


def returns_terms(task):
    return [Term(name="x", weight=1.0)]


def scores_nothing_of_one(task):
    ids = task.documents.documents[0].ids

    def readings_of(document, draw):
        scored = {"x": [5]} if document else {"x": [5], "y": [6]}
        return [Reading(ids=ids, scored={name: torch.tensor(at) for name, at in scored.items()})]

    terms = (Term(name="x", weight=1.0), Term(name="y", weight=1.0))
    return TermReadings(terms=terms, num_documents=3, readings_of=readings_of)


@pytest.mark.parametrize("maker", [returns_terms, scores_nothing_of_one])
def test_an_objective_of_ones_own_that_breaks_the_rules_is_refused(loaded, task, maker, monkeypatch):
    monkeypatch.setattr("ropewalk.search.objectives.find_named", lambda *_: maker)
    with pytest.raises(SettingError, match=r"readings|y"):
        objective_of(loaded, task, "my_module:name")
