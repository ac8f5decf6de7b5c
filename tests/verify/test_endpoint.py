"""A running server is right, or its fault is named: a small server of our own, and llama.cpp's real one."""

import base64
import dataclasses
import gzip
import json
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from completions_server import CompletionsServer, http_reply, raw_server
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from tiny import make_tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from ropewalk.errors import EngineError, ExportError, RopewalkError, SettingError
from ropewalk.export import Served
from ropewalk.export.gguf.export import export_gguf, write_base_gguf
from ropewalk.export.gguf.file import StoredTensor, read_gguf, write_gguf
from ropewalk.export.hf import export_hf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model import load_model
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.tokens import token_documents
from ropewalk.verify.base_models import may_be_rounded
from ropewalk.verify.completions import Endpoint, Prompt, make_prompt
from ropewalk.verify.endpoint import LIMIT, NUM_TOKENS, _check_nearer, deciding_context, verify_endpoint
from ropewalk.verify.verification import turns_otherwise, wrong_sets

PYTHON = "ROPEWALK_LLAMA_CPP_PYTHON"
TEXT = "def tab(x): return 12 + x  # and more of it, line by line\n" * 20
LENGTHS = [20, 64, 65, 200]


@pytest.fixture
def loaded(tiny_model_folder):
    return load_model(tiny_model_folder)


@pytest.fixture
def served(loaded):
    """The window is 64."""
    long = scheme_factors("yarn", loaded.geometry, 256).replace(attention_factor=1.1)
    short = scheme_factors("ntk:factor=1.5", loaded.geometry, 64).replace(attention_factor=1.1)
    return Served.of(FactorSet.of([short, long]), "switching")


@pytest.fixture
def prompts(loaded):
    return prompts_of(loaded)


def prompts_of(loaded):
    ids = loaded.tokenizer(TEXT, add_special_tokens=False).input_ids
    return [make_prompt(loaded.tokenizer, ids, length) for length in LENGTHS]


def failed(verification):
    return sorted({check.what for check in verification.checks if not check.is_right})


def verified(loaded, served, prompts, factors, fault="", context=256, on_step=None, limit=LIMIT, **how):
    with CompletionsServer(loaded.name, factors, fault, **how).running() as url:
        return verify_endpoint(
            "export", served, context, loaded, Endpoint(url), prompts, limit=limit, on_step=on_step
        )


@pytest.mark.parametrize(
    ("fault", "form"), [("", "texts"), ("", "ids"), ("", "content"), ("takes text alone", "texts")]
)
def test_a_right_server_is_right(loaded, served, prompts, fault, form):
    verification = verified(loaded, served, prompts, served.long, fault, form=form)
    assert failed(verification) == []
    assert [check.length for check in verification.checks if check.length] == LENGTHS * 2
    assert max(check.found for check in verification.checks if check.length) < 1e-4
    assert [check.what for check in verification.checks if not check.length] == [
        "nearer than the computed attention factor",
        *(f"{name} would be noticed" for name in ("no factors", "the other set", "pairs in reverse")),
    ]


def test_what_it_is_asked(loaded, served, prompts):
    server = CompletionsServer(loaded.name, served.long)
    with server.running() as url:
        verify_endpoint("export", served, 256, loaded, Endpoint(url), prompts)
    assert [asked["prompt"] for asked in server.asked[:4]] == [list(prompt.ids) for prompt in prompts]
    assert sorted(len(asked["prompt"]) for asked in server.asked[4:]) == LENGTHS
    assert {(asked["max_tokens"], asked["temperature"]) for asked in server.asked} == {(NUM_TOKENS, 0)}
    assert all(asked["return_tokens_as_token_ids"] and asked["ignore_eos"] for asked in server.asked)
    assert len({asked["cache_salt"] for asked in server.asked}) == len(server.asked)


def test_a_server_that_was_started_for_short_texts_turns_by_the_short_set(loaded, served, prompts):
    assert failed(verified(loaded, served, prompts[:1], served.short, context=64)) == []
    assert "log-probabilities" in failed(verified(loaded, served, prompts[:1], served.long, context=64))


def test_every_wrong_set_is_noticed(loaded, served, prompts):
    for name, factors in wrong_sets(served, served.long, is_long=True).items():
        assert failed(verified(loaded, served, prompts, factors)) == [
            "log-probabilities",
            f"{name} would be noticed",
        ]


