"""What is written is the best on the documents that decide, searched or a closed form, and says which."""

import json
import math
from dataclasses import replace

import pytest
from measured_by import away_from_yarn, measured_by
from quadratic import Valued, journal_values, make_space, search_on, write_journal
from tiny import make_texts

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.nll import score_windows
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.rope.schemes import CLOSED_FORMS, scheme_factors
from ropewalk.search.early_stopping import EarlyStopping
from ropewalk.search.finalists import TRAINED, Choice, Finalist, closed_form_candidates
from ropewalk.search.journal import Journal
from ropewalk.search.objective import Objective
from ropewalk.search.plan import plan_search, search_space
from ropewalk.search.readjust import readjust
from ropewalk.search.search import search_factors
from ropewalk.search.settings import SearchSettings
from ropewalk.search.trial import Trial
from ropewalk.text.windows import truncate

TARGET = 256  # 4 times the tiny model's window
ENGINES_OWN = math.sqrt(1 + math.log(8) / math.log(256))  # attention factor from 256 tokens to 2048


# ---------------------------------------------------------------- which closed forms may be written


def candidates(**settings):
    chosen = SearchSettings(**settings)
    space = search_space(make_space().geometry, 2048, chosen)
    return {form.label: form for form in closed_form_candidates(space, chosen)}, space


def test_closed_forms_have_the_attention_factor_that_engines_compute_where_the_search_keeps_it():
    forms, _ = candidates(attention_factor="longrope")
    assert len(forms) == len({scheme.partition(":")[0] for scheme in CLOSED_FORMS} - {"dynamic-ntk"})
    (held,) = {form.candidate.attention_factor for form in forms.values()}
    assert held == pytest.approx(ENGINES_OWN)
    assert {form.candidate.num_start_tokens for form in forms.values()} == {0}
    yarn = next(form for label, form in forms.items() if label.startswith("yarn:"))
    published = scheme_factors("yarn", make_space().geometry, 2048)
    assert yarn.candidate.rescale_factors == pytest.approx(published.rescale_factors[0])
    assert yarn.published.attention_factor == pytest.approx(published.attention_factor)
    assert scheme_factors(yarn.label, make_space().geometry, 2048).attention_factor == pytest.approx(
        ENGINES_OWN, rel=1e-5
    )


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"serve_with": "vllm"}, {"strategy": "evolution"}, {"strategy": "random", "serve_with": "any"},
        {"strategy": "evolution", "attention_factor": "search"},
    ],
)  # fmt: skip
def test_closed_forms_are_as_published_unless_the_caller_gives_an_attention_factor(settings):
    forms, space = candidates(**settings)
    assert set(forms) == set(CLOSED_FORMS) - {"dynamic-ntk"}, "at one length it is NTK"
    for label, form in forms.items():
        published = scheme_factors(label, space.geometry, 2048)
        assert form.published is None
        assert space.to_factors(form.candidate).array()[0] == pytest.approx(published.array()[0])
        assert form.candidate.attention_factor == pytest.approx(published.attention_factor)


@pytest.mark.parametrize("strategy", ["gradient", "evolution"])
@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_an_attention_factor_of_the_caller_s_holds_for_closed_forms_too(strategy, factor):
    forms, _ = candidates(strategy=strategy, attention_factor=factor)
    assert {form.candidate.attention_factor for form in forms.values()} == {factor}


def test_the_model_s_own_scaling_is_one_of_them():
    chosen = SearchSettings(serve_with="vllm")
    space = search_space(make_space().geometry, 2048, chosen)
    own = RescaleFactors.single(
        geometry=space.geometry, target_length=4096, rescale_factors=[16.0] * 12, attention_factor=1.1
    )
    *_, last = closed_form_candidates(space, chosen, own)
    assert last.is_own
    assert (last.candidate.rescale_factors, last.candidate.attention_factor) == ((16.0,) * 12, 1.1)


# ---------------------------------------------------------------- what is chosen, and where

