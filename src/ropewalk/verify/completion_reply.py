"""The replies of a completions server, in three known forms, checked by pydantic.

    vLLM               "tokens": ["token_id:318", ...]       ids, because the request asks for them
    llama-cpp-python   "tokens": [" is", ...]                texts
    llama-server       "content": [{"id": 318, "token": " is", ...}, ...]

OpenAI's own form is the second. SGLang is assumed to use it; its source was not read.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# The most entries of a reply's lists. Servers add the chosen token to the likeliest, or send more of them.
MOST_LIKELIEST, MOST_TOKENS, MOST_MODELS = 20, 1000, 10_000

Token = int | str  # an id, or the text of a token if a server sends no ids


@dataclass(frozen=True, kw_only=True)
class CompletionToken:
    """One token of a completion.

    Attributes:
        chosen: the token.
        likeliest: log-probability, in nats, of the likeliest tokens at this place. `chosen` may be missing.
    """

    chosen: Token
    likeliest: dict[Token, float]


class _StrictModel(BaseModel):
    """A text is not accepted as a number. Unknown keys are ignored."""

    model_config = ConfigDict(strict=True)


class _Model(_StrictModel):
    id: str = Field(max_length=500)


class ModelsReply(_StrictModel):
    """The reply to `GET /models`."""

    data: list[_Model] = Field(max_length=MOST_MODELS)


class _LlamaServerToken(_StrictModel):
    id: int
    logprob: float


class _LlamaServerStep(_LlamaServerToken):
    top_logprobs: list[_LlamaServerToken] = Field(max_length=MOST_LIKELIEST)


_Likeliest = Annotated[dict[str, float], Field(max_length=MOST_LIKELIEST)]


class _LogProbabilities(_StrictModel):
    """OpenAI's form (`tokens` and `top_logprobs`), or llama-server's (`content`)."""

    tokens: list[str] | None = Field(None, max_length=MOST_TOKENS)
    top_logprobs: list[_Likeliest] | None = Field(None, max_length=MOST_TOKENS)
    content: list[_LlamaServerStep] | None = Field(None, max_length=MOST_TOKENS)

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        lists = self.tokens, self.top_logprobs
        if None not in lists and len(lists[0] or ()) != len(lists[1] or ()):
            raise ValueError("tokens and top_logprobs have different lengths")
        return self

    def steps(self) -> tuple[CompletionToken, ...] | None:
        """One step per token; None if the reply has no log-probabilities."""
        if self.content is not None:
            return tuple(
                CompletionToken(
                    chosen=step.id, likeliest={token.id: token.logprob for token in step.top_logprobs}
                )
                for step in self.content
            )
        if self.tokens is None or self.top_logprobs is None:
            return None
        return tuple(
            CompletionToken(
                chosen=_token(name), likeliest={_token(other): value for other, value in likeliest.items()}
            )
            for name, likeliest in zip(self.tokens, self.top_logprobs, strict=True)
        )


class _Choice(_StrictModel):
    logprobs: _LogProbabilities | None = None


class _Usage(_StrictModel):
    prompt_tokens: int = Field(ge=0, lt=2**31)


class CompletionReply(_StrictModel):
    """The reply to `POST /completions`."""

    choices: list[_Choice] = Field(min_length=1, max_length=MOST_LIKELIEST)
    usage: _Usage | None = None

    @property
    def num_prompt(self) -> int | None:
        """The number of tokens of the prompt, as the server counts them; None if the reply has no count."""
        return None if self.usage is None else self.usage.prompt_tokens

    def steps(self) -> tuple[CompletionToken, ...] | None:
        """One step per token of the completion; None if the reply has no log-probabilities."""
        log_probabilities = self.choices[0].logprobs
        return None if log_probabilities is None else log_probabilities.steps()


def first_mistake(error: ValidationError) -> str:
    """Where a reply differs from its form, and how, without the reply's content."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "all of it"
    return f"{where}: {first['msg']}"


def _token(name: str) -> Token:
    """The id of vLLM's `token_id:318`; any other name is a text."""
    found = re.fullmatch(r"token_id:([0-9]{1,9})", name)
    return int(found.group(1)) if found else name
