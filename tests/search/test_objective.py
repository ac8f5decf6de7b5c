"""Terms, their sum, and its gradient, on a real model."""

import math
import random

import numpy as np
import pytest
from token_nll import token_nll

from ropewalk.errors import SettingError
from ropewalk.evaluate.nll import score_windows
from ropewalk.models.model import load_model
from ropewalk.search.evaluation import Evaluator
from ropewalk.search.named_spaces import make_space
from ropewalk.search.objective import Objective, Term
from ropewalk.search.objectives import OBJECTIVES, ObjectiveTask, make_terms
from ropewalk.search.space import SearchSpace
from ropewalk.search.trial import Query
from ropewalk.text.needles import needle_windows
from ropewalk.text.tokens import Encoder, token_documents
from ropewalk.text.windows import truncate

TARGET, WINDOW = 128, 64


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


def spline(loaded, **changes):
    choices = {"start_tokens": (0,), "attention_factors": (1.0, 1.1, 1.2), **changes}
    full = SearchSpace(geometry=loaded.geometry, target_length=TARGET, **choices)
    return make_space("spline", full, monotone=False)


def objective_of(loaded, task, name="perplexity", short_weight=0.0, space=None):
    return Objective(loaded, make_terms(name, task, short_weight), space or spline(loaded))


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


def test_only_the_answers_of_needles_are_scored(loaded, task):
    encode = Encoder(loaded.tokenizer)
    document = task.documents.documents[0]
    early, late = needle_windows(document, TARGET, (0.0, 1.0), encode, random.Random(1))
    for window in (early, late):
        assert len(window.ids) == TARGET
        answer = loaded.tokenizer.decode(window.ids[-window.num_scored :])
        assert answer.strip().strip(".").isdigit()
        text = loaded.tokenizer.decode(window.ids)
        assert text.count(answer.strip(" .")) == 2, "the fact, and the answer to the question"
    texts = [loaded.tokenizer.decode(window.ids) for window in (early, late)]
    where = [text.index("The number of") / len(text) for text in texts]
    assert where[0] < 0.1 < 0.4 < where[1]
    with pytest.raises(SettingError, match="does not fit"):
        needle_windows(document, 40, (0.5,), encode, random.Random(1))


def test_needles_follow_from_the_seed(task):
    one, same = (OBJECTIVES["needle"](task)[0].windows[0][0].ids.tolist() for _ in range(2))
    assert one == same


def test_a_short_weight_adds_the_first_window(loaded, task):
    plain, both = objective_of(loaded, task), objective_of(loaded, task, short_weight=0.5)
    candidate = candidate_of(plain, 0.1, 0.3, 0.6)
    found, alone = measured(both, candidate), measured(plain, candidate)
    short = sum(found.parts["short perplexity"]) / (3 * (WINDOW - 1))
    assert found.parts["perplexity"] == alone.parts["perplexity"]
    assert math.log(found.value) == pytest.approx(math.log(alone.value) + 0.5 * short)
    assert found.cost == pytest.approx(1.5), "half as many tokens are read besides"


@pytest.mark.parametrize(("name", "weight"), [("perplexity", 0.0), ("tail", 0.0), ("perplexity", 0.7)])
def test_the_gradient_of_ln_value_by_finite_differences(loaded, task, name, weight):
    loaded.model.double()
    # A fine grid of attention factors, so that a small step along it is one.
    space = spline(loaded, attention_factors=tuple(1 + k * 1e-4 for k in range(3000)))
    objective = objective_of(loaded, task, name, weight, space)
    at = np.array([0.2, 0.5, 0.9, 0.12])
    found = measured(objective, space.nearest(at), gradient=True)
    assert found.cost == pytest.approx(3 * objective.cost)
    for index in range(len(at)):
        step = np.zeros(len(at))
        step[index] = 4e-3
        up, down = (space.nearest(at + sign * step) for sign in (1, -1))
        change = math.log(measured(objective, up).value) - math.log(measured(objective, down).value)
        moved = space.coordinates(up)[index] - space.coordinates(down)[index]
        assert found.gradient[index] == pytest.approx(change / moved, rel=0.03, abs=2e-4), index


def test_wrong_objectives_are_one_line(task):
    for name, said in (("speed", "no objective 'speed'"), ("no_module_here:f", "can't be imported")):
        with pytest.raises(SettingError, match=said):
            make_terms(name, task)
    with pytest.raises(SettingError, match="weight of x"):
        Term(name="x", weight=0.0, windows=())
