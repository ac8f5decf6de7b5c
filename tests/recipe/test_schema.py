import json

import pytest

from ropewalk.errors import RecipeError
from ropewalk.evaluate.intervals import wilson
from ropewalk.recipe.reading import load_recipe, parse_recipe, recipe_text, shipped_recipes
from ropewalk.recipe.stages import FinetuneStage, SearchStage
from ropewalk.recipe.yaml_document import read_yaml, with_changes

WHOLE = """\
model: {name: scale-model}
search: {budget: 12, seed: 5}
finetune: {batch_size: 2}
data:
  sources:
    - {name: library, text: stdlib}
stages:
  - {kind: search, name: at-32x, length: 32x}
  - {kind: search, name: at-64x, length: 64x, budget: 9, num_documents: 2}
  - {kind: finetune, name: tune, length: 32x, num_steps: 10, factors: at-32x, learning_rate: 1e-3}
  - {kind: swap, factors: at-64x}
  - {kind: finetune, name: more, length: 64x, num_steps: 5}
  - {kind: search, name: second, length: 512x, num_validation_documents: 0}
  - {kind: readjust, lengths: [2x, 1x]}
  - {kind: evaluate, perplexity: [1x, 512x], passkey: [131072]}
accept:
  short_nll_rise: 0.1
  passkey: [{length: 512x, at_least: 0.6}]
"""


def parse(text, *changes, window=256):
    return parse_recipe(with_changes(read_yaml(text, "mine.yaml"), changes), window=window)


def mistakes(text, *changes, window=256):
    with pytest.raises(RecipeError) as error:
        parse(text, *changes, window=window)
    assert all("\n" not in line for line in error.value.lines)
    return error.value.lines


def test_stages_take_what_they_do_not_say_from_above_and_every_length_is_tokens():
    recipe = parse(WHOLE).resolved(256)
    first, second, tune, _, more, last, readjust, evaluate = recipe.stages
    assert (first.length, second.length, tune.length, last.length) == (8192, 16384, 8192, 131072)
    assert (first.budget, second.budget, first.seed, readjust.budget) == (12, 9, 5, 12)
    assert (first.num_documents, second.num_documents, last.num_validation_documents) == (5, 2, 0)
    assert (readjust.lengths, evaluate.passkey) == ((256, 512), (131072,))
    assert evaluate.retrieval_lengths(256) == (256, 131072)
    assert readjust.num_documents is None, "it follows more documents where these are short"
    assert recipe.accept.passkey[0].length == 131072
    settings = recipe.finetune_settings(tune)
    assert (settings.length, settings.num_steps, settings.batch_size) == (8192, 10, 2)
    assert settings.learning_rate == 1e-3
    assert recipe.finetune_settings(more).learning_rate == 2e-5
    assert [s.name for s in recipe.stages] == [
        "at-32x", "at-64x", "tune", "swap", "more", "second", "readjust-2x", "evaluate-1x",
    ]  # fmt: skip


def test_the_questions_of_an_evaluation_have_the_defaults_of_their_stage():
    given = "stages.7.retrieval_settings={num_facts: 2, wordings: held-out}"
    *_, evaluate = parse(WHOLE, given, "stages.7.seed=3", "stages.7.retrieval=[4x]").resolved(256).stages
    settings = evaluate.questions(num_documents=5)
    assert (settings.num_facts, settings.num_questions, settings.wordings) == (2, 10, "held-out")
    assert settings.seed == 3
    assert evaluate.retrieval_lengths(256) == (1024,)
    *_, evaluate = parse(WHOLE, "stages.7.retrieval=[]").resolved(256).stages
    assert evaluate.retrieval_lengths(256) == ()
    assert evaluate.questions(num_documents=5).num_questions == 20


def test_a_resolved_recipe_reads_back_as_itself():
    recipe = parse(WHOLE, "stages.7.retrieval_settings={num_facts: 2}").resolved(256)
    again = type(recipe).model_validate(recipe.as_dict())
    assert again.as_dict() == recipe.as_dict()
    assert "accept" not in recipe.as_dict()


def test_every_mistake_at_once_each_with_its_line_and_what_was_meant():
    text = """\
modle: {name: scale-model}
search: {bugdet: 12}
finetune: {batch_sise: 2}
data:
  sorces: []
stages:
  - {kind: serch, length: 8x}
  - kind: search
    length: 8y
    startegy: cma
  - {kind: finetune, length: 8x, num_steps: 0}
  - {kind: evaluate, num_trials: zero}
accept: {passkey: [{length: 8x, at_least: 2}]}
"""
    lines = mistakes(text)
    for line, said in [
        (1, ("modle: ", "'model'")),
        (2, ("search.bugdet: ", "'budget'")),
        (3, ("finetune.batch_sise: ", "'batch_size'")),
        (5, ("data.sorces: ", "'sources'")),
        (7, ("'serch'", "'search'")),
        (9, ("length: ", "'8y'")),
        (10, ("stages.1.startegy: ", "'strategy'")),
        (11, ("stages.2.num_steps: ", " 0,")),
        (12, ("stages.3.num_trials: ", "'zero'")),
        (13, ("accept.passkey.0.at_least: ", " 2,")),
    ]:
        assert any(
            f"mine.yaml, line {line}: " in found and all(word in found for word in said) for found in lines
        ), (
            line,
            said,
            lines,
        )
    assert any("model: " in found for found in lines)