@pytest.mark.parametrize("attention_factor", [1.1, None])
def test_what_only_the_plugin_holds_is_missed_below_any_limit(loaded, prompts, attention_factor):
    """Started without the plugin, a server differs by less than bfloat16 does."""
    computed = longrope_attention_factor(4, 64)
    right = scheme_factors("yarn", loaded.geometry, 256).replace(
        num_start_tokens=4, attention_factor=attention_factor or computed
    )
    without = {
        "no n-hat": right.replace(num_start_tokens=0),
        "the computed attention factor": right.replace(attention_factor=computed),
    }
    served = Served.of(FactorSet.of([right]), "pinned")
    with_it = verified(loaded, served, prompts, right, limit=10.0)
    assert {check.what for check in with_it.checks if "nearer" in check.what and check.is_right} == {
        f"nearer than {name}" for name, factors in without.items() if turns_otherwise(factors, right)
    }
    for name, factors in without.items():
        if turns_otherwise(factors, right):
            found = failed(verified(loaded, served, prompts, factors, limit=10.0))
            assert f"nearer than {name}" in found
            assert "log-probabilities" not in found


@pytest.mark.parametrize(
    ("right", "rival", "is_right"),
    [(0.1, 0.05, False), (0.1, 0.095, True), (1e-8, 0.0, True), (0.0, 0.0, True), (1e-3, 0.0, False)],
)
def test_nobody_is_nearer_by_less_than_rounding(right, rival, is_right):
    check = _check_nearer("no n-hat", [right], [rival])
    assert check is not None
    assert check.is_right == is_right


@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("minds its neighbours", "among others"),
        ("goes wrong after its first token", "log-probabilities"),  # a cache that crosses to other factors
    ],
)
def test_a_server_whose_answers_change(loaded, served, prompts, fault, wrong):
    assert failed(verified(loaded, served, prompts, served.long, fault)) == [wrong]


@pytest.mark.parametrize("fault", ["takes the other of two among others", "ends early among others"])
def test_another_choice_is_no_other_answer(loaded, served, prompts, fault):
    """What a server chooses of two that are as likely is its own affair; what follows is not compared."""
    assert failed(verified(loaded, served, prompts, served.long, fault)) == []


def test_a_server_whose_tokens_are_not_ours(loaded, served, prompts):
    found = verified(loaded, served, prompts, served.long, form="marks")
    assert failed(found) == ["log-probabilities"]
    assert all(check.found == float("inf") for check in found.checks if check.what == "log-probabilities")


def test_answers_that_are_no_numbers_are_wrong(loaded, served, prompts):
    found = verified(loaded, served, prompts, served.long, "has lost its mind")
    assert failed(found) == ["among others", "log-probabilities"]


@pytest.mark.parametrize(
    ("fault", "lengths", "said"),
    [
        ("puts a BOS first", [20, 64, 65, 200], "puts a BOS before the text"),
        ("leaves out the BOS", [19, 63, 64, 199], "leaves out the BOS"),
    ],
)
def test_a_bos_more_or_less_is_told_and_taken_into_account(loaded, served, prompts, fault, lengths, said):
    if fault == "puts a BOS first":
        prompts = [Prompt(ids=prompt.ids[1:]) for prompt in prompts]  # a tokenizer that opens with none
    story = []
    verification = verified(loaded, served, prompts, served.long, fault, on_step=story.append)
    assert failed(verification) == []
    assert [check.length for check in verification.checks if check.length] == lengths * 2
    assert any(said in line for line in story)


@pytest.mark.parametrize(
    ("fault", "context", "said"),
    [
        ("cuts prompts", 256, "reads 32 tokens where the checkpoint's tokenizer has 64"),
        ("shows nothing", 256, "shows no log-probabilities"),
        ("says nothing of use", 256, "not in a form of OpenAI's; all of it: Invalid JSON"),
        ("", 100, "maximum context length is 100 tokens"),
    ],
)
def test_what_a_server_can_not_be_asked_is_one_line(loaded, served, prompts, fault, context, said):
    with CompletionsServer(loaded.name, served.long, fault, context=context).running() as url:
        endpoint = Endpoint(url)
        with pytest.raises(EngineError, match=said) as raised:
            verify_endpoint("export", served, 256, loaded, endpoint, prompts[1:])
    assert "\n" not in str(raised.value)


def test_a_server_that_takes_text_alone_and_a_prompt_that_has_none(loaded, served, prompts):
    prompt = make_prompt(loaded.tokenizer, [0] * 50, 50)
    assert prompt == Prompt(ids=(0,) * 50)
    with CompletionsServer(loaded.name, served.long, "takes text alone").running() as url:
        endpoint = Endpoint(url)
        with pytest.raises(EngineError, match="prompt must be a string"):
            endpoint.complete(prompt, 1)
        endpoint.complete(prompts[0], 1)
        with pytest.raises(EngineError, match="takes text alone, and no piece of the text has 50 tokens"):
            endpoint.complete(prompt, 1)


