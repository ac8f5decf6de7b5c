"""`generate` with a policy: a row's factors are chosen once, or again where its length passes an entry's end.

    pin         the factors for the prompt and all tokens that the row may get, from the first to the last
    recompute   the factors for the row's present length; when it passes an entry's end, its cache is rebuilt
                with the next entry's factors, as if every token had been read with them

With both policies, a row never reads keys that were rotated by other factors than its own, for any other rows
in the batch.

The policy of a request is `rope_policy`, an argument of `generate`. Arguments of `generate` reach the model
through pipelines, adapters and generation configurations, unlike those of a wrapper around the model. The
default is `model.generation_config.rope_policy`.

transformers has no hook for the length that a request may grow to, so two of its steps are replaced: the
one that validates lengths (where all of them are known), and the one that prepares the cache (where the rows
are).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.generation.configuration_utils import GenerationMode

from ropewalk.errors import FactorsError, ModelError, SettingError
from ropewalk.models.replaced_attribute import ReplacedAttribute
from ropewalk.runtime.caches import empty_like, note, noted, num_cached, replace_rows
from ropewalk.runtime.requests import Request, choose_policy, current, requesting
from ropewalk.runtime.rows import Rows, own_lengths

# Inputs from which a row of a rebuilt cache can be read again.
KNOWN_INPUTS = ("attention_mask", "position_ids")
PACKED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")


def replace_generation(factors: Any, model: nn.Module) -> list[ReplacedAttribute]:
    """Add the policies to `generate`; for a model without `generate`, nothing is replaced."""
    owner: Any = next((module for module in model.modules() if isinstance(module, GenerationMixin)), None)
    if owner is None:
        return []
    replacements = {
        "generate": Generate(factors, owner),
        "_validate_generated_length": _ValidateLength(factors, owner),
        "_prepare_cache_for_generation": _PrepareCache(factors, owner),
        "prepare_inputs_for_generation": _PrepareInputs(factors, owner),
        **{name: _refuse_packing for name in PACKED if hasattr(owner, name)},
    }
    return [ReplacedAttribute(owner, name, value) for name, value in replacements.items()]


class Generate:
    """Replaces a model's `generate`; adds the argument `rope_policy`."""

    def __init__(self, factors: Any, owner: Any) -> None:
        self.factors = factors
        self.owner = owner
        self.original = self.__wrapped__ = owner.generate

    def __call__(self, *args: Any, rope_policy: str | None = None, **kwargs: Any) -> Any:
        """As transformers' `generate`.

        Args:
            rope_policy: `pin` or `recompute`; None uses that of the given generation configuration, else that
                of the model's, else `pin`.

        Raises:
            SettingError: an unknown policy, or `recompute` where it is not possible.
            FactorsError: a row may grow longer than the longest entry.
            ModelError: the cache was filled with other factors, and the tokens to fill it again were not
                given.
        """
        given = kwargs.get("generation_config", args[1] if len(args) > 1 else None)
        stated = (getattr(config, "rope_policy", None) for config in (given, self.owner.generation_config))
        outer = current(self.factors)
        request = Request(
            self.factors,
            True,
            policy=choose_policy(rope_policy, *stated),
            pinned_length=None if outer is None else outer.pinned_length,
        )
        with requesting(request):
            return self.original(*args, **kwargs)


class _ValidateLength:
    """Stores the width of the ids, and whether the maximum length includes the prompt."""

    def __init__(self, factors: Any, owner: Any) -> None:
        self.factors = factors
        self.original = owner._validate_generated_length

    def __call__(self, generation_config: Any, input_ids_length: int, has_default_max_length: bool) -> Any:
        request = current(self.factors)
        if request is not None and request.is_generation:
            request.width = int(input_ids_length)
            request.is_total_stated = generation_config.max_new_tokens is None and not has_default_max_length
        return self.original(generation_config, input_ids_length, has_default_max_length)


