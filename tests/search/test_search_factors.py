import dataclasses
import json
import math
import re

import pytest
import torch
from quadratic import journal_values, write_journal
from tiny import make_texts

from ropewalk.errors import EvaluationError, ModelError, RunFolderError, SettingError
from ropewalk.evaluate.nll import score_windows
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import load_model
from ropewalk.search.journal import Journal
from ropewalk.search.search import search_factors
from ropewalk.search.settings import SearchSettings
from ropewalk.text.windows import truncate

TARGET = 256  # 4 times the tiny model's window


@pytest.fixture
def documents(loaded, tmp_path):
    return make_texts(tmp_path, loaded.tokenizer, length=TARGET)


@pytest.fixture
def linear(tiny_model, tiny_model_folder):
    """The same model, carrying a scaling of its own to 128 tokens."""
    config = json.loads((tiny_model_folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}
    (tiny_model_folder / "config.json").write_text(json.dumps(config))
    return load_model(tiny_model_folder)


def search(loaded, documents, **changes):
    """Without closed forms, which may be better than what so short a search finds; see test_finalists."""
    settings = {
        "target_length": TARGET, "objective": "perplexity", "exact": True, "strategy": "evolution",
        "budget": 12, "seed": 3, **changes,
    }  # fmt: skip
    return search_factors(loaded, documents, closed_forms=False, **settings)


def test_the_factors_are_the_best_trial_and_give_its_value_again(loaded, documents):
    result = search(loaded, documents)
    factors = result.factors
    assert factors.rescale_factors == (result.outcome.best.candidate.rescale_factors,)
    assert factors.geometry == loaded.geometry
    assert factors.target_length == TARGET
    windows = [window for document in documents.documents for window in truncate(document, TARGET)]
    with loaded.using(factors):
        assert score_windows(loaded.model, windows).perplexity == result.value
    assert result.factors_without_start_tokens.num_start_tokens == 0
    assert result.nats_without_start_tokens >= 0


def test_the_model_is_left_as_it_was(loaded, documents):
    ids = documents.documents[0].ids[None]
    with torch.no_grad():
        before = loaded.model(input_ids=ids).logits
        search(loaded, documents)
        assert torch.equal(loaded.model(input_ids=ids).logits, before)


def test_factors_say_how_they_were_found(loaded, documents):
    result = search(loaded, documents, attention_factor="longrope", start_tokens="none")
    factors = RescaleFactors.from_json(result.factors.to_json(), "memory")
    provenance = factors.provenance
    assert provenance.model == loaded.name
    assert provenance.weights_sha256 == loaded.weights_sha256
    assert (provenance.strategy, provenance.seed, provenance.base) == ("evolution", 3, "native")
    assert provenance.data_sha256 == documents.data_sha256
    assert provenance.objective == "perplexity of 2 documents of 256 tokens, each read in one pass"
    assert provenance.objective_value == result.value
    assert set(provenance.versions) == {"ropewalk", "torch", "transformers", "numpy"}
    assert factors.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(64)))
    settings = provenance.settings
    assert settings["attention_factor"] == "longrope"
    assert settings["start_tokens"] == "none"
    assert settings["space"]["start_tokens"] == [0]
    assert settings["strategy_settings"]["population_size"] == 64
    assert (settings["budget"], settings["cost"], settings["reproducible"]) == (12, 12.0, True)
    assert settings["stopped_by"] == "budget"


def test_the_result_in_short_is_json(loaded, documents):
    short = search(loaded, documents).as_dict()
    assert json.loads(json.dumps(short)) == short
    assert short["cost"] <= 12
    assert short["value"] <= short["value_without_start_tokens"]


def test_same_seed_same_file(loaded, documents):
    one, same, other = (search(loaded, documents, seed=seed).factors.to_json() for seed in (3, 3, 4))
    assert one == same
    assert one != other


@pytest.mark.parametrize("num_done", [1, 7, 11])
def test_a_resumed_run_gives_the_same_file(loaded, documents, tmp_path, num_done):
    path = tmp_path / "journal.jsonl"
    expected = search(loaded, documents).factors.to_json()

    def stop(progress):
        if progress.num_trials == num_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(loaded, documents, journal=Journal(path), on_trial=stop)
    assert search(loaded, documents, journal=Journal(path)).factors.to_json() == expected


