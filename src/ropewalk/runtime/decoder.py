"""The decoder's forward, seen before it runs: which rows are read, and so by which factors they turn."""

import inspect
from typing import Any

from torch import Tensor, nn

from ropewalk.errors import FactorsError, ModelError
from ropewalk.runtime.caches import is_filled_under, note, noted, num_cached
from ropewalk.runtime.requests import Request, current
from ropewalk.runtime.rows import Rows, is_row_mask, own_lengths, own_positions

NEEDED = ("attention_mask", "position_ids", "past_key_values")


def find_decoder(model: nn.Module, rotary: nn.Module, name: str) -> nn.Module:
    """The module that calls the rotary and is told mask, positions and cache.

    Raises:
        ModelError: it is not told all of these.
    """
    for module in model.modules():
        if any(child is rotary for child in module.children()):
            missing = [
                part for part in NEEDED if part not in inspect.signature(type(module).forward).parameters
            ]
            if missing:
                raise ModelError(
                    f"{name} can't follow a factor set: its decoder is not told {', '.join(missing)}, so its "
                    f"rows can't be told apart; install one entry with ropewalk.install."
                )
            return module
    raise AssertionError("a rotary that was found has a parent")


class DecoderForward:
    """Stands in for the decoder's forward: chooses each row's factors, then runs it.

    Where no positions are given, each row's count from its own first token: left padding moves nothing.
    """

    def __init__(self, rotary: Any, decoder: nn.Module) -> None:
        self.rotary = rotary
        self.original = decoder.forward
        self.__wrapped__ = self.original
        self._names = list(inspect.signature(type(decoder).forward).parameters)[1:]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = {**dict(zip(self._names, args, strict=False)), **kwargs}
        num_rows, num_tokens = _shape(inputs)
        cache, mask = inputs.get("past_key_values"), inputs.get("attention_mask")
        cached = num_cached(cache)
        rows = self._choose(inputs, num_rows, num_tokens, cached)
        if inputs.get("position_ids") is None and is_row_mask(mask, cached + num_tokens):
            assert isinstance(mask, Tensor)
            if not bool(mask.all()):
                inputs["position_ids"] = own_positions(mask, num_tokens)
        with self.rotary.reading(rows):
            output = self.original(**inputs)
        filled = _cache_of(output) or cache
        if filled is not None and num_cached(filled):
            note(filled, rows)
        return output

    def _choose(self, inputs: dict[str, Any], num_rows: int, num_tokens: int, cached: int) -> Rows:
        cache, request = inputs.get("past_key_values"), current(self.rotary)
        if request is not None and request.is_generation:
            return _of_generation(request, cache, num_rows, cached)
        lengths = own_lengths(
            inputs.get("attention_mask"),
            inputs.get("position_ids"),
            num_rows=num_rows,
            num_tokens=num_tokens,
            num_cached=cached,
        )
        if request is not None:
            assert request.rows is not None, "it was pinned to a length"
            rows = request.rows.for_batch(num_rows)
            if cached:
                _require_noted(cache, rows)
        elif cached:
            rows = _noted_or_refuse(cache).for_batch(num_rows)
        else:
            rows = self.rotary.rows_for(lengths)
        _require_served(rows, lengths)
        return rows


def _of_generation(request: Request, cache: Any, num_rows: int, cached: int) -> Rows:
    if request.rows is None:
        raise RuntimeError(
            "This version of transformers reads a prompt before its cache is prepared, which Ropewalk's "
            "runtime does not know: use a version that its pyproject.toml allows."
        )
    rows = request.rows.for_batch(num_rows)
    if cached:
        _require_noted(cache, rows)
    return rows


def _noted_or_refuse(cache: Any) -> Rows:
    rows = noted(cache)
    if rows is None:
        raise ModelError(
            "A cache was given that was not filled under this factor set, or whose rows turn by different "
            "factors and were moved since: read the whole sequence anew, or pin all rows to one length with "
            "ropewalk.pinned from the first token on."
        )
    return rows


def _require_noted(cache: Any, rows: Rows) -> None:
    if is_filled_under(cache, rows):
        return
    found = _noted_or_refuse(cache).for_batch(len(rows.factors))
    changed = found.changed(rows)
    if changed:
        row = changed[0]
        raise ModelError(
            f"Row {row} is to turn by the factors for {rows.factors[row].target_length} tokens, but its "
            f"cache was filled under those for {found.factors[row].target_length}: read the whole sequence "
            f"anew."
        )


def _require_served(rows: Rows, lengths: list[int]) -> None:
    for row, (factors, length) in enumerate(zip(rows.factors, lengths, strict=True)):
        if length > factors.target_length:
            raise FactorsError(
                f"Row {row} grows to {length} tokens, but it was begun under the factors for "
                f"{factors.target_length}: pin it to its final length with ropewalk.pinned, use generate, or "
                f"read the whole sequence anew."
            )


def _shape(inputs: dict[str, Any]) -> tuple[int, int]:
    """(rows, new tokens)."""
    for name in ("input_ids", "inputs_embeds"):
        value = inputs.get(name)
        if value is not None:
            return int(value.shape[0]), int(value.shape[1])
    raise ModelError("Neither input_ids nor inputs_embeds were given: give one of the two.")


def _cache_of(output: Any) -> Any:
    """The cache in what a decoder returns."""
    found = getattr(output, "past_key_values", None)
    if found is None and isinstance(output, tuple):
        found = next((part for part in output if hasattr(part, "get_seq_length")), None)
    return found
