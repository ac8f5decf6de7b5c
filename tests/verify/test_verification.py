"""`verify` passes what is right and catches every planted fault, with the real transformers."""

import json
import sys

import pytest
import torch
from probing import InProcess
from transformers import StableLmConfig, StableLmForCausalLM

from ropewalk.errors import EngineError, ExportError, MissingEngineError, RopewalkError
from ropewalk.export import Served
from ropewalk.export.hf import HfChoices, export_hf
from ropewalk.export.manifest import read_folded, read_mode
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.testing.planted_faults import faults
from ropewalk.verify.base_models import base_folder
from ropewalk.verify.comparison import FLOAT32, Limits
from ropewalk.verify.engines import EngineAnswer, EngineRequest
from ropewalk.verify.engines.probes import ProbedEngine
from ropewalk.verify.engines.transformers import PYTHON_OF_4, transformers_4_engine, transformers_engine
from ropewalk.verify.export_config import check_configuration
from ropewalk.verify.verification import Question, _read, default_lengths, turns_otherwise, verify


@pytest.fixture(scope="module")
def engine():
    return InProcess()


@pytest.fixture
def partial_folder(tiny_tokenizer, tmp_path):
    """A model that turns half of each head."""
    config = StableLmConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=64, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        StableLmForCausalLM(config).save_pretrained(tmp_path / "partial")
    tiny_tokenizer.save_pretrained(tmp_path / "partial")
    return tmp_path / "partial"


def factor_set_of(loaded, mode):
    """Factors whose attention factor no engine computes, so that losing it shows."""
    long = scheme_factors("yarn", loaded.geometry, 4 * loaded.geometry.original_length)
    long = long.replace(attention_factor=1.1)
    if mode == "pinned":
        return FactorSet.of([long])
    short = scheme_factors("ntk:factor=1.5", loaded.geometry, loaded.geometry.original_length)
    return FactorSet.of([short.replace(attention_factor=1.1), long])


def verified(folder, source, factor_set, engine, tmp_path, lengths=None, limits=FLOAT32):
    loaded = load_model(source)
    base = tmp_path / f"base-{folder.name}"
    base.mkdir()
    folded = read_folded(folder)
    question = Question.about(
        folder, str(base_folder(str(source), base)), factor_set, mode=read_mode(folder),
        folded_for=None if folded is None else folded[1], limits=limits,
    )  # fmt: skip
    ids = torch.randint(258, (256,), generator=torch.Generator().manual_seed(1)).tolist()
    return verify(question, loaded, engine, ids, lengths or default_lengths(question.served))


def exported(source, tmp_path, needs):
    mode = "switching" if needs == "switching" else "pinned"
    factor_set = factor_set_of(load_model(source), mode)
    choices = HfChoices(mode=mode, fold_attention_factor=needs == "folded")
    export_hf(str(source), factor_set, tmp_path / "out", choices=choices)
    return tmp_path / "out", factor_set


@pytest.mark.parametrize("needs", ["", "switching", "folded"])
def test_what_is_right_passes(tiny_model_folder, tmp_path, engine, needs):
    folder, factor_set = exported(tiny_model_folder, tmp_path, needs)
    verification = verified(folder, tiny_model_folder, factor_set, engine, tmp_path)
    assert verification.is_right, [check for check in verification.checks if not check.is_right]
    looked_at = {check.what for check in verification.checks}
    assert {"frequencies", "attention factor", "logits", "nats a token", "config.json"} <= looked_at
    assert {check.length for check in verification.checks} >= {16, 64, 65, 128, 256}


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.name)
def test_every_planted_fault_is_caught(tiny_model_folder, partial_folder, tmp_path, engine, fault):
    source = partial_folder if fault.needs == "partial" else tiny_model_folder
    folder, factor_set = exported(source, tmp_path, fault.needs)
    fault.plant(folder)
    verification = verified(folder, source, factor_set, engine, tmp_path)
    assert not verification.is_right


ENGINE_SEES = {
    "factors dropped", "theta lost", "attention factor missing", "attention factor applied twice",
    "pairs in reverse order", "factors multiply instead of dividing", "sets swapped",
    "long set in both lists", "threshold one token early", "threshold one token late", "partial rotary lost",
    "attention factor folded twice", "another model's weights",
}  # fmt: skip


@pytest.mark.parametrize(
    "fault", [fault for fault in faults() if fault.name in ENGINE_SEES], ids=lambda fault: fault.name
)
def test_logits_and_perplexity_alone_catch_them(tiny_model_folder, partial_folder, tmp_path, engine, fault):
    """For engines that show no frequencies, and files that hold no configuration of ours."""
    source = partial_folder if fault.needs == "partial" else tiny_model_folder
    folder, factor_set = exported(source, tmp_path, fault.needs)
    fault.plant(folder)
    verification = verified(folder, source, factor_set, engine, tmp_path)
    wrong = {check.what for check in verification.checks if not check.is_right}
    assert wrong & {"logits", "nats a token", "engine"}


