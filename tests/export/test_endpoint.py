"""A running server is right, or its fault is named: a small server of our own, and llama.cpp's real one."""

import json
import os
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from ropewalk.errors import EngineError, ExportError, SettingError
from ropewalk.export import Served
from ropewalk.export.endpoint import Endpoint, make_prompt, verify_endpoint
from ropewalk.export.gguf import export_gguf, write_base_gguf
from ropewalk.export.verify import wrong_sets
from ropewalk.factor_set import FactorSet
from ropewalk.models.load import load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.tokens import token_documents

PYTHON = "ROPEWALK_LLAMA_CPP_PYTHON"
TEXT = "def tab(x): return 12 + x  # and more of it, line by line\n" * 20


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
    ids = loaded.tokenizer(TEXT).input_ids
    return [make_prompt(loaded.tokenizer, ids, length) for length in (20, 64, 65, 200)]


class Server:
    """A completions server over one model; what it does wrong is set by name."""

    def __init__(self, loaded, factors, fault=""):
        self.loaded, self.factors, self.fault = loaded, factors, fault
        self.lock, self.num_inside, self.keys = threading.Lock(), 0, set()

    def answer(self, asked):
        prompt, tokenizer = asked["prompt"], self.loaded.tokenizer
        if isinstance(prompt, str):
            prompt = tokenizer(prompt).input_ids
        elif self.fault == "takes text alone":
            return 500, {"error": "prompt must be a string"}
        if self.fault == "cuts prompts":
            prompt = prompt[-32:]
        factors = self.factors
        if self.fault == "minds its neighbours" and self.num_inside > 1:
            factors = factors.replace(attention_factor=1.0)
        with self.lock, self.loaded.installed(factors), torch.no_grad():
            logits = self.loaded.model(torch.tensor([prompt])).logits[0, -1]
        found = logits.double().log_softmax(-1).topk(asked["logprobs"])
        shown = {
            tokenizer.decode([number]): value
            for number, value in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        }
        first = next(iter(shown))
        told = {
            "tokens": [first], "token_logprobs": [shown[first]], "text_offset": [0], "top_logprobs": [shown],
        }  # fmt: skip
        choice = {
            "index": 0, "finish_reason": "length", "text": first,
            "logprobs": None if self.fault == "shows nothing" else told,
        }  # fmt: skip
        usage = {"prompt_tokens": len(prompt), "completion_tokens": 1, "total_tokens": len(prompt) + 1}
        return 200, {
            "id": "1", "object": "text_completion", "created": 0, "model": "tiny", "choices": [choice],
            "usage": usage,
        }  # fmt: skip

    @contextmanager
    def running(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def reply(self, code, content):
                body = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                outer.keys.add(self.headers["Authorization"])
                if outer.fault == "wants a key":
                    self.reply(401, {"error": {"message": "no such key"}})
                else:
                    models = [{"id": "tiny", "object": "model", "created": 0, "owned_by": "us"}]
                    self.reply(200, {"object": "list", "data": models})

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.num_inside += 1
                if outer.fault == "minds its neighbours":
                    time.sleep(0.3)
                self.reply(*outer.answer(asked))
                outer.num_inside -= 1

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


def failed(verification):
    return sorted({check.what for check in verification.checks if not check.is_right})


def verified(loaded, served, prompts, factors, fault="", context=256):
    # A model of its own: threads of the server install factors while ours are compared.
    server = Server(load_model(loaded.name), factors, fault)
    with server.running() as url:
        return verify_endpoint("export", served, context, loaded, Endpoint(url), prompts)


@pytest.mark.parametrize("fault", ["", "takes text alone"])
def test_a_right_server_is_right(loaded, served, prompts, fault):
    verification = verified(loaded, served, prompts, served.long, fault)
    assert failed(verification) == []
    assert [check.length for check in verification.checks if check.length] == [20, 64, 65, 200] * 2
    assert max(check.found for check in verification.checks if check.length) < 1e-4
    assert [check.what for check in verification.checks if not check.length] == [
        f"{name} would be noticed" for name in ("no factors", "the other set", "pairs in reverse")
    ]


def test_a_server_that_was_started_for_short_texts_turns_by_the_short_set(loaded, served, prompts):
    assert failed(verified(loaded, served, prompts[:1], served.short, context=64)) == []
    assert "log-probabilities" in failed(verified(loaded, served, prompts[:1], served.long, context=64))


def test_every_wrong_set_is_noticed(loaded, served, prompts):
    for name, factors in wrong_sets(served, served.long, is_long=True).items():
        assert failed(verified(loaded, served, prompts, factors)) == [
            "log-probabilities",
            f"{name} would be noticed",
        ]


def test_a_server_whose_answers_depend_on_other_requests(loaded, served, prompts):
    assert failed(verified(loaded, served, prompts, served.long, "minds its neighbours")) == ["among others"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("cuts prompts", "reads 32 tokens where the checkpoint's tokenizer has 64"),
        ("shows nothing", "shows no log-probabilities"),
    ],
)
def test_what_a_server_can_not_be_asked_is_one_line(loaded, served, prompts, fault, said):
    with pytest.raises(EngineError, match=said):
        verified(loaded, served, prompts[1:], served.long, fault)