SPACE = make_space()
FORMS = closed_form_candidates(SPACE, SearchSettings(strategy="evolution"))
YARN = next(form.candidate for form in FORMS if form.label == "yarn")


def only_yarn(candidate):
    """The lower, the nearer to YaRN."""
    away = [abs(a - b) for a, b in zip(candidate.rescale_factors, YARN.rescale_factors, strict=True)]
    return 2 + sum(away) + abs(candidate.attention_factor - YARN.attention_factor)


def no_closed_form(candidate):
    return 99.0 if any(candidate == form.candidate for form in FORMS) else only_yarn(candidate)


def chosen_on(search, stop=None, *, forms=FORMS, budget=40.0, journal=None, **how):
    objective = Valued(SPACE, search)
    stop_set = None if stop is None else EarlyStopping(Valued(SPACE, stop), objective, budget)
    return search_on(
        "random", objective, journal, budget=budget, early_stopping=stop_set, closed_forms=forms, **how
    )


def test_a_closed_form_that_is_better_on_the_stop_documents_is_chosen():
    choice = chosen_on(no_closed_form, only_yarn).choice
    assert choice.decided_by == "stop"
    assert choice.closed_form.label == "yarn"
    assert choice.closed_form.trial.value == 2.0
    assert choice.searched.value > 2.0
    assert len(choice.closed_forms) == len(FORMS)


def test_a_searched_candidate_that_is_better_there_is_chosen_whatever_the_search_documents_say():
    outcome = chosen_on(only_yarn, no_closed_form)
    assert outcome.choice.closed_form is None
    assert outcome.choice.searched.value == outcome.on_validation.value < 99.0


def test_without_stop_documents_the_search_documents_decide():
    choice = chosen_on(only_yarn).choice
    assert (choice.decided_by, choice.closed_form.label) == ("search", "yarn")
    assert chosen_on(no_closed_form).choice.closed_form is None


def test_in_a_tie_the_searched_candidate_is_chosen():
    choice = chosen_on(lambda candidate: 5.0, lambda candidate: 5.0).choice
    assert choice.closed_form is None
    assert choice.best_closed_form.trial.value == choice.searched.value


def test_what_can_not_be_measured_is_not_chosen():
    def only_ntk_has_a_value(candidate):
        ntk = next(form.candidate for form in FORMS if form.label == "ntk")
        return 1.0 if candidate == ntk else math.inf

    choice = chosen_on(no_closed_form, only_ntk_has_a_value).choice
    assert choice.closed_form.label == "ntk"
    assert choice.searched.value is None
    choice = chosen_on(no_closed_form, lambda candidate: math.inf).choice
    assert (choice.closed_form, choice.best_closed_form) == (None, None)


def test_the_best_with_n_hat_0_is_chosen_on_the_same_documents():
    """With n-hat a searched candidate wins; without, YaRN."""

    def start_tokens_are_worth_it(candidate):
        return 1.0 if candidate.num_start_tokens else only_yarn(candidate)

    choice = chosen_on(start_tokens_are_worth_it, start_tokens_are_worth_it).choice
    assert choice.closed_form is None
    assert choice.searched.value == 1.0
    assert choice.searched_plain.kind == "finalist", "it was not measured on the stop documents before"
    assert choice.closed_form_plain.label == "yarn"