class _PrepareCache:
    """Chooses each row's factors once the cache exists."""

    def __init__(self, factors: Any, owner: Any) -> None:
        self.factors = factors
        self.original = owner._prepare_cache_for_generation

    def __call__(
        self, generation_config: Any, model_kwargs: dict[str, Any], mode: Any, *args: Any, **kwargs: Any
    ) -> Any:
        result = self.original(generation_config, model_kwargs, mode, *args, **kwargs)
        request = current(self.factors)
        if request is not None and request.is_generation:
            _admit(request, generation_config, model_kwargs, mode)
        return result


class _PrepareInputs:
    """Rebuilds the cache of rows that pass an entry's end, before each step of `recompute`."""

    def __init__(self, factors: Any, owner: Any) -> None:
        self.factors = factors
        self.owner = owner
        self.original = owner.prepare_inputs_for_generation
        # transformers inspects its signature for embeddings and for misspelled arguments.
        self.__wrapped__ = getattr(self.original, "__wrapped__", self.original)

    def __call__(self, input_ids: Tensor, *args: Any, is_first_iteration: bool = False, **kwargs: Any) -> Any:
        request = current(self.factors)
        grows = request is not None and request.policy == "recompute" and request.rows is not None
        if grows and not is_first_iteration:
            assert request is not None
            self._follow(request, input_ids, kwargs)
        return self.original(input_ids, *args, is_first_iteration=is_first_iteration, **kwargs)

    def _follow(self, request: Request, input_ids: Tensor, kwargs: dict[str, Any]) -> None:
        grown = input_ids.shape[1] - request.width
        rows = self.factors.rows_for([length + grown for length in request.prompt_lengths])
        assert request.rows is not None, "it was admitted"
        if rows is request.rows:
            return
        changed = request.rows.changed(rows)
        request.rows = rows
        cache: Any = kwargs.get("past_key_values")
        if not changed or not num_cached(cache):
            return
        before = {name: kwargs[name] for name in KNOWN_INPUTS if isinstance(kwargs.get(name), Tensor)}
        before = {name: value[..., :-1] for name, value in before.items()}
        fresh = empty_like(cache, self.owner.config)
        if fresh is None or len(changed) == len(rows.factors):
            cache.reset()
            self._fill(request, cache, input_ids[:, :-1], before)
            return
        index = torch.tensor(changed, device=input_ids.device)
        some = {
            name: value[index.to(value.device)] if len(value) > 1 else value for name, value in before.items()
        }
        request.rows = rows.part(changed)
        self._fill(request, fresh, input_ids[index, :-1], some)
        request.rows = rows
        replace_rows(cache, changed, fresh)
        note(cache, rows)

    def _fill(self, request: Request, cache: Any, input_ids: Tensor, inputs: dict[str, Tensor]) -> None:
        """Read these tokens into an empty cache, in chunks if the prompt was."""
        keep = {"logits_to_keep": 1} if self.owner._supports_logits_to_keep() else {}
        begin = 0
        for chunk in torch.split(input_ids, request.prefill_chunk_size or input_ids.shape[1], dim=1):
            end = begin + chunk.shape[1]
            so_far = {name: value[..., :end] for name, value in inputs.items()}
            if "position_ids" in so_far:
                so_far["position_ids"] = so_far["position_ids"][..., begin:]
            prepared = self.original(
                chunk, past_key_values=cache, use_cache=True, is_first_iteration=True, **so_far, **keep
            )
            self.owner(**prepared, return_dict=True)
            begin = end