def test_a_journal_with_a_racing_error_goes_on(loaded, documents, tmp_path):
    path = tmp_path / "journal.jsonl"
    expected = search(loaded, documents, journal=Journal(path)).factors.to_json()
    header, *trials = journal_values(path)
    assert "racing" not in header["identity"]
    write_journal(path, [header | {"identity": header["identity"] | {"racing": 0.01}}, *trials[:7]])
    assert search(loaded, documents, journal=Journal(path)).factors.to_json() == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 4}, "seed is 4"),
        ({"budget": 13}, "budget is 13"),
        ({"target_length": 200}, "target_length is 200"),
        ({"strategy": "random"}, 'strategy is "random"'),
        ({"attention_factor": "1.2"}, 'attention_factor is "1.2"'),
        ({"start_tokens": "none"}, 'start_tokens is "none"'),
        ({"max_minutes": 5}, "max_minutes is 5.0"),
        ({"base": "as-is"}, 'base is "as-is"'),
        ({"strategy_settings": {"num_parents": 8}}, "num_parents is 8"),
    ],
)
def test_other_settings_can_not_go_on(loaded, documents, tmp_path, changes, named):
    path = tmp_path / "journal.jsonl"
    search(loaded, documents, journal=Journal(path))
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match=re.escape(named)):
        search(loaded, documents, journal=Journal(path), **changes)
    assert path.read_bytes() == before


def test_stop_documents_that_are_search_documents_are_refused_however_long_they_are(loaded, tmp_path):
    short = make_texts(tmp_path, loaded.tokenizer, length=TARGET)
    longer = make_texts(tmp_path, loaded.tokenizer, length=TARGET + 1)
    for stop in (short.part(0, 1), longer.part(0, 1)):
        with pytest.raises(SettingError, match="validation document"):
            search(loaded, short, validation_documents=stop)


def test_other_text_or_weights_can_not_go_on(loaded, documents, tmp_path):
    path = tmp_path / "journal.jsonl"
    search(loaded, documents, journal=Journal(path))
    with pytest.raises(RunFolderError, match=r"text.data_sha256 is"):
        search(loaded, documents.part(0, 1), journal=Journal(path))
    with torch.no_grad():
        next(loaded.model.parameters()).add_(0.5)
    changed = load_model(tmp_path / "tiny-model")
    loaded.model.save_pretrained(tmp_path / "tiny-model")
    changed = load_model(tmp_path / "tiny-model")
    with pytest.raises(RunFolderError, match=r"model.weights_sha256 is"):
        search(changed, documents, journal=Journal(path))


def test_another_number_of_threads_goes_on_and_says_so(loaded, documents, tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    assert search(loaded, documents, journal=Journal(path)).reproducible
    *kept, _ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept))
    threads = torch.get_num_threads() + 1
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    with pytest.warns(UserWarning, match="num_threads"):
        result = search(loaded, documents, journal=Journal(path))
    assert not result.reproducible
    assert result.factors.provenance.settings["reproducible"] is False


def test_a_limit_in_time_is_recorded_as_breaking_reproducibility(loaded, documents):
    result = search(loaded, documents, budget=10_000, max_minutes=0.2 / 60)
    assert result.outcome.stopped_by == "time"
    assert not result.reproducible
    assert result.factors.provenance.settings["max_minutes"] == 0.2 / 60
    assert result.factors.provenance.settings["reproducible"] is False


def test_as_is_multiplies_onto_the_model_s_own_scaling(linear, documents):
    result = search(linear, documents, base="as-is")
    lambdas = [value / 2 for value in result.factors.rescale_factors[0]]
    assert lambdas == pytest.approx(result.outcome.best.candidate.rescale_factors)
    assert result.outcome.trials[0].candidate.rescale_factors == (2.0,) * 4, (
        "256 is twice 128, not 4 times 64"
    )
    assert result.factors.geometry == linear.geometry
    assert result.factors.target_length == TARGET
    assert result.factors.provenance.base == "as-is"
    with linear.using(result.factors):
        windows = [window for document in documents.documents for window in truncate(document, TARGET)]
        assert score_windows(linear.model, windows).perplexity == result.value


def test_as_is_a_model_reads_further_already(linear, documents):
    with pytest.raises(SettingError, match="already reads 128"):
        search(linear, documents, base="as-is", target_length=100)


