"""Whether a running server gives the answers that Ropewalk computes, alone and among other requests.

A server (`verify.completions`) shows no logits, but the tokens that it goes on with, and at each of their
places the likeliest tokens with their log-probabilities:

    prompt    1 .. n        a text of each length
    answer    n+1 .. n+8    the server's own choice, and there the 5 likeliest
    ours      1 .. n+8      the same tokens, read under the factors that the server should turn by

So its first step shows what it computed for the prompt, and the later ones what it computes token by token,
with what it has cached. Then all prompts are sent at once, the longest first, and no answer may change: an
engine that chooses its factors by the longest row of a batch gives a short prompt another one. Wrong factors
must be told from the right ones, as in `verify`. What only Ropewalk's plugin holds may make less than
rounding does, and so pass any limit: a server must also be nearer to these factors than to what is left
without it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import EngineError
from ropewalk.evaluate.lm_head import Reader, evaluating
from ropewalk.export import Served
from ropewalk.export.gguf.export import CONTEXT_STEP
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.verify.comparison import NEARER, Check, Verification
from ropewalk.verify.completions import Answer, Endpoint, Prompt, Step, Token
from ropewalk.verify.verification import turns_otherwise, wrong_sets

NUM_TOKENS = 8
LIMIT, ROUNDED_LIMIT = 0.03, 0.2  # nats: see `verify_endpoint`
ROUNDED_NATS = 1e-5  # rounding of a log-probability in float32, computed and printed: less tells nothing
NO_TEXT = "\N{REPLACEMENT CHARACTER}"


def verify_endpoint(
    path: str,
    served: Served,
    context: int,
    loaded: Model,
    endpoint: Endpoint,
    prompts: Sequence[Prompt],
    *,
    limit: float = LIMIT,
    on_step: Callable[[str], None] | None = None,
) -> Verification:
    """Compare a server's answers with ours.

    `log-probabilities` is the mean difference, over an answer's steps and their likeliest tokens, from ours;
    `among others` the same from the answer to the prompt alone.

    The limit is two to three times what rounding makes. Measured in the mean of 8 tokens, on the bundled
    model and on one of 30 layers (SmolLM2-135M): float16, of weights or cache, up to 0.004 and 0.01; bfloat16
    0.026 and 0.066; weights in 8 bits 0.034 and 0.064. Weights in 4 bits make 0.23 to 0.47, so of such an
    export MODEL must be the rounded model itself; llama.cpp's kernels for them then make 0.1, and as much
    among others, as its cache held something or nothing before. No factors made 0.17 to 3.7, most at long
    lengths; that they would be noticed at some length is checked.

    Args:
        path: the export that is served, for the record.
        served: what it holds.
        context: tokens that the server was started for, by which it chooses its set.
        loaded: MODEL, in float32.
        limit: nats; `LIMIT` where a server computes in float16 or better, else `ROUNDED_LIMIT`.

    Raises:
        EngineError: the server fails, or reads other tokens.
    """
    tell = on_step or (lambda _message: None)
    right = served.for_length(context)
    wrong = wrong_sets(served, right, is_long=right is served.long)
    ours = _Ours(loaded)
    alone: list[Answer] = []
    checks: list[Check | None] = []
    told = dict.fromkeys(wrong, False)
    rivals = _without_plugin(right)
    right_offs: list[float | None] = []
    rival_offs: dict[str, list[float | None]] = {name: [] for name in rivals}
    for prompt in prompts:
        tell(f"{endpoint.name} and Ropewalk read {len(prompt.ids)} tokens")
        answer = endpoint.complete(prompt, NUM_TOKENS)
        alone.append(answer)
        ids = _as_read(prompt, answer, loaded.tokenizer, endpoint.url, tell)
        off = ours.difference(ids, answer.steps, right)
        checks.append(_check("log-probabilities", len(ids), off, limit))
        right_offs.append(off)
        for name, factors in rivals.items():
            rival_offs[name].append(ours.difference(ids, answer.steps, factors))
        for name in [name for name, is_told in told.items() if not is_told]:
            off = ours.difference(ids, answer.steps, wrong[name])
            told[name] = off is not None and not off <= limit
    if all(check is None or check.is_right for check in checks):
        checks += [_check_nearer(name, right_offs, offs) for name, offs in rival_offs.items()]
    tell(f"{endpoint.name} reads all of them at once")
    for prompt, before, after in zip(prompts, alone, _together(endpoint, prompts), strict=True):
        length = before.num_prompt or len(prompt.ids)
        checks.append(_check("among others", length, _change(before, after), limit))
    checks += [
        Check(what=f"{name} would be noticed", is_right=is_told, found="yes" if is_told else "no")
        for name, is_told in told.items()
    ]
    return Verification(
        engine="server", version=f"{endpoint.name} at {endpoint.url}", path=path, served=served,
        checks=tuple(check for check in checks if check is not None),
    )  # fmt: skip


def _without_plugin(right: RescaleFactors) -> dict[str, RescaleFactors]:
    """What an engine turns by that knows no n-hat, or computes the attention factor itself."""
    computed = longrope_attention_factor(right.extension_ratio, right.geometry.original_length)
    choices = {
        "no n-hat": right.replace(num_start_tokens=0),
        "the computed attention factor": right.replace(attention_factor=computed),
    }
    return {name: factors for name, factors in choices.items() if turns_otherwise(factors, right)}


def deciding_context(path: Path, context: int) -> int:
    """By which a server chooses its set: llama.cpp, which serves GGUF files, rounds it up first."""
    return -(-context // CONTEXT_STEP) * CONTEXT_STEP if path.is_file() else context


def _together(endpoint: Endpoint, prompts: Sequence[Prompt]) -> list[Answer]:
    """All at once; the longest is sent first, so that it still runs when a short one does."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].ids))
    answers = endpoint.complete_together([prompts[index] for index in order], NUM_TOKENS)
    found = dict(zip(order, answers, strict=True))
    return [found[index] for index in range(len(prompts))]


