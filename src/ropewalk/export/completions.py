"""A running server that answers OpenAI's `POST /v1/completions`: what it is asked, and what its answer says.

vLLM, llama.cpp's `llama-server` and llama-cpp-python's server do, in three forms. OpenAI's own is the second;
SGLang is taken to answer so (its source was not read):

    vLLM               "tokens": ["token_id:318", ...]       ids, since they are asked for
    llama-cpp-python   "tokens": [" is", ...]                texts
    llama-server       "content": [{"id": 318, "token": " is", ...}, ...]

A reply in another form, and whatever else goes wrong, is one line that never shows the key.
"""

import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from ropewalk.errors import EngineError, ExportError, MissingEngineError

NUM_LIKELIEST = 5  # as many as every server gives
NUM_SPARE = 32  # tokens beyond a prompt's, to find one among that is cut into the same tokens anew
SECONDS = 600.0
KEY_VARIABLE = "OPENAI_API_KEY"

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
    """A server, through OpenAI's own client.

    The key is what OPENAI_API_KEY holds, if anything.

    Args:
        url: with or without `/v1`.
        name: of the model there; by default the only one that it serves.
        timeout_s: how long an answer may take.

    Raises:
        MissingEngineError: the client is not installed.
        ExportError: no server there, or not this model.
    """

    def __init__(self, url: str, name: str | None = None, *, timeout_s: float = SECONDS) -> None:
        try:
            import openai  # noqa: PLC0415 (an extra)
        except ImportError:
            raise MissingEngineError(
                "The client for OpenAI-compatible servers is not installed: install it by "
                "`pip install 'ropewalk[endpoint]'`."
            ) from None
        base = url.rstrip("/")
        self._asked_at = base if base.endswith("/v1") else f"{base}/v1"
        self.url = re.sub(r"//[^/@]*@", "//", self._asked_at)  # as it is shown: without a password
        self._errors = openai.OpenAIError
        self._refused = (openai.BadRequestError, openai.UnprocessableEntityError, openai.InternalServerError)
        self._key = os.environ.get(KEY_VARIABLE) or "none"
        self._takes_ids = True
        keys = (openai.AuthenticationError, openai.PermissionDeniedError)
        try:
            self._client = openai.OpenAI(
                base_url=self._asked_at, api_key=self._key, timeout=timeout_s, max_retries=0
            )
            listed = _Models.model_validate_json(self._client.models.with_raw_response.list().text)
        except (self._errors, ValidationError, ValueError) as error:
            hint = f"does {KEY_VARIABLE} hold its key?" if isinstance(error, keys) else "is the server up?"
            raise ExportError(f"{self.url} lists no models ({self._said(error)}): {hint}") from None
        models = [model.id for model in listed.data]
        self.name = name or (models[0] if len(models) == 1 else "")
        if self.name not in models:
            raise ExportError(
                f"{self.url} serves {', '.join(map(repr, models)) or 'no model'}: name one of them by "
                f"--served-model."
            )

    def complete(self, prompt: Prompt, num_tokens: int) -> Answer:
        """Go on with a prompt by the likeliest tokens.

        By its ids; if the server refuses those, by its text, then and ever after.

        Raises:
            EngineError: the server refuses, fails, answers in an unknown form, or shows no log-probabilities.
        """
        reply = self._ask(prompt, num_tokens)
        shown = reply.choices[0].logprobs
        steps = None if shown is None else shown.steps()
        if steps is None:
            raise EngineError(
                f"{self.url} shows no log-probabilities: start it so that it does (llama-cpp-python: "
                f"--logits_all true)."
            )
        return Answer(num_prompt=None if reply.usage is None else reply.usage.prompt_tokens, steps=steps)

    def _ask(self, prompt: Prompt, num_tokens: int) -> "_Completion":
        try:
            if self._takes_ids:
                try:
                    return self._post(list(prompt.ids), num_tokens)
                except self._refused:
                    if prompt.text is None:
                        raise
                    self._takes_ids = False  # some take text alone
            if prompt.text is None:
                raise EngineError(
                    f"{self.url} takes text alone, and no piece of the text has {len(prompt.ids)} tokens "
                    f"when read anew: give another --text."
                )
            return self._post(prompt.text, num_tokens)
        except (self._errors, ValidationError) as error:
            raise EngineError(f"{self.url} does not answer as it should: {self._said(error)}") from None

    def _post(self, prompt: Any, num_tokens: int) -> "_Completion":
        reply = self._client.completions.with_raw_response.create(
            model=self.name, prompt=prompt, max_tokens=num_tokens, temperature=0, logprobs=NUM_LIKELIEST,
            extra_body={
                "return_tokens_as_token_ids": True,  # vLLM
                "ignore_eos": True,  # vLLM, llama-server
                # A prompt that was asked before is to be read anew, not taken out of a cache.
                "cache_salt": uuid.uuid4().hex,  # vLLM
                "cache_prompt": False,  # llama-server
            },
        )  # fmt: skip
        return _Completion.model_validate_json(reply.text)

    def _said(self, error: Exception) -> str:
        """In one line, and without the key, which some servers repeat."""
        if isinstance(error, ValidationError):
            return f"its reply is not in a form of OpenAI's; {_place(error)}"
        text = " ".join(str(error).split()) or type(error).__name__
        hidden = text if self._key == "none" else text.replace(self._key, "***")
        return hidden[:300]


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


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


class _Likely(BaseModel):
    """A token as llama-server shows it."""

    id: int
    logprob: float


class _Place(_Likely):
    top_logprobs: list[_Likely]


class _Shown(BaseModel):
    """Log-probabilities, as a completion has them or as llama-server does."""

    tokens: list[str] | None = None
    top_logprobs: list[dict[str, float]] | None = None
    content: list[_Place] | None = None

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
            for name, likeliest in zip(self.tokens, self.top_logprobs, strict=False)
        )


class _Choice(BaseModel):
    logprobs: _Shown | None = None


class _Usage(BaseModel):
    prompt_tokens: int


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def _token(name: str) -> Token:
    """vLLM's `token_id:318` is an id; anything else is a text."""
    found = re.fullmatch(r"token_id:(\d+)", name)
    return int(found.group(1)) if found else name


def _place(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "all of it"
    return f"{where}: {first['msg']}"