class ToTheLastBit(InProcess):
    """An engine that adds up in our own order, as transformers does on some processors."""

    def __init__(self, source, factors):
        self.loaded, self.factors = load_model(source), factors

    def ask(self, request):
        loaded, (sequence,) = self.loaded, request.sequences
        with loaded.using(None if request.path == loaded.name else self.factors):
            read = _read(loaded, torch.tensor([sequence]))
        return EngineAnswer(
            engine=self.name, version="", logits=[read.logits], nats=[read.nats],
            inv_freq=[None], attention_factors=[None],
        )  # fmt: skip


@pytest.mark.parametrize("to_the_last_bit", [False, True])
def test_a_check_that_wrong_factors_would_pass_is_a_failure(
    tiny_model_folder, tmp_path, engine, to_the_last_bit
):
    """At four tokens nearly any factors give nearly these logits."""
    loaded = load_model(tiny_model_folder)
    almost_plain = scheme_factors("pi:factor=1.000001", loaded.geometry, 256)
    factor_set = FactorSet.of([almost_plain])
    export_hf(str(tiny_model_folder), factor_set, tmp_path / "out")
    if to_the_last_bit:
        engine = ToTheLastBit(tiny_model_folder, almost_plain)
    verification = verified(tmp_path / "out", tiny_model_folder, factor_set, engine, tmp_path, lengths=[4])
    wrong = {check.what for check in verification.checks if not check.is_right}
    assert wrong == {"no factors would be noticed"}


def test_factors_that_float32_can_not_tell_apart_are_no_other_factors(tiny_model_folder):
    """What was computed on another machine may differ in the last bits."""
    one = scheme_factors("yarn:factor=4", load_model(tiny_model_folder).geometry, 256)

    def changed(by):
        return one.replace(rescale_factors=(tuple(by * x for x in one.rescale_factors[0]),))

    assert not turns_otherwise(changed(1 + 1e-15), one)
    assert not turns_otherwise(one.replace(attention_factor=one.attention_factor * (1 + 1e-15)), one)
    assert turns_otherwise(changed(1 + 1e-5), one)
    assert turns_otherwise(one.replace(attention_factor=one.attention_factor * (1 + 1e-5)), one)
    assert turns_otherwise(one.replace(num_start_tokens=1), one)


@pytest.mark.parametrize(("served", "told"), [("right", "yes"), ("no factors", "no")])
def test_wrong_factors_are_noticed_token_by_token_where_means_agree(
    tiny_model_folder, tmp_path, engine, served, told
):
    """Of quantised files means alone are judged, and over a long text those of two sets may be alike."""
    right = scheme_factors("yarn:factor=4", load_model(tiny_model_folder).geometry, 256)
    plain = right.replace(rescale_factors=((1.0,) * len(right.rescale_factors[0]),), attention_factor=1.0)
    export_hf(str(tiny_model_folder), FactorSet.of([right if served == "right" else plain]), tmp_path / "out")
    blind = Limits(logits=None, nats=10.0)
    verification = verified(
        tmp_path / "out", tiny_model_folder, FactorSet.of([right]), engine, tmp_path, limits=blind
    )
    found = {check.what: check.found for check in verification.checks}
    assert found["no factors would be noticed"] == told
    assert verification.is_right == (told == "yes")


@pytest.mark.parametrize("value", [10**400, "8.0", [8.0], None, True, {}, float("nan")])
def test_a_configuration_of_another_type_is_wrong(tiny_model_folder, tmp_path, value):
    folder, factor_set = exported(tiny_model_folder, tmp_path, "")
    config = json.loads((folder / "config.json").read_text())
    config["rope_scaling"]["factor"] = value
    (folder / "config.json").write_text(json.dumps(config))
    assert not check_configuration(folder, Served.of(factor_set, "pinned")).is_right


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[" * 100_000),
        ("config.json", "[]"),
        ("ropewalk.json", "[" * 100_000),
        *(
            ("ropewalk.json", {"folded": folded})
            for folded in (1, [], {"ours": 1}, {"ours": "x", "engine": 1}, {"ours": 10**400, "engine": 1})
        ),
    ],
)
def test_what_an_export_says_in_no_known_form_is_one_line(tiny_model_folder, tmp_path, name, content):
    folder, factor_set = exported(tiny_model_folder, tmp_path, "")
    if isinstance(content, dict):
        content = json.dumps({**json.loads((folder / name).read_text()), **content})
    (folder / name).write_text(content)
    with pytest.raises(RopewalkError) as raised:
        read_folded(folder)
        check_configuration(folder, Served.of(factor_set, "pinned"))
    assert "\n" not in str(raised.value)