def _check(what: str, length: int, off: float | None, limit: float) -> Check | None:
    """None for an answer that says nothing."""
    if off is None:
        return None
    return Check(what=what, length=length, found=off, limit=limit, is_right=off <= limit)


def _check_nearer(
    name: str, right_offs: Sequence[float | None], offs: Sequence[float | None]
) -> Check | None:
    """That all answers are nearer to the right factors than to a rival; None if they say nothing."""
    right, off = _mean(right_offs), _mean(offs)
    if right is None or off is None:
        return None
    is_right = NEARER * right <= max(off, ROUNDED_NATS)
    return Check(what=f"nearer than {name}", found=f"{right:.1e} against {off:.1e}", is_right=is_right)


def _mean(values: Sequence[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _change(before: Answer, after: Answer) -> float | None:
    """Mean difference of two answers' log-probabilities, up to the first step that chose another token.

    Where two tokens are as likely, or a token and the end, either may be chosen, and what follows answers
    another text; the same if it is not known which was chosen. None if the answers say nothing, infinite if
    only one of them ended at once.
    """
    if bool(before.steps) != bool(after.steps):
        return float("inf")
    offs: list[float] = []
    for one, other in zip(before.steps, after.steps, strict=False):
        named, others = _named(one), _named(other)
        common = named.keys() & others.keys()
        if common:
            offs.append(sum(abs(named[token] - others[token]) for token in common) / len(common))
        elif named or others:
            offs.append(float("inf"))
        if one.chosen != other.chosen or not _is_name(one.chosen):
            break
    return _mean(offs)


# ---------------------------------------------------------------- ours


def _as_read(
    prompt: Prompt, answer: Answer, tokenizer: Any, url: str, tell: Callable[[str], None]
) -> tuple[int, ...]:
    """The prompt's ids by the server's own count: some put a BOS before every text, and some before none.

    Raises:
        EngineError: it counts otherwise.
    """
    more = 0 if answer.num_prompt is None else answer.num_prompt - len(prompt.ids)
    opening = tokenizer.bos_token_id
    is_opened = prompt.ids[0] == opening
    if more == 1 and not is_opened and opening is not None:
        tell(f"{url} puts a BOS before the text, unlike the checkpoint's tokenizer; so do we")
        return (opening, *prompt.ids)
    if more == -1 and is_opened:
        tell(f"{url} leaves out the BOS of the checkpoint's tokenizer; so do we")
        return prompt.ids[1:]
    if more:
        raise EngineError(
            f"{url} reads {answer.num_prompt} tokens where the checkpoint's tokenizer has {len(prompt.ids)}: "
            f"it serves another tokenizer, or cuts prompts short."
        )
    return prompt.ids


class _Ours:
    """What MODEL computes at the places of an answer."""

    def __init__(self, loaded: Model) -> None:
        self._loaded = loaded
        self._names = _Names(loaded.tokenizer)

    def difference(self, ids: Sequence[int], steps: Sequence[Step], factors: RescaleFactors) -> float | None:
        """Mean over the steps and their likeliest tokens, nats; None if no step says anything.

        We read the tokens that the server chose, so that each step answers the same text. A token that can't
        be known by its name ends it.

        Args:
            ids: the prompt.
        """
        if not steps:
            return None
        with self._loaded.using(factors), evaluating(self._loaded.model):
            found = self._read(ids, [self._names.ids(step.chosen) for step in steps[:-1]])
        offs = [self._names.difference(step, row) for step, row in zip(steps, found, strict=False)]
        return _mean(offs)

    def _read(self, ids: Sequence[int], chosen: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities after the prompt and after each chosen token, shape (steps, vocabulary).

        Args:
            chosen: the ids that each may be. Of several we take the likeliest: greedy servers do.
        """
        reader, piece, rows, place = Reader(self._loaded.model), list(ids), [], 0
        while True:
            sure = [candidates[0] for candidates in takewhile(lambda found: len(found) == 1, chosen[place:])]
            place += len(sure)
            is_open = place < len(chosen) and len(chosen[place]) > 1
            read = torch.tensor([piece + sure], device=self._loaded.model.device)
            hidden = reader.read(read, keep=is_open)[0][-len(sure) - 1 :]
            rows.append(reader.logits(hidden).to(torch.float64).log_softmax(dim=-1).cpu())
            if not is_open:
                return torch.cat(rows)
            candidates = list(chosen[place])
            piece = [candidates[int(rows[-1][-1, candidates].argmax())]]
            place += 1


class _Names:
    """Which ids a server's name of a token may stand for.

    An id is itself. A text is what the tokenizer makes of the id alone or after another token: SentencePiece
    drops the space of ` the` where it stands alone, and servers differ in that. Parts of a character have no
    text of their own.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._by_text: dict[str, list[int]] = {}

    def ids(self, token: Token) -> list[int]:
        """In ascending order; none for a name that is not known."""
        if isinstance(token, int):
            return [token] if 0 <= token < len(self._tokenizer) else []
        if not self._by_text:
            self._by_text = self._texts()
        return self._by_text.get(token, [])

    def difference(self, step: Step, ours: Tensor) -> float | None:
        """Mean over the likeliest tokens of a step; infinite if none of their names is known.

        Where a text stands for several ids, the server means the one that is nearest. None if no token has a
        name.
        """
        named = _named(step)
        offs = [
            float((ours[ids] - value).abs().min())
            for token, value in named.items()
            if (ids := self.ids(token))
        ]
        return (_mean(offs) if offs else float("inf")) if named else None

    def _texts(self) -> dict[str, list[int]]:
        count, tokenizer = len(self._tokenizer), self._tokenizer
        before = tokenizer("a", add_special_tokens=False).input_ids[-1:]
        skipped = len(tokenizer.decode(before))
        found: dict[str, set[int]] = defaultdict(set)
        alone = tokenizer.batch_decode([[number] for number in range(count)])
        after = tokenizer.batch_decode([[*before, number] for number in range(count)])
        for number in range(count):
            found[alone[number]].add(number)
            found[after[number][skipped:]].add(number)
        return {text: sorted(ids) for text, ids in found.items()}


def _named(step: Step) -> dict[Token, float]:
    return {token: value for token, value in step.likeliest.items() if _is_name(token)}


def _is_name(token: Token) -> bool:
    return isinstance(token, int) or (bool(token) and NO_TEXT not in token)
