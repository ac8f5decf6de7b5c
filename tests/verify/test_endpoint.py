"""A right server passes, and each fault of a server is named: a small server, and llama.cpp's real one."""

import os
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest
from completions_server import CompletionsServer
from verified_servers import LENGTHS, failed, verified_server

from ropewalk.errors import EngineError
from ropewalk.export import Served
from ropewalk.export.gguf.export import export_gguf, write_base_gguf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model import load_model
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.tokens import token_documents
from ropewalk.verify.completions import CompletionsClient, Prompt, make_prompt
from ropewalk.verify.endpoint import LIMIT, NUM_TOKENS, _check_nearer, verify_endpoint
from ropewalk.verify.wrong_factors import are_different, wrong_factors

PYTHON = "ROPEWALK_LLAMA_CPP_PYTHON"


@pytest.mark.parametrize(
    ("fault", "form"), [("", "texts"), ("", "ids"), ("", "content"), ("takes only text", "texts")]
)
def test_a_right_server_is_right(loaded, served, prompts, fault, form):
    verification = verified_server(loaded, served, prompts, served.long, fault, form=form)
    assert failed(verification) == []
    assert [check.length for check in verification.checks if check.length] == LENGTHS * 2
    assert max(check.found for check in verification.checks if check.length) < 1e-4
    assert [check.what for check in verification.checks if not check.length] == [
        "nearer than the computed attention factor",
        *(f"{name} would be noticed" for name in ("no factors", "the other set", "pairs in reverse")),
    ]


def test_its_requests(loaded, served, prompts):
    server = CompletionsServer(loaded.name, served.long)
    with server.running() as url:
        verify_endpoint("export", served, 256, loaded, CompletionsClient(url), prompts)
    assert [asked["prompt"] for asked in server.asked[:4]] == [list(prompt.ids) for prompt in prompts]
    assert sorted(len(asked["prompt"]) for asked in server.asked[4:]) == LENGTHS
    assert {(asked["max_tokens"], asked["temperature"]) for asked in server.asked} == {(NUM_TOKENS, 0)}
    assert all(asked["return_tokens_as_token_ids"] and asked["ignore_eos"] for asked in server.asked)
    assert len({asked["cache_salt"] for asked in server.asked}) == len(server.asked)


def test_a_server_started_for_the_window_uses_the_short_factors(loaded, served, prompts):
    assert failed(verified_server(loaded, served, prompts[:1], served.short, context=64)) == []
    assert "log-probabilities" in failed(
        verified_server(loaded, served, prompts[:1], served.long, context=64)
    )


def test_wrong_factors_are_detected(loaded, served, prompts):
    for name, factors in wrong_factors(served, served.long, is_long=True).items():
        assert failed(verified_server(loaded, served, prompts, factors)) == [
            "log-probabilities",
            f"{name} would be noticed",
        ]


@pytest.mark.parametrize("attention_factor", [1.1, None])
def test_factors_without_the_plugin_are_detected_below_any_limit(loaded, prompts, attention_factor):
    """Started without the plugin, a server differs by less than bfloat16 does."""
    computed = longrope_attention_factor(4, 64)
    right = scheme_factors("yarn", loaded.geometry, 256).replace(
        num_start_tokens=4, attention_factor=attention_factor or computed
    )
    without = {
        "no start tokens": right.replace(num_start_tokens=0),
        "the computed attention factor": right.replace(attention_factor=computed),
    }
    served = Served.of(FactorSet.of([right]), "pinned")
    with_it = verified_server(loaded, served, prompts, right, limit=10.0)
    assert {check.what for check in with_it.checks if "nearer" in check.what and check.is_right} == {
        f"nearer than {name}" for name, factors in without.items() if are_different(factors, right)
    }
    for name, factors in without.items():
        if are_different(factors, right):
            found = failed(verified_server(loaded, served, prompts, factors, limit=10.0))
            assert f"nearer than {name}" in found
            assert "log-probabilities" not in found


@pytest.mark.parametrize(
    ("right", "rival", "is_right"),
    [(0.1, 0.05, False), (0.1, 0.095, True), (1e-8, 0.0, True), (0.0, 0.0, True), (1e-3, 0.0, False)],
)
def test_a_difference_below_rounding_is_not_nearer(right, rival, is_right):
    check = _check_nearer("no start tokens", [right], [rival])
    assert check is not None
    assert check.is_right == is_right


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("depends on other requests", "in parallel"),
        ("goes wrong after its first token", "log-probabilities"),  # its cache has other factors
    ],
)
def test_a_server_whose_completions_change(loaded, served, prompts, fault, wrong):
    assert failed(verified_server(loaded, served, prompts, served.long, fault)) == [wrong]


