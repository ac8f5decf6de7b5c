"""Passkey retrieval: the share of hidden numbers found, at an exact prompt length and several depths.

The prompt, and which keys may be asked for, stand in `text.passkey_prompt`.
"""

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import SettingError
from ropewalk.evaluate.intervals import wilson
from ropewalk.evaluate.length_notes import length_note
from ropewalk.evaluate.lm_head import Reader, evaluating
from ropewalk.evaluate.records import EvalRecord, FactorsAtLength, OnRecord, PasskeyAnswer, found_by
from ropewalk.models.model import Model
from ropewalk.text.passkey_prompt import PasskeyTrial, draw_key, make_trial
from ropewalk.text.tokens import Encoder

OnAnswer = Callable[["PasskeyProgress"], None]

MOST_DEPTHS = 10
TOKENS_AT_ONCE = 4096  # short prompts of one length are read together
READ_CHUNK = 16384  # longer prompts are read in pieces of this many tokens


@dataclass(frozen=True, kw_only=True)
class PasskeyProgress:
    """What `on_answer` is told: the answer just given, and how far its length has come."""

    answer: PasskeyAnswer
    num_answered: int
    num_found: int
    num_trials: int
    seconds_left: float


def measure_passkey(
    loaded: Model,
    lengths: Sequence[int],
    *,
    factors: Mapping[str, FactorsAtLength],
    num_trials: int = 20,
    seed: int = 0,
    answered: Iterable[PasskeyAnswer] = (),
    on_answer: OnAnswer | None = None,
    on_record: OnRecord | None = None,
) -> list[EvalRecord]:
    """One record for each label of `factors` and each length: the share of keys found, on the same prompts.

    The answer is decoded greedily; its first integer must be the key.

    Args:
        lengths: tokens of prompt and answer together.
        factors: label to a function from a length to factors; None measures the model as it stands.
        num_trials: prompts a length, their depths evenly spread.
        seed: of the keys.
        answered: what `on_answer` was given earlier, with the same model and factors; not asked again.
        on_answer: called after each prompt, or after each batch of short ones.
        on_record: called with each record as it is made.

    Raises:
        SettingError: a length too short for the prompt, or no trial.
    """
    if num_trials < 1 or not lengths:
        raise SettingError(
            f"{num_trials} trials at {len(lengths)} lengths were asked: give one of each or more."
        )
    encode = Encoder(loaded.tokenizer)
    trials = {length: make_trials(encode, length, num_trials, seed) for length in lengths}
    known = {(answer.factors, answer.length, answer.key, answer.depth): answer for answer in answered}
    records = []
    for label, factors_at in factors.items():
        for length in lengths:
            started = time.perf_counter()
            installed = factors_at(length)
            with loaded.using(installed):
                earlier = [
                    (trial, known.get((label, length, trial.key, trial.depth))) for trial in trials[length]
                ]
                given = _ask(loaded, label, length, earlier, on_answer)
            found = sum(answer.is_found for answer in given)
            low, high = wilson(found, num_trials)
            record = EvalRecord(
                metric="passkey",
                value=found / num_trials,
                length=length,
                factors=label,
                n=num_trials,
                low=low,
                high=high,
                seed=seed,
                seconds=time.perf_counter() - started,
                model=loaded.name,
                where=loaded.where,
                found=found,
                by_depth=tuple(_by_depth(given)),
                note=length_note(loaded, installed, length),
                **found_by(installed),
            )
            records.append(record)
            if on_record:
                on_record(record)
    return records


def _ask(
    loaded: Model,
    label: str,
    length: int,
    earlier: Sequence[tuple[PasskeyTrial, PasskeyAnswer | None]],
    on_answer: OnAnswer | None,
) -> list[PasskeyAnswer]:
    """An answer for each trial; those that were given earlier come first."""
    given = [answer for _, answer in earlier if answer is not None]
    left = [trial for trial, answer in earlier if answer is None]
    started = time.perf_counter()
    for number, (trial, text) in enumerate(answers(loaded.model, loaded.tokenizer, left), start=1):
        answer = PasskeyAnswer(factors=label, length=length, key=trial.key, depth=trial.depth, text=text)
        given.append(answer)
        if on_answer:
            seconds = (time.perf_counter() - started) / number
            progress = PasskeyProgress(
                answer=answer,
                num_answered=len(given),
                num_found=sum(other.is_found for other in given),
                num_trials=len(earlier),
                seconds_left=seconds * (len(left) - number),
            )
            on_answer(progress)
    return given