def of_two_terms(answers, *, text=2.0, value=5.0, kind="finalist"):
    """A trial with these nats per token, of 1000 tokens of text and 10 of answers in two documents."""
    return Trial(
        index=0, candidate=YARN, value=value, failure=None, seconds=0.0, cost=1.0, kind=kind,
        parts={"perplexity": (600 * text, 400 * text), "answers": (4 * answers, 6 * answers)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("nats", "worse"),
    [
        ({"answers": 1.0}, []), ({"answers": 1.049}, []), ({"answers": 1.051}, ["answers"]),
        ({"answers": 0.5, "text": 2.0019}, []), ({"answers": 0.5, "text": 2.0021}, ["perplexity"]),
    ],
)  # fmt: skip
def test_a_candidate_that_is_worse_in_one_term_beyond_the_limit_is_not_written(nats, worse):
    """Though its value is lower."""
    searched, scheme = of_two_terms(**nats, value=4.0), of_two_terms(1.0)
    yarn = Finalist(label="yarn", trial=scheme)
    choice = Choice(
        decided_by="stop", searched=searched, searched_plain=searched, closed_forms=(yarn,),
        num_scored={"perplexity": 1000, "answers": 10},
    )  # fmt: skip
    assert choice.worse_terms(searched) == worse
    assert choice.closed_form == choice.closed_form_plain == (yarn if worse else None)
    assert choice.as_dict()["written"] == ("yarn" if worse else None)
    assert choice.mean_nats(scheme) == pytest.approx({"perplexity": 2.0, "answers": 1.0})


def test_the_published_attention_factor_is_measured_where_it_may_not_be_written():
    held = tuple(
        replace(form, candidate=replace(form.candidate, attention_factor=3.0), published=form.candidate,
                published_label=f"published {form.label}", is_own=form.label == "pi")
        for form in FORMS
    )  # fmt: skip
    choice = chosen_on(lambda candidate: 2.5, only_yarn, forms=held).choice
    assert [one.label for one in choice.published] == ["published pi", "published yarn"], "the own, the best"
    assert choice.published[1].trial.value == 2.0
    assert choice.closed_form.trial.candidate.attention_factor == 3.0


def test_the_budget_and_the_search_are_as_ever_and_progress_counts_finalists():
    seen = []
    alone = chosen_on(no_closed_form, only_yarn, forms=())
    beside = chosen_on(no_closed_form, only_yarn, on_trial=seen.append)
    bare = [replace(trial, seconds=0.0) for trial in beside.trials]
    assert bare == [replace(trial, seconds=0.0) for trial in alone.trials]
    assert alone.choice is None
    assert beside.cost == alone.cost <= 40
    num_finalists = len(FORMS) + 1  # and the best with n-hat 0, which is another
    assert beside.choice.cost == pytest.approx(num_finalists)
    assert [at.num_finalists for at in seen if at.num_finalists] == list(range(1, num_finalists + 1))
    assert seen[-1].num_finalists_left == 0
    assert max(at.cost for at in seen) <= 40


# ---------------------------------------------------------------- with a model


@pytest.fixture
def documents(loaded, tmp_path):
    return make_texts(tmp_path, loaded.tokenizer, length=TARGET, names="abcd")


def search(loaded, documents, **changes):
    settings = {
        "target_length": TARGET, "objective": "perplexity", "exact": True, "strategy": "evolution",
        "budget": 12, "seed": 3, **changes,
    }  # fmt: skip
    return search_factors(loaded, documents.part(0, 2), validation_documents=documents.part(2, 4), **settings)


def perplexity(loaded, documents, factors):
    windows = [window for document in documents.documents for window in truncate(document, TARGET)]
    with loaded.using(factors):
        return score_windows(loaded.model, windows).perplexity


@pytest.mark.parametrize("settings", [{}, {"strategy": "gradient"}, {"serve_with": "vllm"}])
def test_what_is_written_has_the_lowest_value_of_all_on_the_stop_documents(loaded, documents, settings):
    result = search(loaded, documents, **settings)
    choice, stop = result.outcome.choice, documents.part(2, 4)
    known = [choice.searched.value, *(one.trial.value for one in choice.closed_forms)]
    assert result.deciding_value == min(known)
    assert perplexity(loaded, stop, result.factors) == pytest.approx(min(known), rel=1e-6)
    assert perplexity(loaded, stop, result.searched_factors) == pytest.approx(
        result.validation_value, rel=1e-6
    )
    for one in choice.closed_forms:
        factors = result.factors.replace(
            rescale_factors=(one.trial.candidate.rescale_factors,), num_start_tokens=0,
            attention_factor=one.trial.candidate.attention_factor,
        )  # fmt: skip
        assert perplexity(loaded, stop, factors) == pytest.approx(one.trial.value, rel=1e-6)


@pytest.mark.parametrize("objective", ["tail", "needle"])
def test_another_objective_compares_closed_forms_by_itself(loaded, documents, objective):
    result = search(loaded, documents, objective=objective, budget=40)
    settings = SearchSettings(strategy="evolution", objective=objective, seed=3)
    on_stop = plan_search(loaded.description, TARGET, settings).objective(loaded, documents.part(2, 4))
    for factors in (result.factors, result.searched_factors):
        assert result.deciding_value <= on_stop.value_of(factors) * (1 + 1e-6)
    assert on_stop.value_of(result.factors) == pytest.approx(result.deciding_value, rel=1e-6)


def test_a_closed_form_says_that_it_is_one_and_where_it_was_chosen(loaded, documents, monkeypatch):
    monkeypatch.setattr(Objective, "measure", measured_by(away_from_yarn))
    result = search(loaded, documents)
    factors = RescaleFactors.from_json(result.factors.to_json(), "memory")
    yarn = scheme_factors("yarn", loaded.geometry, TARGET)
    assert factors.array() == pytest.approx(yarn.array())
    assert factors.target_length == TARGET
    made = factors.provenance
    assert made.strategy.startswith("yarn")
    assert (made.model, made.weights_sha256) == (loaded.name, loaded.weights_sha256)
    assert made.data_sha256 == documents.part(2, 4).data_sha256
    assert made.objective_value == result.deciding_value < result.validation_value
    assert made.settings["num_documents"] == 2
    assert made.settings["search"]["strategy"] == "evolution"
    assert made.settings["search"]["objective_value"] == result.value
    assert made.settings["choice"]["searched"] == result.validation_value
    assert made.settings["choice"]["documents"] == "stop"
    assert result.factors_without_start_tokens == result.factors
    assert result.searched_factors.provenance.strategy == "evolution"
    short = result.as_dict()
    assert json.loads(json.dumps(short)) == short
    assert short["choice"]["written"] == made.strategy
    assert made.strategy in result.about_choice


def test_without_a_choice_the_searched_candidate_comes_back(loaded, documents, monkeypatch):
    monkeypatch.setattr(Objective, "measure", measured_by(away_from_yarn))
    result = search(loaded, documents, closed_forms=False)
    assert result.outcome.choice is None
    assert result.factors == result.searched_factors
    assert result.factors.provenance.strategy == "evolution"


@pytest.mark.parametrize("num_done", [0, 1, 5])
def test_killed_between_finalists_it_goes_on_and_journals_from_before_finalists_are_resumed(
    loaded, documents, tmp_path, num_done
):
    path = tmp_path / "journal.jsonl"
    whole = search(loaded, documents, journal=Journal(path))
    lines = path.read_bytes().splitlines(keepends=True)
    num_searched = len(lines) - len(whole.outcome.choice.closed_forms)
    assert json.loads(lines[num_searched])["kind"] == "finalist"
    assert json.loads(lines[num_searched - 1])["kind"] != "finalist"
    path.write_bytes(b"".join(lines[: num_searched + num_done]))
    again = search(loaded, documents, journal=Journal(path))
    assert again.factors.to_json() == whole.factors.to_json()
    assert len(path.read_bytes().splitlines()) == len(lines)


def test_a_journal_of_other_finalists_is_refused(loaded, documents, tmp_path):
    path = tmp_path / "journal.jsonl"
    search(loaded, documents, journal=Journal(path))
    values = journal_values(path)
    values[-1]["candidate"]["attention_factor"] = 2.0
    write_journal(path, values)
    with pytest.raises(RunFolderError, match=r"trial \d+"):
        search(loaded, documents, journal=Journal(path))


def test_a_second_search_compares_with_closed_forms_on_top_of_what_the_model_was_tuned_with(
    loaded, documents
):
    own = RescaleFactors.single(
        geometry=loaded.geometry, target_length=128, rescale_factors=[1.0, 1.3, 1.7, 2.0]
    )
    result = search(loaded, documents, base_factors=own, strategy="gradient", attention_factor="longrope")
    forms = {one.label.partition(":")[0]: one.trial.candidate for one in result.outcome.choice.closed_forms}
    assert forms[TRAINED].rescale_factors == (1.0,) * 4, "the factors of the training"
    assert "none" not in forms, "the same candidate"
    assert forms["pi"].rescale_factors == (2.0,) * 4, "256 is twice 128"
    engine = math.sqrt(1 + math.log(4) / math.log(64))
    assert result.factors.attention_factor == pytest.approx(engine)
    lowest = min(one.trial.value for one in result.outcome.choice.closed_forms)
    assert result.deciding_value == min(lowest, result.validation_value)


def test_readjustment_keeps_the_attention_factor_of_the_long_factors(loaded, documents):
    longer = RescaleFactors.single(
        geometry=loaded.geometry,
        target_length=512,
        rescale_factors=[1.0, 2.0, 4.0, 8.0],
        attention_factor=1.2,
    )
    for strategy in ("gradient", "evolution"):
        result = readjust(
            loaded, documents.part(0, 2), length=TARGET, long_factors=longer, budget=9, strategy=strategy,
            objective="perplexity", exact=True, validation_documents=documents.part(2, 4),
        )  # fmt: skip
        choice = result.found.outcome.choice
        assert {one.trial.candidate.attention_factor for one in choice.closed_forms} == {1.2}
        assert result.value == min(choice.searched.value, choice.best_closed_form.trial.value)
        assert result.factors.attention_factor == 1.2


def away_from(rescale_factors):
    """A measure of documents: the nearer to these lambdas in all, the better."""

    def nats_of(objective, candidate):
        total = objective.factors(candidate).rescale_factors[0]
        return 100 * (1 + sum(abs(a - b) for a, b in zip(total, rescale_factors, strict=True)))

    return measured_by(nats_of)


# No space of a search holds them: lambda falls from pair to pair.
TUNED = (2.5, 2.0, 1.5, 1.0)


def test_a_second_search_keeps_the_factors_of_the_training_where_they_are_best(
    loaded, documents, monkeypatch
):
    own = RescaleFactors.single(
        geometry=loaded.geometry, target_length=128, rescale_factors=TUNED, attention_factor=1.13
    )
    monkeypatch.setattr(Objective, "measure", away_from(TUNED))
    result = search(loaded, documents, base_factors=own, strategy="random", space="full")
    assert result.closed_form.is_trained
    assert result.factors.provenance.strategy == TRAINED
    assert result.factors.array()[0] == pytest.approx(TUNED)
    assert result.factors.attention_factor == pytest.approx(1.13)
    assert result.factors.target_length == TARGET


@pytest.mark.parametrize(("best", "is_kept"), [(TUNED, True), ((1.0, 2.0, 2.5, 3.0), False)])
def test_readjustment_compares_the_factors_of_the_training(loaded, documents, monkeypatch, best, is_kept):
    longer = RescaleFactors.single(
        geometry=loaded.geometry, target_length=512, rescale_factors=[1.0, 2.0, 4.0, 8.0]
    )
    tuned = longer.replace(target_length=384, rescale_factors=(TUNED,), attention_factor=1.1)
    monkeypatch.setattr(Objective, "measure", away_from(best))
    result = readjust(
        loaded, documents.part(0, 2), length=TARGET, long_factors=longer, trained_factors=tuned, budget=9,
        strategy="random", objective="perplexity", exact=True, validation_documents=documents.part(2, 4),
        attention_factor="search",
    )  # fmt: skip
    known = {one.label: one.trial.value for one in result.found.outcome.choice.closed_forms}
    assert known[TRAINED] >= result.value
    assert (result.factors.provenance.strategy == TRAINED) == is_kept
    if is_kept:
        assert result.factors.rescale_factors == (TUNED,)
        assert result.factors.attention_factor == 1.1