def test_data_without_a_source():
    (line,) = mistakes(WHOLE, "data={seed: 1}")
    assert "data: " in line
    assert "source" in line


def test_a_wrong_set_is_named_by_itself():
    (line,) = mistakes(WHOLE, "search.bugdet=3")
    assert line.startswith("mine.yaml, --set search.bugdet=3: search.bugdet: ")
    assert "'budget'" in line
    (line,) = mistakes(WHOLE, "stages.tune.num_steps=0")
    assert "--set stages.tune.num_steps=0" in line
    (line,) = mistakes(WHOLE, "stages.more.learning_rat=1")
    assert "learning_rate" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stages.tune.factors=at-23x", "'at-32x'"),
        ("stages.tune.length=64x", "are for 8192"),
        ("stages.second.length=64x", "reads 16384"),
        ("stages.at-32x.length=1x", "reads 256"),
        ("stages.6.lengths=[512x]", "131072 tokens"),
        ("stages.6.lengths=[1x, 1x]", "names a length twice"),
        ("stages.7.perplexity=[513x]", "131328 tokens"),
        ("stages.7.retrieval=[513x]", "131328 tokens"),
        ("stages.7.retrieval_settings={num_fact: 1}", "'num_facts'"),
        ("stages.7.retrieval_settings={num_distractors: 62}", "stages.7.retrieval_settings: "),
        ("stages.more.name=tune", "'tune'"),
        ("stages.more.name=../up", "it should match"),
        ("stages.7.short_rise=false", "accept.short_nll_rise: "),
        ("accept.passkey.0.length=256x", "at 256x"),
        ("stages.second.serve_with=vlm", "'vllm'"),
        ("stages.second.strategy=genetic", "no strategy 'genetic'"),
        ("search.start_tokens=search", "it"),
        ("stages.second.strategy_settings={learning_rat: 1}", "'learning_rate'"),
        ("stages.second.strategy_settings={learning_rate: -1}", "learning rate is -1"),
        ("data=null", "data: "),
        ("text={search: ./books, test: ./books}", "text of both"),
        ("model.trust_remote_code=true", ": model.trust_remote_code: "),
        ("stages=[]", "at least 1 item"),
        ("stages=[{kind: swap}]", "stages.0.factors: "),
        ("stages=[{name: a}]", "give 'kind'"),
        ("stages=[{kind: readjust, lengths: [1x]}]", "no factors"),
        ("stages=7", "stages: it is 7"),
    ],
)  # fmt: skip
def test_stages_that_can_not_follow_one_another(change, said):
    if change == "search.start_tokens=search":
        change, said = "search={start_tokens: search, serve_with: any}", "n-hat"
    assert any(said in line for line in mistakes(WHOLE, change)), mistakes(WHOLE, change)


def test_without_a_window_lengths_are_not_compared_and_with_one_in_the_recipe_they_are():
    assert parse(WHOLE, "stages.tune.length=64x", window=None)
    lines = mistakes(WHOLE, "stages.tune.length=64x", "model.original_length=256", window=None)
    assert "train on 16384" in lines[0]


def test_a_second_search_is_measured_against_what_the_model_was_tuned_for_not_what_was_swapped_in():
    text = WHOLE.replace("length: 512x, num_val", "length: 40x, num_val")
    assert any("reads 16384 there" in line for line in mistakes(text, "stages.7.perplexity=[1x]"))
    early = """\
model: {name: scale-model}
data: {sources: [{name: library, text: stdlib}]}
stages:
  - {kind: search, name: a, length: 8x}
  - {kind: search, name: b, length: 16x}
  - {kind: finetune, length: 8x, num_steps: 1, factors: a}
  - {kind: swap, factors: b}
  - {kind: search, name: c, length: 12x}
"""
    assert parse(early).stages[-1].length == "12x"


@pytest.mark.parametrize(
    "stage", ["{kind: finetune, length: 4x, num_steps: 1}", "{kind: readjust, lengths: [2x]}"]
)
def test_a_training_or_readjustment_after_near_far_factors_is_a_mistake(stage):
    text = f"""\
model: {{name: scale-model}}
data: {{sources: [{{name: library, text: stdlib}}]}}
stages:
  - {{kind: search, name: a, length: 4x, near_window: 64}}
  - {stage}
"""
    assert any("near_window" in line for line in mistakes(text))
    plain = text.replace(", near_window: 64", "")
    assert parse(plain).stages[1].title


