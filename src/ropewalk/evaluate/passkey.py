"""Passkey retrieval: the share of hidden numbers found, at an exact prompt length and several depths.

The prompt, and which keys may be asked for, stand in `text.passkey_prompt`.
"""

import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import SettingError
from ropewalk.evaluate.forward import Reader, evaluating
from ropewalk.evaluate.intervals import wilson
from ropewalk.evaluate.records import EvalRecord, FactorsAtLength, OnRecord
from ropewalk.models.load import LoadedModel
from ropewalk.text.passkey_prompt import PasskeyTrial, draw_key, make_trial
from ropewalk.text.tokens import Encoder

MOST_DEPTHS = 10
TOKENS_AT_ONCE = 4096  # short prompts of one length are read together
READ_CHUNK = 16384  # longer prompts are read in pieces of this many tokens


def measure_passkey(
    loaded: LoadedModel,
    lengths: Sequence[int],
    *,
    factors: Mapping[str, FactorsAtLength],
    num_trials: int = 20,
    seed: int = 0,
    on_record: OnRecord | None = None,
) -> list[EvalRecord]:
    """One record for each label of `factors` and each length: the share of keys found, on the same prompts.

    The answer is decoded greedily; its first integer must be the key.

    Args:
        lengths: tokens of prompt and answer together.
        factors: label to a function from a length to factors; None measures the model as it stands.
        num_trials: prompts a length, their depths evenly spread.
        seed: of the keys.
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
    records = []
    for label, factors_at in factors.items():
        for length in lengths:
            started = time.perf_counter()
            with loaded.installed(factors_at(length)):
                hits = [
                    (trial.depth, first_integer(answer) == str(trial.key))
                    for trial, answer in answers(loaded.model, loaded.tokenizer, trials[length])
                ]
            found = sum(hit for _, hit in hits)
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
                by_depth=tuple(_by_depth(hits)),
            )
            records.append(record)
            if on_record:
                on_record(record)
    return records


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
        for batch in _batches(trials):
            ids = torch.tensor([trial.ids for trial in batch], device=model.device)
            yield from zip(batch, _decode(model, tokenizer, ids, batch[0].room), strict=True)


def first_integer(text: str) -> str | None:
    """The digits of the first integer in a text."""
    match = re.search(r"\d+", text)
    return match[0] if match else None


def _decode(model: Any, tokenizer: Any, ids: Tensor, room: int) -> list[str]:
    """Greedy answers of at most `room` tokens to prompts of shape (batch, n)."""
    reader = Reader(model)
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
    """Trials of one shape, as many as are read at once; keys may differ in tokens."""
    by_shape: dict[tuple[int, int], list[PasskeyTrial]] = {}
    for trial in trials:
        by_shape.setdefault((len(trial.ids), trial.room), []).append(trial)
    for (length, _), alike in by_shape.items():
        num_rows = max(1, TOKENS_AT_ONCE // length)
        yield from (alike[start : start + num_rows] for start in range(0, len(alike), num_rows))


def _by_depth(hits: Sequence[tuple[float, bool]]) -> Iterator[dict[str, float]]:
    for depth in sorted({depth for depth, _ in hits}):
        here = [hit for other, hit in hits if other == depth]
        yield {"depth": depth, "n": len(here), "found": sum(here)}