def test_a_server_that_does_not_answer_in_time(loaded, served, prompts):
    with CompletionsServer(loaded.name, served.long, "sleeps").running() as url:
        endpoint = Endpoint(url, timeout_s=0.2)
        with pytest.raises(EngineError, match="timed out"):
            endpoint.complete(prompts[0], 1)


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
BOMB = gzip.compress(b" " * 10**7)


@pytest.mark.parametrize(
    ("pieces", "how", "said"),
    [
        ((HEAD, CHUNK), {"repeat": True}, "MiB"),
        ((HEAD, b"1\r\n \r\n"), {"repeat": True, "pause": 0.02}, "timed out"),
        ((b"HTTP/1.1 200 OK\r\n", b"X: "), {"repeat": True, "pause": 0.02}, "timed out"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n",), {"repeat": True, "pause": 0.02}, "timed out"),
        ((b"", b""), {"repeat": True, "pause": 0.02}, "timed out"),
        ((http_reply(BOMB, "Content-Encoding: gzip"),), {}, "compresses"),
        ((http_reply(BOMB, "Content-Encoding: br, gzip"),), {}, "compresses"),
        ((http_reply(b"", "Location: http://127.0.0.1:9/", status="307 There"),), {}, "not followed"),
        ((http_reply(b"", "Location: \x00http://[", status="302 There"),), {}, "http"),
        ((http_reply(b"", status="301 There"),), {}, "301"),
        ((http_reply(b"{}")[:-1],), {}, "closed"),
        ((b"SSH-2.0-OpenSSH_9.6\r\n",), {}, "can't be asked"),
        ((b"\x15\x03\x03\x00\x02\x02\x50",), {}, "can't be asked"),
        ((), {}, "can't be asked"),
        ((http_reply(b"no", "X: " + "x" * 10**6),), {}, "can't be asked"),
        ((http_reply(b"", status="204 No Content"),), {}, "form"),
        ((http_reply(b"<html>", "Content-Type: text/html; charset=zlib_codec", status="503 No"),), {}, "503"),
        ((http_reply(b"\xff\xfe", "Set-Cookie: \xff;;=;expires=9e99"),), {}, "form"),
    ],
)  # fmt: skip
def test_a_reply_beyond_a_limit_is_one_line(pieces, how, said):
    began = time.monotonic()
    with raw_server(*pieces, **how) as url, pytest.raises(EngineError, match=said) as raised:
        Endpoint(url, timeout_s=0.5 if "timed" in said else 30.0)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600
    assert time.monotonic() - began < 25


def test_no_other_host_is_asked(loaded, served):
    other = CompletionsServer(loaded.name, served.long)
    with other.running() as there:
        reply = http_reply(b"", f"Location: {there}/v1/models", status="308 There")
        with raw_server(reply) as url, pytest.raises(EngineError, match="not followed"):
            Endpoint(url)
    assert other.keys == set()


def completion(logprobs, **more):
    return json.dumps({"choices": [{"text": "", "logprobs": logprobs}], **more})


def shown(*, tokens=1, places=1, value=-1.0, likeliest=1):
    return {
        "tokens": ["a"] * tokens,
        "top_logprobs": [{f"{number}": value for number in range(likeliest)}] * places,
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (completion(shown(tokens=100_000, places=100_000)), "100000"),
        (completion(shown(tokens=9, places=9)), "9 tokens where 8"),
        (completion({"content": [{"id": 3, "logprob": -1.0, "top_logprobs": []}] * 9}), "9 tokens where 8"),
        (completion(shown(tokens=2)), "as many"),
        (completion(shown(likeliest=1000)), "20 items"),
        (completion(shown(value="-1.0")), "number"),
        (completion(shown(value=True)), "number"),
        (completion(shown(value=None)), "number"),
        (completion(shown(value=[])), "number"),
        (completion({"content": [{"id": "3", "logprob": -1.0, "top_logprobs": []}]}), "integer"),
        (completion({"content": [{"id": 3.5, "logprob": -1.0, "top_logprobs": []}]}), "integer"),
        (completion(shown(), usage={"prompt_tokens": "20"}), "integer"),
        (completion(shown(), usage={"prompt_tokens": -1}), "greater"),
        (completion(shown(), usage={"prompt_tokens": 10**400}), "prompt_tokens"),
        (completion([]), "logprobs"),
        ('{"choices": []}', "choices"),
        ("[" * 100_000, "recursion"),
        ('{"choices": ' + "9" * 100_000 + "}", "form"),
        ("", "form"),
        ("null", "form"),
        ('{"choices": [{"logprobs": {"tokens": ["\\ud800"]}}]}', "form"),
    ],
)
def test_a_reply_is_checked_before_it_is_used(body, said):
    with raw_server(http_reply(body.encode()), lists_models=True) as url:
        endpoint = Endpoint(url)
        with pytest.raises(EngineError, match=said) as raised:
            endpoint.complete(Prompt(ids=(3, 4, 5)), NUM_TOKENS)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