@pytest.mark.parametrize("name", list(shipped_recipes()))
def test_shipped_recipes_check_themselves(name):
    text, source = recipe_text(name)
    assert source == f"{name}.yaml"
    assert text.startswith("# ")
    assert f"ropewalk extend {name}" in text
    recipe = load_recipe(name)
    assert isinstance(recipe.stages[0], SearchStage)


def test_what_ships():
    assert set(shipped_recipes()) == {
        "any-model-8x", "llama2-7b-2048k", "mistral-7b-2048k", "scale-model-512x", "scale-model-quick",
    }  # fmt: skip
    assert not any(isinstance(stage, FinetuneStage) for stage in load_recipe("any-model-8x").stages)


def test_a_name_that_is_none_suggests_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match="'scale-model-quick'"):
        load_recipe("scale-modle-quick")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(str(tmp_path / "binary.yaml"))


@pytest.mark.parametrize(("name", "length"), [("llama2-7b-2048k", 131072), ("mistral-7b-2048k", 16384)])
def test_the_paper_s_numbers(name, length):
    recipe = load_recipe(name)
    recipe = recipe.resolved(recipe.model.original_length)
    tunings = [stage for stage in recipe.stages if isinstance(stage, FinetuneStage)]
    assert [(stage.num_steps, stage.length) for stage in tunings] == [
        (400, length),
        (600, 2 * length if length > 16384 else length),
    ]
    settings = recipe.finetune_settings(tunings[0])
    batch = {"llama2-7b-2048k": (32, 2e-5, "linear"), "mistral-7b-2048k": (64, 1e-6, "constant")}[name]
    assert (settings.batch_size, settings.learning_rate, settings.schedule) == batch
    searches = [stage for stage in recipe.stages if isinstance(stage, SearchStage)]
    assert [stage.length for stage in searches] == [128 * 1024, 256 * 1024, 2048 * 1024]
    chosen = searches[0].settings
    assert (chosen.num_evaluations, chosen.start_tokens, chosen.space) == (1344, "search", "full")
    assert recipe.stages[6].lengths == (4096, 8192)


def test_the_way_to_512x():
    recipe = load_recipe("scale-model-512x", window=256).resolved(256)
    last = [stage for stage in recipe.stages if isinstance(stage, SearchStage)][-1]
    assert (last.length, last.num_documents, last.num_validation_documents, last.budget) == (131072, 2, 1, 3)
    assert wilson(27, 30)[0] >= recipe.accept.passkey[0].at_least > wilson(26, 30)[0]


@pytest.mark.parametrize(
    "line",
    [
        "search: {budget: 99999999999}", "search: {seed: 99999999999999999999}",
        "search: {num_knots: 99999999999}",
        "text: {num_documents: 99999999999}", "search: {attention_factor: 1.0e+308}",
        "search: {strategy: evolution, strategy_settings: {population_size: many}}",
        "search: {strategy: evolution, strategy_settings: {population_size: {a: 1}}}",
        "search: {strategy: evolution, strategy_settings: {population_size: 99999999999}}",
        "search: {strategy: gradient, strategy_settings: {learning_rate: [1]}}",
    ],
)  # fmt: skip
def test_numbers_beyond_all_limits_are_one_line(line):
    text = f"model: {{name: x}}\n{line}\nstages:\n  - {{kind: search, length: 8x}}\n"
    with pytest.raises(RecipeError) as error:
        parse_recipe(read_yaml(text, "mine.yaml"), window=4096)
    assert len(error.value.lines) >= 1
    assert all("\n" not in line for line in error.value.lines)


@pytest.mark.parametrize("setting", ["num_steps", "batch_size", "seed", "warmup_steps", "save_every"])
def test_numbers_of_a_training_beyond_all_limits_are_refused(setting):
    text = (
        "model: {name: x}\ndata: {sources: [{name: a, text: b}]}\nstages:\n  - {kind: search, length: 8x}\n"
    )
    stage = {"kind": "finetune", "length": "4x", "num_steps": 1, setting: 10**60}
    with pytest.raises(RecipeError, match=setting):
        parse_recipe(read_yaml(f"{text}  - {json.dumps(stage)}\n", "mine.yaml"), window=4096)


@pytest.mark.parametrize("length", ["9" * 400, "9" * 64, "99999999999", f'"{"9" * 5000}x"', "1e30"])
def test_a_length_beyond_all_windows_is_refused(length):
    text = f"model: {{name: x}}\nstages:\n  - {{kind: search, length: {length}}}\n"
    with pytest.raises(RecipeError):
        parse_recipe(read_yaml(text, "mine.yaml"), window=4096)