def make_trials(encode: Encoder, length: int, num_trials: int, seed: int) -> list[PasskeyTrial]:
    """Prompts of one length; keys follow from seed, length and number, depths go round.

    No key is one that training texts may hold.

    Raises:
        SettingError: the prompt does not fit.
    """
    depths = evenly_spread(min(num_trials, MOST_DEPTHS))
    trials = []
    for index in range(num_trials):
        key = draw_key(random.Random(f"passkey-{seed}-{length}-{index}"))
        trials.append(make_trial(encode, length, key, depths[index % len(depths)]))
    return trials


def evenly_spread(num_depths: int) -> list[float]:
    """0 .. 1, both ends in; the middle if there is but one."""
    return [0.5] if num_depths == 1 else [index / (num_depths - 1) for index in range(num_depths)]


def answers(model: Any, tokenizer: Any, trials: Iterable[PasskeyTrial]) -> Iterator[tuple[PasskeyTrial, str]]:
    """Each trial with what the model goes on with, up to its first complete integer."""
    with evaluating(model):
        reader, read = Reader(model), None
        for batch in _batches(trials):
            ids = torch.tensor([trial.ids for trial in batch], device=model.device)
            # Long prompts differ in little but where the needle stands: what the last one began with is kept.
            num_known = reader.go_back_to(0 if read is None else _num_shared(read, ids))
            yield from zip(batch, _decode(reader, tokenizer, ids[:, num_known:], batch[0].room), strict=True)
            read = ids


def _num_shared(read: Tensor, ids: Tensor) -> int:
    """How many tokens both of shape (batch, n) begin with; the last token of `ids` is never among them."""
    if len(read) != len(ids):
        return 0
    num = min(read.shape[1], ids.shape[1] - 1)
    same = (read[:, :num] == ids[:, :num]).all(dim=0)
    return int(same.int().cumprod(dim=0).sum())


def _decode(reader: Reader, tokenizer: Any, ids: Tensor, room: int) -> list[str]:
    """Greedy answers of at most `room` tokens to what is left to read of prompts, shape (batch, n)."""
    *_, (_, hidden) = reader.pieces(ids, READ_CHUNK, keep=True)
    chosen = reader.logits(hidden[:, -1]).argmax(dim=-1, keepdim=True)
    answer = chosen
    texts: list[str] = tokenizer.batch_decode(answer.tolist())
    while answer.shape[1] < room and not all(map(_is_complete, texts)):
        hidden = reader.read(chosen, keep=True)
        chosen = reader.logits(hidden[:, -1]).argmax(dim=-1, keepdim=True)
        answer = torch.cat([answer, chosen], dim=1)
        texts = tokenizer.batch_decode(answer.tolist())
    return texts


def _is_complete(text: str) -> bool:
    """Whether an integer has ended: something other than a digit follows it."""
    return re.search(r"\d\D", text) is not None


def _batches(trials: Iterable[PasskeyTrial]) -> Iterator[list[PasskeyTrial]]:
    """Trials of one shape by depth, as many as are read at once; keys may differ in tokens."""
    by_shape: dict[tuple[int, int], list[PasskeyTrial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.depth):
        by_shape.setdefault((len(trial.ids), trial.room), []).append(trial)
    for (length, _), alike in by_shape.items():
        num_rows = max(1, TOKENS_AT_ONCE // length)
        yield from (alike[start : start + num_rows] for start in range(0, len(alike), num_rows))


def _by_depth(given: Sequence[PasskeyAnswer]) -> Iterator[dict[str, float]]:
    for depth in sorted({answer.depth for answer in given}):
        here = [answer.is_found for answer in given if answer.depth == depth]
        yield {"depth": depth, "n": len(here), "found": sum(here)}
