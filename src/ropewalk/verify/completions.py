"""A running server that answers OpenAI's `POST /v1/completions`: what it is asked, and what its answer says.

vLLM, llama.cpp's `llama-server` and llama-cpp-python's server do, in three forms. OpenAI's own is the second;
SGLang is taken to answer so (its source was not read):

    vLLM               "tokens": ["token_id:318", ...]       ids, since they are asked for
    llama-cpp-python   "tokens": [" is", ...]                texts
    llama-server       "content": [{"id": 318, "token": " is", ...}, ...]

A reply in another form, or with more tokens than were asked for, is one line that never shows the key.
`server.py` bounds its bytes and its time.
"""

import asyncio
import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ropewalk.errors import EngineError, ExportError
from ropewalk.verify.http import RefusedError, Server

NUM_LIKELIEST = 5  # as many as every server gives
# Entries of a reply's lists. Servers add the chosen token to the likeliest, or show as many as they like.
MOST_LIKELIEST, MOST_TOKENS, MOST_MODELS = 20, 1000, 10_000
NUM_SPARE = 32  # tokens beyond a prompt's, to find one among that is cut into the same tokens anew
SECONDS = 600.0
KEY_VARIABLE = "OPENAI_API_KEY"
NUM_SHOWN = 5  # models in a message
LOCKED = (401, 403)  # HTTP statuses: who asks is not let in
UNREADABLE = (400, 422, *range(500, 600))  # the request can't be read, or the server fails at it