@pytest.mark.parametrize("fault", ["chooses another token in parallel", "ends early in parallel"])
def test_another_choice_of_token_is_right(loaded, served, prompts, fault):
    """Of two equally likely tokens a server may choose either; the steps after it are not compared."""
    assert failed(verified_server(loaded, served, prompts, served.long, fault)) == []


def test_a_server_of_another_tokenizer(loaded, served, prompts):
    found = verified_server(loaded, served, prompts, served.long, form="marks")
    assert failed(found) == ["log-probabilities"]
    assert all(check.found == float("inf") for check in found.checks if check.what == "log-probabilities")


def test_log_probabilities_of_nan_are_wrong(loaded, served, prompts):
    found = verified_server(loaded, served, prompts, served.long, "sends NaN")
    assert failed(found) == ["in parallel", "log-probabilities"]


@pytest.mark.parametrize(
    ("fault", "lengths", "noun"),
    [
        ("puts a BOS first", [20, 64, 65, 200], "adds a BOS"),
        ("leaves out the BOS", [19, 63, 64, 199], "leaves out the BOS"),
    ],
)
def test_an_added_or_missing_bos_is_taken_into_account(loaded, served, prompts, fault, lengths, noun):
    if fault == "puts a BOS first":
        prompts = [Prompt(ids=prompt.ids[1:]) for prompt in prompts]  # as of a tokenizer without a BOS
    messages = []
    verification = verified_server(loaded, served, prompts, served.long, fault, on_progress=messages.append)
    assert failed(verification) == []
    assert [check.length for check in verification.checks if check.length] == lengths * 2
    assert any(noun in line for line in messages)


@pytest.mark.parametrize(
    ("fault", "context", "noun"),
    [
        ("cuts prompts", 256, "32 tokens"),
        ("sends no log-probabilities", 256, "log-probabilities"),
        ("sends HTML", 256, "form"),
        ("", 100, "maximum context length is 100 tokens"),
    ],
)
def test_a_server_that_can_not_be_compared_is_an_error_of_one_line(
    loaded, served, prompts, fault, context, noun
):
    with CompletionsServer(loaded.name, served.long, fault, context=context).running() as url:
        endpoint = CompletionsClient(url)
        with pytest.raises(EngineError, match=noun) as raised:
            verify_endpoint("export", served, 256, loaded, endpoint, prompts[1:])
    assert "\n" not in str(raised.value)


@contextmanager
def llama_cpp_server(model, context):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [os.environ[PYTHON], "-m", "llama_cpp.server", "--model", str(model), "--n_ctx", str(context)]
    command += ["--logits_all", "true", "--n_threads", "1", "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.mark.engine("llama-cpp")
def test_llama_cpp_s_own_server(tmp_path):
    loaded = load_model("scale-model")
    long = scheme_factors("yarn", loaded.geometry, 2048)
    short = scheme_factors("pi:factor=1.5", loaded.geometry, 256).replace(
        attention_factor=long.attention_factor
    )
    factor_set = FactorSet.of([short, long])
    served = Served.of(factor_set, "switching")
    ids = token_documents("stdlib", loaded.tokenizer, length=2040, num_documents=1).documents[0].ids.tolist()
    prompts = [make_prompt(loaded.tokenizer, ids, length) for length in (100, 248, 257, 2040)]
    export_gguf("scale-model", factor_set, tmp_path / "right.gguf", mode="switching")
    write_base_gguf("scale-model", tmp_path / "wrong.gguf")

    def verified_by(file, context, asked):
        with llama_cpp_server(tmp_path / file, context) as url:
            return verify_endpoint(file, served, context, loaded, CompletionsClient(url), asked)

    right = verified_by("right.gguf", 2048, prompts)
    assert failed(right) == []
    assert max(check.found for check in right.checks if check.length) < LIMIT / 4
    assert failed(verified_by("right.gguf", 256, prompts[:2])) == []
    assert failed(verified_by("wrong.gguf", 2048, prompts)) == [
        "log-probabilities",
        "no factors would be noticed",
    ]
