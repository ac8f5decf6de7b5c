"""Passkey retrieval: the share of keys found in prompts of an exact length, at several depths.

`text.passkey_prompt` defines the prompt and its keys.
"""

import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ropewalk.errors import SettingError
from ropewalk.evaluate.answers import OnAnswer, PasskeyAnswer, collect, summary
from ropewalk.evaluate.depths import MOST_DEPTHS, evenly_spread
from ropewalk.evaluate.greedy import GreedyDecoder
from ropewalk.evaluate.length_notes import length_note
from ropewalk.evaluate.lm_head import evaluating
from ropewalk.evaluate.records import EvalRecord, FactorsAtLength, OnRecord, found_by
from ropewalk.models.model import Model
from ropewalk.text.passkey_prompt import PasskeyTrial, draw_key, make_trial
from ropewalk.text.tokens import Encoder

TOKENS_PER_BATCH = 4096  # short prompts of one length are read together


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
    """Measures the share of keys that a model finds, for each label of `factors` and each length.

    All factors read the same prompts. The answer is decoded greedily, and its first integer must be the key
    (Mohtashami and Jaggi, arXiv 2305.16300). The interval is Wilson's, 95%.

    Example:
        factors = load_factors("runs/mine/factors.json")
        records = measure_passkey(model, [4096, 32768], factors={"searched": lambda length: factors})
        records[0].value  # 0.95: 19 of 20 keys at 4096 tokens

    Args:
        lengths: tokens of prompt and answer together.
        factors: label to a function from a length to factors, or to None for the model as configured.
        num_trials: prompts per length, their depths evenly spread.
        seed: of the keys.
        answered: answers of an interrupted measurement with the same model and factors; these prompts are
            not read again.
        on_answer: called after each prompt, or for each prompt of a batch of short ones.
        on_record: called with each record as soon as it is complete.

    Returns:
        One record with the metric `passkey` per label and length; `value` is from 0 to 1.

    Raises:
        SettingError: a length is too short for the prompt, or there is no length or no trial.
    """
    if num_trials < 1 or not lengths:
        raise SettingError(
            f"{num_trials} trials at {len(lengths)} lengths were requested: give at least one of each."
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
            record = EvalRecord(
                **summary(given),
                metric="passkey",
                length=length,
                factors=label,
                seed=seed,
                seconds=time.perf_counter() - started,
                model=loaded.name,
                where=loaded.where,
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
    """An answer for each trial, the earlier answers first."""
    known = [answer for _, answer in earlier if answer is not None]
    left = [trial for trial, answer in earlier if answer is None]
    new = (
        PasskeyAnswer(factors=label, length=length, key=trial.key, depth=trial.depth, text=text)
        for trial, text in answers(loaded.model, loaded.tokenizer, left)
    )
    return collect(known, new, len(earlier), on_answer)


def make_trials(encode: Encoder, length: int, num_trials: int, seed: int) -> list[PasskeyTrial]:
    """Returns prompts of one length. The key depends on seed, length and index; depths repeat in order.

    No key is one of those for training texts.

    Raises:
        SettingError: the prompt does not fit.
    """
    depths = evenly_spread(min(num_trials, MOST_DEPTHS))
    trials = []
    for index in range(num_trials):
        key = draw_key(random.Random(f"passkey-{seed}-{length}-{index}"))
        trials.append(make_trial(encode, length, key, depths[index % len(depths)]))
    return trials


def answers(model: Any, tokenizer: Any, trials: Iterable[PasskeyTrial]) -> Iterator[tuple[PasskeyTrial, str]]:
    """Yields each trial with the model's greedy continuation up to its first complete integer."""
    with evaluating(model):
        decoder = GreedyDecoder(model, tokenizer)
        for batch in _batches(trials):
            # Long prompts differ only in the needle and its position: they have a common beginning.
            ids = torch.tensor([trial.ids for trial in batch], device=model.device)
            texts = decoder.continuations(ids, batch[0].num_answer_tokens, _is_complete)
            yield from zip(batch, texts, strict=True)


def _is_complete(text: str) -> bool:
    """Whether the text has an integer and another character after it."""
    return re.search(r"\d\D", text) is not None


def _batches(trials: Iterable[PasskeyTrial]) -> Iterator[list[PasskeyTrial]]:
    """Trials of one shape, sorted by depth, in batches; keys may differ in their number of tokens."""
    by_shape: dict[tuple[int, int], list[PasskeyTrial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.depth):
        by_shape.setdefault((len(trial.ids), trial.num_answer_tokens), []).append(trial)
    for (length, _), alike in by_shape.items():
        num_rows = max(1, TOKENS_PER_BATCH // length)
        yield from (alike[start : start + num_rows] for start in range(0, len(alike), num_rows))