Token = int | str  # an id, or the text of one where a server shows no ids
Reply = TypeVar("Reply", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a server is asked to go on with.

    Attributes:
        ids: as our tokenizer has it.
        text: what it cuts into just these, for a server that takes no ids; None if there is no such text.
    """

    ids: tuple[int, ...]
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One token of an answer.

    Attributes:
        chosen: the token.
        likeliest: log-probability (nats) of the likeliest tokens at its place, not always with the chosen.
    """

    chosen: Token
    likeliest: dict[Token, float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server said to one prompt.

    Attributes:
        num_prompt: tokens that it read, by its own count; None if it does not tell.
        steps: the tokens that it went on with; fewer than asked for where the text ended.
    """

    num_prompt: int | None
    steps: tuple[Step, ...]


class Endpoint:
    """A server of completions; it is shown the key that OPENAI_API_KEY holds, if any.

    Args:
        url: with or without `/v1`.
        name: of the model there; by default the only one that it serves.
        timeout_s: how long an answer may take.

    Raises:
        SettingError: no URL.
        ExportError: no server there, or not this model.
    """

    def __init__(self, url: str, name: str | None = None, *, timeout_s: float = SECONDS) -> None:
        self._server = Server(url, (os.environ.get(KEY_VARIABLE) or "").strip() or None, timeout_s)
        self.url = self._server.url
        try:
            listed = self._read(_Models, asyncio.run(self._server.exchange("GET", "/models")))
        except RefusedError as error:
            if error.status not in LOCKED:
                raise
            raise ExportError(f"{error}. Does {KEY_VARIABLE} hold its key?") from None
        models = [model.id for model in listed.data]
        self.name = name or (models[0] if len(models) == 1 else "")
        if self.name not in models:
            raise ExportError(f"{self.url} serves {_enumerated(models)}: name one of them by --served-model.")
        self._takes_ids = True

    def complete(self, prompt: Prompt, num_tokens: int) -> Answer:
        """Go on with a prompt by the likeliest tokens.

        By its ids; if the server refuses those, by its text, then and ever after.

        Raises:
            EngineError: the server refuses, fails, answers in an unknown form or beyond a limit, or shows no
                log-probabilities.
        """
        return asyncio.run(self._complete(prompt, num_tokens))

    def complete_together(self, prompts: Sequence[Prompt], num_tokens: int) -> list[Answer]:
        """The same of several prompts, all sent at once in this order."""

        async def together() -> list[Answer]:
            return await asyncio.gather(*(self._complete(prompt, num_tokens) for prompt in prompts))

        return asyncio.run(together())

    async def _complete(self, prompt: Prompt, num_tokens: int) -> Answer:
        reply = await self._ask(prompt, num_tokens)
        shown = reply.choices[0].logprobs
        steps = None if shown is None else shown.steps()
        if steps is None:
            raise EngineError(
                f"{self.url} shows no log-probabilities: start it so that it does (llama-cpp-python: "
                f"--logits_all true)."
            )
        if len(steps) > num_tokens:
            raise EngineError(
                f"{self.url} does not answer as it should: it goes on with {len(steps)} tokens where "
                f"{num_tokens} were asked for."
            )
        return Answer(num_prompt=None if reply.usage is None else reply.usage.prompt_tokens, steps=steps)

    async def _ask(self, prompt: Prompt, num_tokens: int) -> "_Completion":
        if self._takes_ids:
            try:
                return await self._post(list(prompt.ids), num_tokens)
            except RefusedError as error:
                if error.status not in UNREADABLE or prompt.text is None:
                    raise
                self._takes_ids = False  # some take text alone
        if prompt.text is None:
            raise EngineError(
                f"{self.url} takes text alone, and no piece of the text has {len(prompt.ids)} tokens "
                f"when read anew: give another --text."
            )
        return await self._post(prompt.text, num_tokens)

    async def _post(self, prompt: list[int] | str, num_tokens: int) -> "_Completion":
        asked = {
            "model": self.name, "prompt": prompt, "max_tokens": num_tokens, "temperature": 0,
            "logprobs": NUM_LIKELIEST,
            "return_tokens_as_token_ids": True,  # vLLM
            "ignore_eos": True,  # vLLM, llama-server
            # A prompt that was asked before is to be read anew, not taken out of a cache.
            "cache_salt": uuid.uuid4().hex,  # vLLM
            "cache_prompt": False,  # llama-server
        }  # fmt: skip
        return self._read(_Completion, await self._server.exchange("POST", "/completions", asked))

    def _read(self, form: type[Reply], body: bytes) -> Reply:
        try:
            return form.model_validate_json(body)
        except ValidationError as error:
            raise EngineError(
                f"{self.url} does not answer as it should: its reply is not in a form of OpenAI's; "
                f"{self._server.redacted(_place(error))}."
            ) from None


def make_prompt(tokenizer: Any, ids: Sequence[int], length: int) -> Prompt:
    """So many tokens, special ones included, and a text that is cut into just these when it is read anew.

    Args:
        ids: of a text of at least `length` tokens, better NUM_SPARE more: a piece near its beginning is
            taken. If none is such a text, the prompt has none.
    """
    num_special = len(tokenizer("").input_ids)
    taken = length - num_special
    for offset in range(min(NUM_SPARE, len(ids) - taken) + 1):
        text = tokenizer.decode(ids[offset : offset + taken], skip_special_tokens=True)
        found = tokenizer(text).input_ids
        if len(found) == length:
            return Prompt(ids=tuple(found), text=text)
    return Prompt(ids=tuple(ids[:length]))


# ---------------------------------------------------------------- replies


class _Strict(BaseModel):
    """No text stands for a number. What is not named here is left unread."""

    model_config = ConfigDict(strict=True)


class _Model(_Strict):
    id: str = Field(max_length=500)


class _Models(_Strict):
    data: list[_Model] = Field(max_length=MOST_MODELS)


class _Likely(_Strict):
    """A token as llama-server shows it."""

    id: int
    logprob: float


class _Place(_Likely):
    top_logprobs: list[_Likely] = Field(max_length=MOST_LIKELIEST)


_Likeliest = Annotated[dict[str, float], Field(max_length=MOST_LIKELIEST)]


class _Shown(_Strict):
    """Log-probabilities, as a completion has them or as llama-server does."""

    tokens: list[str] | None = Field(None, max_length=MOST_TOKENS)
    top_logprobs: list[_Likeliest] | None = Field(None, max_length=MOST_TOKENS)
    content: list[_Place] | None = Field(None, max_length=MOST_TOKENS)

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        shown = self.tokens, self.top_logprobs
        if None not in shown and len(shown[0] or ()) != len(shown[1] or ()):
            raise ValueError("tokens and top_logprobs are not as many")
        return self

    def steps(self) -> tuple[Step, ...] | None:
        """None if they are not there."""
        if self.content is not None:
            return tuple(
                Step(chosen=place.id, likeliest={likely.id: likely.logprob for likely in place.top_logprobs})
                for place in self.content
            )
        if self.tokens is None or self.top_logprobs is None:
            return None
        return tuple(
            Step(chosen=_token(name), likeliest={_token(other): value for other, value in likeliest.items()})
            for name, likeliest in zip(self.tokens, self.top_logprobs, strict=True)
        )


class _Choice(_Strict):
    logprobs: _Shown | None = None


class _Usage(_Strict):
    prompt_tokens: int = Field(ge=0, lt=2**31)


class _Completion(_Strict):
    choices: list[_Choice] = Field(min_length=1, max_length=MOST_LIKELIEST)
    usage: _Usage | None = None


def _token(name: str) -> Token:
    """vLLM's `token_id:318` is an id; anything else is a text."""
    found = re.fullmatch(r"token_id:([0-9]{1,9})", name)
    return int(found.group(1)) if found else name


def _enumerated(models: Sequence[str]) -> str:
    shown = ", ".join(map(repr, models[:NUM_SHOWN])) or "no model"
    return f"{shown} and {len(models) - NUM_SHOWN} more" if len(models) > NUM_SHOWN else shown


def _place(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "all of it"
    return f"{where}: {first['msg']}"