def _admit(request: Request, generation_config: Any, model_kwargs: dict[str, Any], mode: Any) -> None:
    mask, positions = model_kwargs.get("attention_mask"), model_kwargs["position_ids"]
    num_rows, total_width = (mask if mask is not None else positions).shape[-2:]
    prompts = own_lengths(mask, positions, num_rows=num_rows, num_tokens=total_width, num_cached=0)
    num_new = generation_config.max_length - request.width
    if request.is_total_stated:
        # The length that a row may grow to is then known too, and does not depend on padding.
        ends = [generation_config.max_length + total_width - request.width] * num_rows
    else:
        ends = [length + num_new for length in prompts]
    request.prefill_chunk_size = generation_config.prefill_chunk_size
    request.prompt_lengths = tuple(prompts)
    if request.policy == "recompute":
        _require_recomputable(request, generation_config, model_kwargs, mode)
    request.rows = _choose(request, prompts, ends)
    cache = model_kwargs.get("past_key_values")
    if num_cached(cache):
        _resume(request, request.rows, cache, model_kwargs, total_width)


def _choose(request: Request, prompts: list[int], ends: list[int]) -> Rows:
    factors, longest = request.factors, max(ends)
    if request.pinned_length is not None:
        rows: Rows = factors.rows_for([request.pinned_length] * len(prompts))
        serves = rows.factors[0].target_length
        if longest > serves:
            raise FactorsError(
                f"A row may grow to {longest} tokens, but all rows are pinned to the factors for {serves}: "
                f"pin them to {longest}, or lower max_new_tokens."
            )
        return rows
    serves = factors.factor_set.lengths[-1]
    if longest > serves:
        prompt = prompts[ends.index(longest)]
        raise FactorsError(
            f"A prompt of {prompt} tokens may grow to {longest}, but this factor set serves up to {serves}: "
            f"lower max_new_tokens, shorten the prompt, or extend the model further."
        )
    at_the_end: Rows = factors.rows_for(ends)
    return at_the_end if request.policy == "pin" else factors.rows_for(prompts)


def _require_recomputable(
    request: Request, generation_config: Any, model_kwargs: dict[str, Any], mode: Any
) -> None:
    """Refuse `recompute` where a cache can't be filled again from token ids alone."""
    unknown = sorted(
        name for name, value in model_kwargs.items() if isinstance(value, Tensor) and name not in KNOWN_INPUTS
    )
    if request.pinned_length is not None:
        reason = "all rows are pinned to one length"
    elif mode == GenerationMode.ASSISTED_GENERATION:
        reason = "with assisted decoding, drafts and their check would rotate by different factors"
    elif generation_config.guidance_scale not in (None, 1):
        reason = "with guidance_scale, there is a second cache that can't be rebuilt"
    elif unknown:
        reason = f"{', '.join(unknown)} can't be read again from token ids"
    else:
        return
    raise SettingError(
        f"The policy is `recompute`, but {reason}: leave rope_policy out, which pins the factors."
    )


def _resume(request: Request, rows: Rows, cache: Any, model_kwargs: dict[str, Any], total_width: int) -> None:
    """Resume with a given cache; a cache with other factors is emptied, to be filled again."""
    embeds, cached = model_kwargs.get("inputs_embeds"), num_cached(cache)
    width = request.width if embeds is None else embeds.shape[1]
    is_whole = width == total_width
    if is_whole and width <= cached:
        raise ModelError(
            f"{width} tokens were given with a cache of {cached}: give the whole conversation as input_ids, "
            f"or an attention_mask over all of it."
        )
    found = noted(cache)
    is_right = found is not None and not found.for_batch(len(rows.factors)).changed(rows)
    if not is_whole and request.policy == "recompute":
        raise ModelError(
            f"The policy is `recompute`, but {cached} tokens are only in a cache: give the whole "
            f"conversation as input_ids."
        )
    if not is_whole and not is_right:
        raise ModelError(
            f"{cached} tokens of this conversation are only in a cache, which was filled with other factors "
            f"than the request needs: give the whole conversation as input_ids, or keep all of it inside one "
            f"`with ropewalk.pinned(...)`."
        )
    if not is_right:
        cache.reset()


def _refuse_packing(*_: Any, **__: Any) -> Any:
    raise ModelError(
        "Continuous batching packs several sequences into one row, whose lengths a factor set can't follow: "
        "use generate, or serve an export with an engine."
    )
