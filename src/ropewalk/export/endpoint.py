"""Whether a running server gives the answers that Ropewalk computes, alone and among other requests.

A server with OpenAI's completions interface (vLLM, SGLang, llama.cpp) shows no logits, but the likeliest next
tokens and their log-probabilities. For each length it is asked for those after a text of that many tokens,
and they are compared with ours under the factors that it should turn by; then all requests are sent at once,
and each answer must be what it was alone. Wrong factors must be told from the right ones, as in `verify`.

Tokens are compared by their text, as servers give it: those that stand for the same text count together, and
parts of a character, which have no text of their own, do not count. An answer of them alone says nothing.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from ropewalk.errors import EngineError, ExportError, MissingEngineError, SettingError
from ropewalk.evaluate.forward import Reader, evaluating
from ropewalk.export import Served
from ropewalk.export.verdict import Check, Verification
from ropewalk.export.verify import wrong_sets
from ropewalk.factors import RescaleFactors
from ropewalk.models.load import LoadedModel

NUM_LIKELIEST = 5  # as many as every server gives
LIMIT = 0.05  # nats: see `verify_endpoint`
NO_TEXT = "\N{REPLACEMENT CHARACTER}"
OFFSETS, SHORTER = 16, 8  # where, and how much shorter, a text of so many tokens is looked for
SECONDS = 600.0

Likeliest = dict[str, float]  # a token's text to its log-probability


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a server is asked to go on with.

    Attributes:
        ids: as our tokenizer has it.
        text: the same, for a server that takes no ids.
    """

    ids: tuple[int, ...]
    text: str


class Endpoint:
    """A server, through OpenAI's own client.

    Args:
        url: with or without `/v1`.
        name: of the model there; by default the only one that it serves.

    Raises:
        MissingEngineError: the client is not installed.
        ExportError: no server there, or not this model.
    """

    def __init__(self, url: str, name: str | None = None) -> None:
        try:
            import openai  # noqa: PLC0415 (an extra)
        except ImportError:
            raise MissingEngineError(
                "The client for OpenAI-compatible servers is not installed: install it by "
                "`pip install 'ropewalk[endpoint]'`."
            ) from None
        self.url = url if url.rstrip("/").endswith("/v1") else f"{url.rstrip('/')}/v1"
        self._errors = openai.OpenAIError
        self._refused = (openai.BadRequestError, openai.UnprocessableEntityError, openai.InternalServerError)
        key = os.environ.get("OPENAI_API_KEY") or "none"
        try:
            self._client = openai.OpenAI(base_url=self.url, api_key=key, timeout=SECONDS, max_retries=0)
            models = [model.id for model in self._client.models.list()]
        except (self._errors, ValueError) as error:
            raise ExportError(f"{self.url} lists no models ({_short(error)}): is the server up?") from None
        self.name = name or (models[0] if len(models) == 1 else "")
        if self.name not in models:
            raise ExportError(
                f"{self.url} serves {', '.join(map(repr, models)) or 'no model'}: name one of them by "
                f"--served-model."
            )
        self._takes_ids = True

    def likeliest(self, prompt: Prompt) -> Likeliest:
        """The likeliest next tokens.

        Raises:
            EngineError: the server refuses, fails or shows no log-probabilities, or reads other tokens.
        """
        reply = self._ask(prompt)
        shown = reply.choices[0].logprobs if reply.choices else None
        if shown is None or not shown.top_logprobs:
            raise EngineError(
                f"{self.url} shows no log-probabilities: start it so that it does (llama-cpp-python: "
                f"--logits_all true)."
            )
        counted = reply.usage.prompt_tokens if reply.usage is not None else len(prompt.ids)
        if counted != len(prompt.ids):
            raise EngineError(
                f"{self.url} reads {counted} tokens where the checkpoint's tokenizer has {len(prompt.ids)}: "
                f"it serves another tokenizer, or cuts prompts short."
            )
        return dict(shown.top_logprobs[0])

    def _ask(self, prompt: Prompt) -> Any:
        if self._takes_ids:
            try:
                return self._complete(list(prompt.ids))
            except self._refused:
                self._takes_ids = False  # some take text alone
            except self._errors as error:
                raise self._failed(error) from None
        try:
            return self._complete(prompt.text)
        except self._errors as error:
            raise self._failed(error) from None

    def _complete(self, prompt: Any) -> Any:
        return self._client.completions.create(
            model=self.name, prompt=prompt, max_tokens=1, temperature=0, logprobs=NUM_LIKELIEST
        )

    def _failed(self, error: Exception) -> EngineError:
        return EngineError(f"{self.url} does not answer as it should: {_short(error)}")


