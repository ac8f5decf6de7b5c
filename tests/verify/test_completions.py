"""The client of a completions server: requests, replies in an unknown form, models and keys."""

import json

import pytest
from completions_server import CompletionsServer, http_reply, raw_server
from verified_servers import LENGTHS

from ropewalk.errors import EngineError, ExportError
from ropewalk.verify.completions import CompletionsClient, Prompt, make_prompt
from ropewalk.verify.endpoint import NUM_TOKENS


def test_a_server_that_takes_only_text_and_a_prompt_without_text(loaded, served, prompts):
    prompt = make_prompt(loaded.tokenizer, [0] * 50, 50)
    assert prompt == Prompt(ids=(0,) * 50)
    with CompletionsServer(loaded.name, served.long, "takes only text").running() as url:
        endpoint = CompletionsClient(url)
        with pytest.raises(EngineError, match="prompt must be a string"):
            endpoint.complete(prompt, 1)
        endpoint.complete(prompts[0], 1)
        with pytest.raises(EngineError, match="50 tokens"):
            endpoint.complete(prompt, 1)


def completion(logprobs, **more):
    return json.dumps({"choices": [{"text": "", "logprobs": logprobs}], **more})


def shown(*, tokens=1, places=1, value=-1.0, likeliest=1):
    return {
        "tokens": ["a"] * tokens,
        "top_logprobs": [{f"{number}": value for number in range(likeliest)}] * places,
    }


@pytest.mark.parametrize(
    ("body", "noun"),
    [
        (completion(shown(tokens=100_000, places=100_000)), "100000"),
        (completion(shown(tokens=9, places=9)), "9 tokens"),
        (completion({"content": [{"id": 3, "logprob": -1.0, "top_logprobs": []}] * 9}), "9 tokens"),
        (completion(shown(tokens=2)), "lengths"),
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
def test_a_reply_is_checked_before_it_is_used(body, noun):
    with raw_server(http_reply(body.encode()), lists_models=True) as url:
        endpoint = CompletionsClient(url)
        with pytest.raises(EngineError, match=noun) as raised:
            endpoint.complete(Prompt(ids=(3, 4, 5)), NUM_TOKENS)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


def test_at_most_five_models_are_listed():
    listed = json.dumps({"data": [{"id": f"model-{number}"} for number in range(1000)]}).encode()
    with raw_server(http_reply(listed)) as url, pytest.raises(ExportError, match="995 more") as raised:
        CompletionsClient(url)
    assert len(str(raised.value)) < 600


def test_a_server_that_is_not_running_or_needs_a_key(loaded, served, monkeypatch):
    with pytest.raises(ExportError, match=r"http://127.0.0.1:9/v1 "):
        CompletionsClient("http://me:password@127.0.0.1:9")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    with (
        CompletionsServer(loaded.name, served.long, "wants a key").running() as url,
        pytest.raises(ExportError, match=r"Bearer \*\*\*.*OPENAI_API_KEY"),
    ):
        CompletionsClient(url)
    server = CompletionsServer(loaded.name, served.long)
    with server.running() as url:
        assert CompletionsClient(url + "/v1/").name == "tiny"
        with pytest.raises(ExportError, match="tiny"):
            CompletionsClient(url, "other")
    assert server.keys == {"Bearer sk-secret-123"}


def test_prompts_have_the_requested_length_when_they_are_tokenised_again(loaded, prompts):
    assert [len(prompt.ids) for prompt in prompts] == LENGTHS
    assert all(tuple(loaded.tokenizer(prompt.text).input_ids) == prompt.ids for prompt in prompts)