def test_who_is_not_there_or_lets_nobody_in(loaded, served, monkeypatch):
    with pytest.raises(ExportError, match=r"http://127.0.0.1:9/v1 lists no models"):
        Endpoint("http://127.0.0.1:9")
    with (
        Server(loaded, served.long, "wants a key").running() as url,
        pytest.raises(ExportError, match="no such key"),
    ):
        Endpoint(url)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server = Server(loaded, served.long)
    with server.running() as url:
        assert Endpoint(url + "/v1/").name == "tiny"
        with pytest.raises(ExportError, match="serves 'tiny': name one of them by --served-model"):
            Endpoint(url, "other")
    assert server.keys == {"Bearer secret"}


def test_prompts_have_the_length_asked_for_when_they_are_read_anew(loaded, prompts):
    assert [len(prompt.ids) for prompt in prompts] == [20, 64, 65, 200]
    assert all(tuple(loaded.tokenizer(prompt.text).input_ids) == prompt.ids for prompt in prompts)
    with pytest.raises(SettingError, match="another --text"):
        make_prompt(loaded.tokenizer, [0] * 50, 50)


@contextmanager
def llama_cpp_server(model):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [os.environ[PYTHON], "-m", "llama_cpp.server", "--model", str(model), "--n_ctx", "2048"]
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


@pytest.mark.skipif(
    not os.environ.get(PYTHON), reason=f"{PYTHON} does not name a Python that has llama-cpp-python[server]"
)
def test_llama_cpp_s_own_server(tmp_path):
    loaded = load_model("scale-model")
    factor_set = FactorSet.of([scheme_factors("yarn", loaded.geometry, 2048)])
    served = Served.of(factor_set, "pinned")
    ids = token_documents("stdlib", loaded.tokenizer, length=2040, num_documents=1).documents[0].ids.tolist()
    prompts = [make_prompt(loaded.tokenizer, ids, length) for length in (100, 257, 2030)]
    export_gguf("scale-model", factor_set, tmp_path / "right.gguf")
    write_base_gguf("scale-model", tmp_path / "wrong.gguf")
    with llama_cpp_server(tmp_path / "right.gguf") as url:
        right = verify_endpoint("right.gguf", served, 2048, loaded, Endpoint(url), prompts)
    with llama_cpp_server(tmp_path / "wrong.gguf") as url:
        wrong = verify_endpoint("wrong.gguf", served, 2048, loaded, Endpoint(url), prompts)
    assert failed(right) == []
    assert failed(wrong) == ["log-probabilities", "no factors would be noticed"]
