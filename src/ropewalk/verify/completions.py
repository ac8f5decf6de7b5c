"""A client of a running server with OpenAI's `POST /v1/completions`: vLLM, SGLang, llama.cpp.

A reply in an unknown form (`completion_reply`), or with more tokens than requested, is an error of one line
that never shows the key. `http.py` limits the bytes and the time of a reply.
"""

import asyncio
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ropewalk.errors import EngineError, ExportError
from ropewalk.verify.completion_reply import CompletionReply, CompletionToken, ModelsReply, first_mistake
from ropewalk.verify.http import HttpClient, RefusedError

NUM_LIKELIEST = 5  # the number of likeliest tokens that every server sends
NUM_SPARE = 32  # tokens beyond a prompt's, for finding a piece that is tokenised into the same tokens again
SECONDS = 600.0
KEY_VARIABLE = "OPENAI_API_KEY"
NUM_SHOWN = 5  # models in a message
UNAUTHORISED = (401, 403)  # HTTP statuses
UNREADABLE = (400, 422, *range(500, 600))  # HTTP statuses: the server can't read the request, or fails at it

Reply = TypeVar("Reply", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text that a server continues.

    Attributes:
        ids: its tokens, by the checkpoint's tokenizer.
        text: a text with exactly these tokens, for a server that takes no ids; None if there is none.
    """

    ids: tuple[int, ...]
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A server's answer to one prompt.

    Attributes:
        num_prompt: tokens of the prompt, as the server counts them; None if unknown.
        steps: the tokens that it added; fewer than requested if the text ended.
    """

    num_prompt: int | None
    steps: tuple[CompletionToken, ...]


class CompletionsClient:
    """A client of one model on one server. Sends the key in OPENAI_API_KEY, if there is one.

    Args:
        url: with or without `/v1`.
        name: the model's name on the server; by default its only model.
        timeout_s: the longest time of one reply, in seconds.

    Raises:
        SettingError: not a URL.
        ExportError: there is no server, or it does not serve this model.
    """

    def __init__(self, url: str, name: str | None = None, *, timeout_s: float = SECONDS) -> None:
        self._http = HttpClient(url, (os.environ.get(KEY_VARIABLE) or "").strip() or None, timeout_s)
        self.url = self._http.url
        try:
            listed = self._parse(ModelsReply, asyncio.run(self._http.exchange("GET", "/models")))
        except RefusedError as error:
            if error.status not in UNAUTHORISED:
                raise
            raise ExportError(f"{error}. Set its key as {KEY_VARIABLE}.") from None
        models = [model.id for model in listed.data]
        self.name = name or (models[0] if len(models) == 1 else "")
        if self.name not in models:
            raise ExportError(f"{self.url} serves {_enumerated(models)}: name one of them by --served-model.")
        self._takes_ids = True

    def complete(self, prompt: Prompt, num_tokens: int) -> Completion:
        """Continue a prompt with the likeliest tokens.

        Sends the prompt's ids. If the server refuses ids, sends texts from then on.

        Raises:
            EngineError: the server refuses or fails, its reply has an unknown form, is beyond a limit, or has
                no log-probabilities.
        """
        return asyncio.run(self._complete(prompt, num_tokens))

    def complete_in_parallel(self, prompts: Sequence[Prompt], num_tokens: int) -> list[Completion]:
        """Continue several prompts, all sent at once in this order.

        Raises:
            EngineError: as `complete`.
        """

        async def complete_all() -> list[Completion]:
            return await asyncio.gather(*(self._complete(prompt, num_tokens) for prompt in prompts))

        return asyncio.run(complete_all())

    async def _complete(self, prompt: Prompt, num_tokens: int) -> Completion:
        reply = await self._request(prompt, num_tokens)
        steps = reply.steps()
        if steps is None:
            raise EngineError(
                f"{self.url} sends no log-probabilities: start it so that it does (llama-cpp-python: "
                f"--logits_all true)."
            )
        if len(steps) > num_tokens:
            raise EngineError(
                f"{self.url} sends {len(steps)} tokens where {num_tokens} were requested: give the URL of "
                f"a server with OpenAI's interface."
            )
        return Completion(num_prompt=reply.num_prompt, steps=steps)

    async def _request(self, prompt: Prompt, num_tokens: int) -> CompletionReply:
        if self._takes_ids:
            try:
                return await self._post(list(prompt.ids), num_tokens)
            except RefusedError as error:
                if error.status not in UNREADABLE or prompt.text is None:
                    raise
                self._takes_ids = False  # some servers take only text
        if prompt.text is None:
            raise EngineError(
                f"{self.url} takes only text, but no piece of the text is tokenised into the same "
                f"{len(prompt.ids)} tokens again: give another --text."
            )
        return await self._post(prompt.text, num_tokens)

    async def _post(self, prompt: list[int] | str, num_tokens: int) -> CompletionReply:
        request = {
            "model": self.name, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0,
            "logprobs": NUM_LIKELIEST,
            "return_tokens_as_token_ids": True,  # vLLM
            "ignore_eos": True,  # vLLM, llama-server
            # The server must compute a repeated prompt again instead of using its cache.
            "cache_salt": uuid.uuid4().hex,  # vLLM
            "cache_prompt": False,  # llama-server
        }  # fmt: skip
        return self._parse(CompletionReply, await self._http.exchange("POST", "/completions", request))

    def _parse(self, form: type[Reply], body: bytes) -> Reply:
        try:
            return form.model_validate_json(body)
        except ValidationError as error:
            raise EngineError(
                f"{self.url} sends a reply that is not in a form of OpenAI's interface "
                f"({self._http.redacted(first_mistake(error))}): give the URL of a server that has one."
            ) from None


def make_prompt(tokenizer: Any, ids: Sequence[int], length: int) -> Prompt:
    """A piece of a text with `length` tokens, special tokens included, and a text of exactly these tokens.

    Args:
        ids: the text, at least `length` tokens. With NUM_SPARE more, a piece near its beginning is searched
            whose text has the same tokens again. If there is none, the prompt has no text.
    """
    num_special = len(tokenizer("").input_ids)
    num_text = length - num_special
    for offset in range(min(NUM_SPARE, len(ids) - num_text) + 1):
        text = tokenizer.decode(ids[offset : offset + num_text], skip_special_tokens=True)
        found = tokenizer(text).input_ids
        if len(found) == length:
            return Prompt(ids=tuple(found), text=text)
    return Prompt(ids=tuple(ids[:length]))


def _enumerated(models: Sequence[str]) -> str:
    shown = ", ".join(map(repr, models[:NUM_SHOWN])) or "no model"
    return f"{shown} and {len(models) - NUM_SHOWN} more" if len(models) > NUM_SHOWN else shown