def test_the_real_program_in_its_own_process(tiny_model_folder, tmp_path):
    engine = transformers_engine()
    request = EngineRequest(path=str(tiny_model_folder), sequences=((3, 4, 5),), num_last=2)
    answer = engine.ask(request)
    assert answer.version == engine.version() == __import__("transformers").__version__
    assert answer.logits[0].shape == (2, 258)
    assert answer.nats[0].shape == (2,)
    (tiny_model_folder / "config.json").write_text("{}")
    with pytest.raises(EngineError, match="transformers could not do it"):
        engine.ask(request)


def test_a_missing_engine_says_how_to_install_it(tmp_path, monkeypatch):
    script = tmp_path / "probe.py"
    script.write_text("import sys; sys.exit(3)")
    engine = ProbedEngine(name="vllm", install_hint="pip install vllm", script=script, python=sys.executable)
    with pytest.raises(MissingEngineError, match="install it by `pip install vllm`"):
        engine.version()
    with pytest.raises(MissingEngineError, match="can't be run"):
        ProbedEngine(name="vllm", install_hint="", script=script, python=str(tmp_path / "none")).version()
    monkeypatch.delenv(PYTHON_OF_4, raising=False)
    with pytest.raises(MissingEngineError, match="make transformers4"):
        transformers_4_engine()
    with pytest.raises(MissingEngineError, match="but version 4 was asked for"):
        transformers_4_engine(sys.executable)


class ReadsOnly(InProcess):
    """An engine that fails at every other path."""

    def __init__(self, *paths):
        super().__init__()
        self.paths = paths

    def ask(self, request):
        if request.path not in self.paths:
            raise EngineError("FP8 needs a package that is not here")
        return super().ask(request)


def test_an_engine_that_reads_neither_says_nothing_about_the_export(tiny_model_folder, tmp_path):
    folder, factor_set = exported(tiny_model_folder, tmp_path, "")
    with pytest.raises(EngineError, match=r"untouched model.*FP8"):
        verified(folder, tiny_model_folder, factor_set, ReadsOnly(), tmp_path)


def test_an_engine_that_reads_all_but_the_export_finds_it_wrong(tiny_model_folder, tmp_path):
    folder, factor_set = exported(tiny_model_folder, tmp_path, "")
    engine = ReadsOnly(str(tmp_path / "base-out"))
    verification = verified(folder, tiny_model_folder, factor_set, engine, tmp_path)
    assert [check.what for check in verification.checks if not check.is_right] == ["engine"]


@pytest.mark.parametrize(
    "written",
    [
        "",
        "open(folder + '/answer.json', 'w').write('{')",
        "open(folder + '/answer.json', 'w').write('[]')",
        "open(folder + '/answer.json', 'w').write('{}'); open(folder + '/answer.safetensors', 'w').write('')",
    ],
)
def test_a_probe_that_writes_no_answer_is_one_line(tmp_path, written):
    script = tmp_path / "probe.py"
    script.write_text(f"import sys; folder = sys.argv[-1]\n{written}")
    engine = ProbedEngine(name="vllm", install_hint="", script=script, python=sys.executable)
    with pytest.raises(EngineError, match="answer"):
        engine.ask(EngineRequest(path=str(tmp_path), sequences=((3, 4),), num_last=2))


@pytest.mark.parametrize("said", ["", "hello", "Usage:\nnone"])
def test_a_program_that_tells_no_version_is_no_engine(tmp_path, said):
    script = tmp_path / "probe.py"
    script.write_text(f"print({said!r})")
    engine = ProbedEngine(name="vllm", install_hint="", script=script, python=sys.executable)
    with pytest.raises(MissingEngineError, match="version"):
        engine.version()


def test_an_engine_that_is_ended_from_outside_is_no_mismatch(tmp_path):
    script = tmp_path / "probe.py"
    script.write_text("import os; os.kill(os.getpid(), 9)")
    engine = ProbedEngine(name="vllm", install_hint="", script=script, python=sys.executable)
    with pytest.raises(ExportError, match="ended by signal 9") as raised:
        engine.version()
    assert not isinstance(raised.value, EngineError)


@pytest.mark.engine("transformers4")
@pytest.mark.parametrize("needs", ["", "switching"])
def test_transformers_4_computes_the_same(tiny_model_folder, tmp_path, needs):
    folder, factor_set = exported(tiny_model_folder, tmp_path, needs)
    verification = verified(folder, tiny_model_folder, factor_set, transformers_4_engine(), tmp_path)
    assert verification.version.startswith("4.")
    assert verification.is_right, [check for check in verification.checks if not check.is_right]
