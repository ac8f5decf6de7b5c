"""Answers to all questions of a text from one forward pass, each after the true answers before it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ropewalk.evaluate.greedy import READ_CHUNK
from ropewalk.evaluate.lm_head import Reader, evaluating
from ropewalk.text.facts import FactText

LOGIT_ROWS = 64  # positions whose logits are in memory at once


def forced_answers(model: Any, tokenizer: Any, texts: Sequence[FactText]) -> list[str]:
    """Returns each question's answer, from one forward pass over texts of one length.

    An answer is the true answer up to the first token that is not the most likely one, and this one.

    Args:
        model: as in `Reader`.
    """
    answers = [(row, answer) for row, text in enumerate(texts) for answer in text.answers]
    ids = torch.tensor([text.ids for text in texts])
    rows = torch.tensor([row for row, answer in answers for _ in answer])
    positions = torch.tensor([position for _, answer in answers for position in answer])
    chosen = _most_likely(model, ids, rows, positions)
    found = []
    likely = iter(chosen.tolist())
    for row, answer in answers:
        true = [texts[row].ids[position] for position in answer]
        found.append(_up_to_mistake(true, [next(likely) for _ in answer]))
    decoded: list[str] = tokenizer.batch_decode(found)
    return decoded


def _up_to_mistake(true: list[int], likely: list[int]) -> list[int]:
    """The likely tokens up to the first that is not the true one, which is included."""
    for number, (one, other) in enumerate(zip(true, likely, strict=True), start=1):
        if one != other:
            return likely[:number]
    return likely


def _most_likely(model: Any, ids: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """The most likely token at each position, given the tokens before it, shape (n,).

    Args:
        ids: shape (batch, length).
        rows, positions: indices into `ids`, shape (n,).
    """
    chosen = torch.empty(len(positions), dtype=torch.int64)
    with evaluating(model):
        reader = Reader(model)
        for start, hidden in reader.pieces(ids.to(model.device), READ_CHUNK):
            places = positions - 1 - start
            (here,) = ((places >= 0) & (places < hidden.shape[1])).nonzero(as_tuple=True)
            for part in torch.split(here, LOGIT_ROWS):
                states = hidden[rows[part].to(model.device), places[part].to(model.device)]
                chosen[part] = reader.logits(states).argmax(dim=-1).cpu()
    return chosen