def test_native_replaces_the_model_s_own_scaling(linear, documents):
    window = linear.geometry.original_length
    result = search(linear, documents)
    assert result.factors.provenance.base == "native"
    first = result.outcome.trials[0].candidate.rescale_factors
    assert first == (TARGET / window,) * 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"target_length": 64}, SettingError, "already reads 64"),
        ({"target_length": 300}, SettingError, "300 tokens"),
        ({"strategy": "genetic"}, SettingError, "no strategy 'genetic'"),
        ({"budget": 0}, SettingError, "budget"),
        ({"budget": 1}, SettingError, "budget"),
        ({"budget": "all"}, SettingError, "or `paper`"),
        ({"seed": -1}, SettingError, "seed"),
        ({"attention_factor": "free"}, SettingError, "attention_factor"),
        ({"start_tokens": "8"}, SettingError, "start_tokens"),
        ({"base": "own"}, SettingError, "as-is"),
        ({"max_minutes": 0.0}, SettingError, "max_minutes"),
        ({"max_minutes": math.nan}, SettingError, "max_minutes"),
    ],
)
def test_wrong_settings_are_one_line_and_leave_nothing(loaded, documents, tmp_path, changes, error, message):
    path = tmp_path / "journal.jsonl"
    with pytest.raises(error, match=re.escape(message)) as caught:
        search(loaded, documents, journal=Journal(path), **changes)
    assert "\n" not in str(caught.value)
    assert not path.exists()


def test_windows_shorter_than_the_target_are_refused_before_anything_is_written(tiny_model_folder, tmp_path):
    config = json.loads((tiny_model_folder / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 32}
    (tiny_model_folder / "config.json").write_text(json.dumps(config))
    loaded, path = load_model(tiny_model_folder), tmp_path / "journal.jsonl"
    with pytest.raises(ModelError, match="--full-attention"):
        search(loaded, make_texts(tmp_path, loaded.tokenizer, length=TARGET), journal=Journal(path))
    assert not path.exists()


def test_a_model_that_gives_nan_is_an_error_and_its_journal_stays(loaded, documents, tmp_path):
    path = tmp_path / "journal.jsonl"
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(EvaluationError, match="candidates failed"):
        search(loaded, documents, journal=Journal(path))
    # Each fails at the first of two documents, and so costs half of an evaluation: 21 fit where 11 would.
    assert path.read_bytes().count(b'"the value is nan"') == 21


@pytest.mark.parametrize(
    ("keyword", "nearest"),
    [("budgt", "budget"), ("validation_docs", "validation_documents"), ("sead", "seed")],
)
def test_a_misspelled_keyword_names_the_nearest(loaded, documents, keyword, nearest):
    with pytest.raises(SettingError, match=f"'{nearest}'"):
        search(loaded, documents, **{keyword: 3})


def test_settings_and_keywords_are_the_same_search(loaded, documents):
    settings = SearchSettings(strategy="evolution", budget=12, seed=3, objective="perplexity", exact=True)
    given = search_factors(loaded, documents, target_length=TARGET, settings=settings, closed_forms=False)
    assert given.factors.to_json() == search(loaded, documents).factors.to_json()
    with pytest.raises(SettingError, match="keyword"):
        search(loaded, documents, settings=settings)


def test_a_number_in_another_spelling_is_the_same_run(loaded, documents, tmp_path):
    path = tmp_path / "journal.jsonl"
    expected = search(loaded, documents, journal=Journal(path), attention_factor=1.0).factors.to_json()
    header, *trials = journal_values(path)
    write_journal(path, [header | {"identity": header["identity"] | {"attention_factor": "1.0"}}, *trials])
    assert (
        search(loaded, documents, journal=Journal(path), attention_factor=1.0).factors.to_json() == expected
    )


def test_a_model_and_a_text_that_were_moved_are_the_same_run(loaded, documents, tmp_path):
    path = tmp_path / "journal.jsonl"
    expected = search(loaded, documents, journal=Journal(path))
    loaded.name, loaded.revision = "/elsewhere/model", "abc"
    loaded.where["revision"] = "abc"
    before = path.read_bytes()
    again = search(loaded, dataclasses.replace(documents, source="/elsewhere/text"), journal=Journal(path))
    assert again.factors.rescale_factors == expected.factors.rescale_factors
    assert path.read_bytes() == before, "nothing was measured again"


def test_other_weights_in_the_same_place_are_another_run(loaded, documents, tmp_path):
    path = tmp_path / "journal.jsonl"
    search(loaded, documents, journal=Journal(path))
    with pytest.raises(RunFolderError, match="data_sha256"):
        search(loaded, dataclasses.replace(documents, data_sha256="0" * 64), journal=Journal(path))
    loaded.weights_sha256 = "0" * 64
    with pytest.raises(RunFolderError, match="weights_sha256"):
        search(loaded, documents, journal=Journal(path))