def test_many_models_are_not_all_enumerated():
    listed = json.dumps({"data": [{"id": f"model-{number}"} for number in range(1000)]}).encode()
    with raw_server(http_reply(listed)) as url, pytest.raises(ExportError, match="995 more") as raised:
        Endpoint(url)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "localhost:8000", "ftp://127.0.0.1", "file:///etc/passwd", "http://", "http:///v1",
        "http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:0", "http://127.0.0.1:port",
        "http://127.0.0.1:-1", "http://127.0.0.1/" + "a" * 5000,
        "http://a b/", "http://a\nb", "http://\u202eab/", "http://" + "a" * 70_000,
        "http://..", "http://a\\@b/", "http://\udcff/", "http://xn--a-ecp.ru-\u00ad.\u00ad", "http://*[",
        "http://me:pa/ss@127.0.0.1:9", "http://me:12/34@127.0.0.1:9", "http://me:pa?ss@127.0.0.1:9",
        "http://me:pa#ss@127.0.0.1:9", "http://me:pa ss@127.0.0.1:9",
    ],
)  # fmt: skip
def test_what_is_no_url_is_one_line(url):
    with pytest.raises(RopewalkError) as raised:
        Endpoint(url, timeout_s=5.0)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600
    assert "ss@" not in str(raised.value)
    assert "34@" not in str(raised.value)


SECRET = "p@ss:word"


@pytest.mark.parametrize("repeated", ["{url}", "{password}", "{encoded}", "{basic}", "{query}"])
def test_no_message_shows_a_password(repeated):
    """Whatever of it the server repeats."""
    forms = {
        "url": f"http://me:{SECRET}@127.0.0.1/?api_key=k3y-k3y", "password": SECRET,
        "encoded": quote(SECRET, safe=""), "basic": base64.b64encode(f"me:{SECRET}".encode()).decode(),
        "query": "k3y-k3y",
    }  # fmt: skip
    reply = http_reply(repeated.format(**forms).encode(), status="404 No")
    with raw_server(reply) as url, pytest.raises(EngineError) as raised:
        Endpoint(url.replace("//", f"//me:{SECRET}@") + "/?api_key=k3y-k3y")
    said = str(raised.value)
    assert "127.0.0.1" in said
    assert not [form for form in forms.values() if form in said]


def test_a_password_and_a_query_reach_the_server(loaded, served, prompts):
    server = CompletionsServer(loaded.name, served.long)
    with server.running() as url:
        endpoint = Endpoint(url.replace("//", "//me:p%40ss@") + "/?api_key=k3y")
        endpoint.complete(prompts[0], 1)
    assert server.keys == {"Basic " + base64.b64encode(b"me:p@ss").decode()}
    assert server.queries == {"api_key=k3y"}
    assert "k3y" not in repr(endpoint.url)


@pytest.mark.parametrize("key", ["sk-\nsecret", "sk-schlüssel", "sk secret"])
def test_a_key_that_http_can_not_carry_is_not_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(SettingError, match="key") as raised:
        Endpoint("http://127.0.0.1:9")
    assert "secret" not in str(raised.value)


def test_a_proxy_that_can_not_be_used_is_one_line(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "gopher://me:secret@proxy:70")
    with pytest.raises(EngineError, match="HTTP_PROXY") as raised:
        Endpoint("http://example.invalid")
    assert "secret" not in str(raised.value)


def test_who_is_not_there_or_lets_nobody_in(loaded, served, monkeypatch):
    with pytest.raises(ExportError, match=r"http://127.0.0.1:9/v1 .* is the server up"):
        Endpoint("http://me:password@127.0.0.1:9")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    with (
        CompletionsServer(loaded.name, served.long, "wants a key").running() as url,
        pytest.raises(ExportError, match=r"no such key: Bearer \*\*\*.*OPENAI_API_KEY"),
    ):
        Endpoint(url)
    server = CompletionsServer(loaded.name, served.long)
    with server.running() as url:
        assert Endpoint(url + "/v1/").name == "tiny"
        with pytest.raises(ExportError, match="serves 'tiny': name one of them by --served-model"):
            Endpoint(url, "other")
    assert server.keys == {"Bearer sk-secret-123"}


