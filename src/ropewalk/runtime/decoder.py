"""Hooks on the decoder, which choose the factors of the rows that it reads."""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ropewalk.errors import FactorsError, ModelError
from ropewalk.models.model import Model
from ropewalk.models.rotary import Attachment, not_compiled
from ropewalk.models.rotary_calls import forward_parameters, named_inputs
from ropewalk.runtime.caches import is_filled_under, note, noted, num_cached
from ropewalk.runtime.requests import Request, current
from ropewalk.runtime.rows import Rows, is_row_mask, own_lengths, own_positions

if TYPE_CHECKING:
    from ropewalk.runtime.rotary import FactorsByLength

NEEDED = ("attention_mask", "position_ids", "past_key_values")


class DecoderHooks:
    """Hooks on a decoder: choose each row's factors before it runs, and store them on its cache afterwards.

    Without positions from the caller, each row counts from its first token, so that left padding changes
    nothing.
    """

    def __init__(self, factors: "FactorsByLength", model: Model) -> None:
        self.factors = factors
        self.decoder = model.decoder
        decoder_class: Any = type(self.decoder)
        names = forward_parameters(decoder_class)
        missing = [part for part in NEEDED if part not in names]
        if missing:
            raise ModelError(
                f"{model.name} can't use a factor set: its decoder has no parameter {', '.join(missing)}, so "
                f"the lengths of its rows are unknown; install one entry with Model.install."
            )

    def attach(self) -> list[Attachment]:
        """Register the hooks."""
        return [
            self.decoder.register_forward_pre_hook(self._before, with_kwargs=True),
            self.decoder.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]

    @not_compiled
    def _before(
        self, _decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        _reading.set(None)
        inputs = named_inputs(self.decoder, args, kwargs)
        num_rows, num_tokens = _shape(inputs)
        cache, mask = inputs.get("past_key_values"), inputs.get("attention_mask")
        cached = num_cached(cache)
        rows = self._choose(inputs, num_rows, num_tokens, cached)
        if inputs.get("position_ids") is None and is_row_mask(mask, cached + num_tokens):
            assert isinstance(mask, Tensor)
            if not bool(mask.all()):
                inputs["position_ids"] = own_positions(mask, num_tokens)
        _reading.set((self.factors, rows))
        return (), inputs

    @not_compiled
    def _after(
        self, _decoder: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        rows = rows_being_read(self.factors)
        _reading.set(None)
        if output is None or rows is None:  # the decoder failed
            return
        filled = _cache_of(output) or kwargs.get("past_key_values")
        if filled is not None and num_cached(filled):
            note(filled, rows)

    def _choose(self, inputs: dict[str, Any], num_rows: int, num_tokens: int, cached: int) -> Rows:
        cache, request = inputs.get("past_key_values"), current(self.factors)
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
            rows = self._noted(cache).for_batch(num_rows)
        else:
            rows = self.factors.rows_for(lengths)
        _require_served(rows, lengths)
        return rows

    def _noted(self, cache: Any) -> Rows:
        """The factors that a cache was filled with.

        Raises:
            ModelError: they are unknown, or near-far factors that are no entry of the set.
        """
        rows = _noted_or_refuse(cache)
        entries = self.factors.factor_set.entries
        if any(factors.is_near_far and factors not in entries for factors in rows.factors):
            raise _other_cache()
        return rows


# The factors of the decoder that runs now in this thread, and the rows that it reads.
_reading: ContextVar[tuple["FactorsByLength", Rows] | None] = ContextVar("ropewalk_reading", default=None)


def rows_being_read(factors: "FactorsByLength") -> Rows | None:
    """The rows that the decoder with these factors reads now; None outside of the decoder."""
    now = _reading.get()
    return now[1] if now is not None and now[0] is factors else None


def _of_generation(request: Request, cache: Any, num_rows: int, cached: int) -> Rows:
    if request.rows is None:
        raise RuntimeError(
            "This version of transformers reads a prompt before it prepares the cache, which Ropewalk's "
            "runtime does not support: use a version that its pyproject.toml allows."
        )
    rows = request.rows.for_batch(num_rows)
    if cached:
        _require_noted(cache, rows)
    return rows


def _noted_or_refuse(cache: Any) -> Rows:
    rows = noted(cache)
    if rows is None:
        raise _other_cache()
    return rows


def _other_cache() -> ModelError:
    return ModelError(
        "The cache was not filled with this factor set, or its rows have different factors and were moved "
        "since: read the whole sequence again, or pin all rows to one length with ropewalk.pinned from the "
        "first token on."
    )


def _require_noted(cache: Any, rows: Rows) -> None:
    if is_filled_under(cache, rows):
        return
    found = _noted_or_refuse(cache).for_batch(len(rows.factors))
    changed = found.changed(rows)
    if changed:
        row = changed[0]
        raise ModelError(
            f"Row {row} needs the factors for {rows.factors[row].target_length} tokens, but its cache was "
            f"filled with those for {found.factors[row].target_length}: read the whole sequence again."
        )


def _require_served(rows: Rows, lengths: list[int]) -> None:
    for row, (factors, length) in enumerate(zip(rows.factors, lengths, strict=True)):
        if length > factors.target_length:
            raise FactorsError(
                f"Row {row} grows to {length} tokens, but its first tokens were read with the factors for "
                f"{factors.target_length}: pin it to its final length with ropewalk.pinned, use generate, or "
                f"read the whole sequence again."
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