def make_prompt(tokenizer: Any, ids: Sequence[int], length: int) -> Prompt:
    """A text that has so many tokens, special ones included, also when it is cut into tokens anew.

    Args:
        ids: of a text of at least `length` tokens; a few less are taken where no piece of it fits.

    Raises:
        SettingError: no piece of it does.
    """
    num_special = len(tokenizer("").input_ids)
    for wanted in range(length, max(1, length - SHORTER), -1):
        taken = wanted - num_special
        for offset in range(min(OFFSETS, len(ids) - taken) + 1):
            text = tokenizer.decode(ids[offset : offset + taken], skip_special_tokens=True)
            found = tokenizer(text).input_ids
            if len(found) == wanted:
                return Prompt(ids=tuple(found), text=text)
    raise SettingError(f"No piece of the text has {length} tokens when it is read anew: give another --text.")


def verify_endpoint(
    path: str,
    served: Served,
    context: int,
    loaded: LoadedModel,
    endpoint: Endpoint,
    prompts: Sequence[Prompt],
    *,
    limit: float = LIMIT,
    on_step: Callable[[str], None] | None = None,
) -> Verification:
    """Compare a server's answers with ours.

    A check is the mean difference between the log-probabilities of a length's likeliest tokens. The limit is
    for servers that round, weights or cache: on the bundled model llama.cpp's 16-bit cache alone makes 0.002,
    and wrong factors make above 0.3.

    Args:
        path: the export that is served, for the record.
        served: what it holds.
        context: tokens that the server was started for, by which it chooses its set.
        loaded: MODEL, in float32.

    Raises:
        ExportError: the server fails.
    """
    tell = on_step or (lambda _message: None)
    right = served.for_length(context)
    is_long = right is served.long
    alone: list[Likeliest] = []
    checks: list[Check | None] = []
    told = dict.fromkeys(wrong_sets(served, right, is_long=is_long), False)
    for prompt in prompts:
        length = len(prompt.ids)
        tell(f"{endpoint.name} and Ropewalk read {length} tokens")
        answer = endpoint.likeliest(prompt)
        alone.append(answer)
        checks.append(_check("log-probabilities", length, answer, _ours(loaded, prompt, right), limit))
        for name, factors in wrong_sets(served, right, is_long=is_long).items():
            if _with_text(answer) and not told[name]:
                told[name] = not _difference(answer, _ours(loaded, prompt, factors)) <= limit
    tell(f"{endpoint.name} reads all of them at once")
    with ThreadPoolExecutor(max_workers=len(prompts)) as pool:
        together = list(pool.map(endpoint.likeliest, prompts))
    checks += [
        _check("among others", len(prompt.ids), answer, before, limit)
        for prompt, answer, before in zip(prompts, together, alone, strict=True)
    ]
    checks += [
        Check(what=f"{name} would be noticed", is_right=is_told, found="yes" if is_told else "no")
        for name, is_told in told.items()
    ]
    return Verification(
        engine="server", version=f"{endpoint.name} at {endpoint.url}", path=path, served=served,
        checks=tuple(check for check in checks if check is not None),
    )  # fmt: skip


def _check(what: str, length: int, answer: Likeliest, wanted: Likeliest, limit: float) -> Check | None:
    """None for an answer that says nothing."""
    if not _with_text(answer):
        return None
    off = _difference(answer, wanted)
    return Check(what=what, length=length, found=off, limit=limit, is_right=off <= limit)


def _with_text(answer: Likeliest) -> Likeliest:
    return {text: value for text, value in answer.items() if NO_TEXT not in text}


def _difference(answer: Likeliest, wanted: Likeliest) -> float:
    """Mean over the tokens that both name, nats; infinite where they have none in common.

    The last of the likeliest may be another one by a rounding, so not all of them must be there.
    """
    common = [text for text in _with_text(answer) if text in wanted]
    if not common:
        return float("inf")
    return sum(abs(answer[text] - wanted[text]) for text in common) / len(common)


def _ours(loaded: LoadedModel, prompt: Prompt, factors: RescaleFactors) -> Likeliest:
    """Log-probability of every next token, by its text."""
    ids = torch.tensor([prompt.ids], device=loaded.model.device)
    with loaded.installed(factors), evaluating(loaded.model):
        reader = Reader(loaded.model)
        logits = reader.logits(reader.read(ids, keep=False)[0][-1:])[0]
    found = logits.to(torch.float64).log_softmax(dim=-1).tolist()
    by_text: dict[str, list[float]] = defaultdict(list)
    for text, value in zip(_texts(loaded.tokenizer, len(found)), found, strict=True):
        by_text[text].append(value)
    return {text: float(torch.tensor(values).logsumexp(dim=0)) for text, values in by_text.items()}


def _texts(tokenizer: Any, count: int) -> list[str]:
    return list(tokenizer.batch_decode([[number] for number in range(count)]))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