def test_prompts_have_the_length_asked_for_when_they_are_read_anew(loaded, prompts):
    assert [len(prompt.ids) for prompt in prompts] == LENGTHS
    assert all(tuple(loaded.tokenizer(prompt.text).input_ids) == prompt.ids for prompt in prompts)


@pytest.fixture
def spaced(tmp_path):
    """A model whose tokenizer drops the space of a word that opens a text, as SentencePiece does."""
    letters = "abcdefghij"
    pieces = ["<s>", "</s>", *letters, "▁", *(f"▁{letter}" for letter in letters)]
    tokenizer = Tokenizer(
        tokenizer_models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=[("▁", letter) for letter in letters],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    make_tiny_model(fast).save_pretrained(tmp_path / "spaced")
    fast.save_pretrained(tmp_path / "spaced")
    return load_model(tmp_path / "spaced")


@pytest.mark.parametrize("form", ["texts", "pieces"])
def test_texts_that_stand_for_two_tokens(spaced, form):
    """`a` is the token of ` a`, shown alone, and that of `a` within a word."""
    assert spaced.tokenizer.decode([13]) == spaced.tokenizer.decode([2]) == "a"
    long = scheme_factors("yarn", spaced.geometry, 256).replace(attention_factor=1.1)
    served = Served.of(FactorSet.of([long]), "pinned")
    ids = spaced.tokenizer("a bc def ghij abcdefghij ab cd " * 20).input_ids
    prompts = [make_prompt(spaced.tokenizer, ids, length) for length in LENGTHS]
    right = verified(spaced, served, prompts, long, form=form)
    assert failed(right) == []
    assert max(check.found for check in right.checks if check.length) < 1e-4
    # By name nearly the same as by id: a letter within a word may also be taken for one that opens a word.
    wrong = [
        [check.found for check in found.checks if check.what == "log-probabilities"]
        for found in (
            verified(spaced, served, prompts, long, "goes wrong after its first token", form=how)
            for how in (form, "ids")
        )
    ]
    assert wrong[0] == pytest.approx(wrong[1], rel=0.1 if form == "pieces" else 0.5)
    assert min(wrong[0]) > LIMIT


@pytest.mark.parametrize(("stated", "is_coarse"), [("float16", False), ("float32", True), ("bfloat16", True)])
def test_a_server_s_precision_follows_from_the_folder(loaded, tmp_path, stated, is_coarse):
    factor_set = FactorSet.of([scheme_factors("yarn", loaded.geometry, 256)])
    export_hf(loaded.name, factor_set, tmp_path / "out")
    config = tmp_path / "out" / "config.json"
    text = config.read_text()
    assert '"float32"' in text
    config.write_text(text.replace('"float32"', f'"{stated}"'))
    assert may_be_rounded(tmp_path / "out") == is_coarse
    config.write_text(text.replace('"float32"', '"float16", "quantization_config": {"quant_method": "fp8"}'))
    assert may_be_rounded(tmp_path / "out")
    assert deciding_context(tmp_path / "out", 257) == 257


def test_llama_cpp_computes_what_a_gguf_file_holds_and_rounds_its_context_up(tmp_path):
    write_base_gguf("scale-model", tmp_path / "base.gguf")
    assert not may_be_rounded(tmp_path / "base.gguf")
    content = read_gguf(tmp_path / "base.gguf")
    weights = next(tensor for tensor in content.tensors if len(tensor.shape) == 2)
    packed = quantize(weights.read(), GGMLQuantizationType.Q8_0)
    coarse = StoredTensor(
        name=weights.name, tensor_type=GGMLQuantizationType.Q8_0, shape=packed.shape, dtype=packed.dtype,
        read=lambda: packed,
    )  # fmt: skip
    others = tuple(tensor for tensor in content.tensors if tensor is not weights)
    write_gguf(dataclasses.replace(content, tensors=(coarse, *others)), tmp_path / "coarse.gguf")
    assert may_be_rounded(tmp_path / "coarse.gguf")
    assert [deciding_context(tmp_path / "base.gguf", n) for n in (64, 256, 257)] == [256, 256, 512]


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
            return verify_endpoint(file, served, context, loaded, Endpoint(url), asked)

    right = verified_by("right.gguf", 2048, prompts)
    assert failed(right) == []
    assert max(check.found for check in right.checks if check.length) < LIMIT / 4
    assert failed(verified_by("right.gguf", 256, prompts[:2])) == []
    assert failed(verified_by("wrong.gguf", 2048, prompts)) == [
        "log-probabilities",
        "no factors would be noticed",
    ]
