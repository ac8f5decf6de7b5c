"""Near-far factors in a model: its rotary rotates for near keys, and its attention once more for far ones.

The model's own rotary rotates queries and keys by the near factors, and the cache stores keys so. Layers that
see all tokens then run the attention implementation `near_far`: it rotates queries and keys once more for
keys at a distance of W tokens or more, and joins both parts in one softmax (`two_part_attention`). Layers
with a sliding window read with the near rotation alone: all their distances are within the trained range.

Only differences of angles matter, so tokens are counted from the first one in the cache, padding included.
"""

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from ropewalk.errors import ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.far_cache import store_far_keys
from ropewalk.models.head import evaluating
from ropewalk.models.key_rotation import KeyRotation, KeyRotationError
from ropewalk.models.replaced_attribute import ReplacedAttribute
from ropewalk.models.rotary import Attachment, OneSet, float64_device, not_compiled
from ropewalk.models.rotary_layout import FOREIGN_ERRORS
from ropewalk.models.sliding_windows import UNLIMITED_WINDOW
from ropewalk.models.two_part_attention import two_part_attention
from ropewalk.rope.frequencies import cos_sin, far_angles

if TYPE_CHECKING:
    from ropewalk.models.model import Model

NAME = "near_far"
ATTRIBUTE = "_ropewalk_near_far"  # of every attention module
TABLE_STEP = 4096  # the table of the far rotation grows by this many tokens
NUM_TOKENS = 32
TEST_FACTORS = 1.7, 1.25  # rescale factor and attention factor
# Largest error of the last hidden states, in shares of the largest.
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
HALF_TOLERANCE = 0.05

# Whether `require_far_rotation` runs: then layers with a window longer than the text have far keys too.
_is_trying: ContextVar[bool] = ContextVar("ropewalk_trying_near_far", default=False)


class NearFar:
    """Near-far factors as `Model.install` takes them.

    Attributes:
        factors: the near-far factors.
        per_layer: False: the rotary rotates all layers by the near factors.
    """

    per_layer = False

    def __init__(self, factors: RescaleFactors, rotation: KeyRotation) -> None:
        self.factors = factors
        self.far = FarPart(factors.near, factors.far, factors.near_window, rotation)

    def choose(self, positions: Tensor) -> "NearFar":
        return self

    def cos_sin(self, positions: Tensor, layer_index: int) -> tuple[Tensor, Tensor]:
        return cos_sin(self.far.near, positions)

    def attach(self, model: "Model") -> Iterable[Attachment]:
        return self.far.attach(model)


class FarPart:
    """The rotation of far keys in a model.

    Attributes:
        near, far: plain factors of both parts.
        window: W, tokens; 0 if all keys are far.
    """

    def __init__(self, near: RescaleFactors, far: RescaleFactors, window: int, rotation: KeyRotation) -> None:
        self.near = near
        self.far = far
        self.window = window
        self.rotation = rotation
        self._tables: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def attach(self, model: "Model") -> Iterator[Attachment]:
        """Set the attention implementation.

        Raises:
            ModelError: the model runs another one than sdpa.
        """
        yield _Implementation(model.model)
        yield model.decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)
        for module in model.decoder.modules():
            if hasattr(module, "config") and hasattr(module, "layer_idx"):
                yield ReplacedAttribute(module, ATTRIBUTE, self)

    def attend(
        self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, *, first: int, scale: float
    ) -> Tensor:
        """Attention of one layer to queries and keys after the near rotation.

        Args:
            query, key, value: (rows, heads, tokens, dim), without padding; a cache may store near and far
                keys side by side.
            first: the index in the cache of the first key.
            scale: of the logits.

        Returns:
            (rows, heads, queries, dim).
        """
        num_keys, dim = key.shape[2], query.shape[3]
        far_query, (key, *far_keys) = query, torch.split(key, dim, -1)
        far_key = far_keys[0] if far_keys else key
        if num_keys > self.window and self.rotation.layers[layer_index]:
            far_key = far_key if far_keys else self.rotate(layer_index, key, first)
            far_query = self._far_queries(layer_index, query, num_keys, first)
        return two_part_attention((query, key), (far_query, far_key), value, self.window, scale)

    def rotate(self, layer_index: int, states: Tensor, first: int) -> Tensor:
        """Queries or keys of consecutive tokens, rotated once more as keys from the index `first` on are."""
        last = first + states.shape[2]
        exact = torch.promote_types(states.dtype, torch.float32)
        cos, sin = (part[first:last] for part in self._table(layer_index, last, states.device, exact))
        return self.rotation.rotate((states, states), cos, sin)[0].to(states.dtype)

    @not_compiled
    def _before_decoder(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Let the cache store far keys too."""
        config: Any = decoder.config
        cache = kwargs.get("past_key_values")
        if cache is None and kwargs.get("use_cache", config.use_cache) and not torch.is_grad_enabled():
            cache = kwargs["past_key_values"] = DynamicCache(config=config)
        store_far_keys(cache, self.rotate, self.rotation.layers)
        return args, kwargs

    def _far_queries(self, layer_index: int, query: Tensor, num_keys: int, first: int) -> Tensor:
        """The query at m is rotated as the key at m - W is; queries without a far key become zero."""
        before = num_keys - query.shape[2]
        num_without = max(0, self.window - before)
        start = first + before + num_without - self.window
        return pad(self.rotate(layer_index, query[:, :, num_without:], start), (0, 0, num_without, 0))

    def _table(
        self, layer_index: int, num_tokens: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """cos and sin for each key dimension, of at least `num_tokens` tokens."""
        place = layer_index if self.far.per_layer else 0, device, dtype
        table = self._tables.get(place)
        if table is None or len(table[0]) < num_tokens:
            with torch.inference_mode(False):  # its tensors could not be used in training later
                size = -(-num_tokens // TABLE_STEP) * TABLE_STEP
                angles = far_angles(self.far, torch.arange(size, device=float64_device(device)), layer_index)
                ratio = self.far.attention_factor / self.near.attention_factor
                columns = self.rotation.columns(angles.cos() * ratio, angles.sin() * ratio)
                table = self._tables[place] = tuple(part.to(device, dtype) for part in columns)  # type: ignore[assignment]
        return table  # type: ignore[return-value]


def require_far_rotation(model: "Model") -> None:
    """Try whether a model's attention can rotate queries and keys once more.

    With all keys far, the hidden states must be those with the far factors in the rotary.

    Raises:
        ModelError: the family does not rotate pair by pair, or has attention of its own; or the model runs
            another implementation than sdpa.
    """
    implementation = model.model.config._attn_implementation
    if implementation not in ("sdpa", NAME):
        raise _refusal(model.name, f"it needs the attention implementation sdpa, but has {implementation}")
    try:
        rotation = model.key_rotation
        if rotation.part != 0:
            raise _refusal(model.name, "its cache does not store keys as its attention reads them")
        with torch.inference_mode(False), evaluating(model.model):
            expected, found = _hidden_states(model, rotation)
    except KeyRotationError as error:
        raise _refusal(model.name, error.reason) from None
    except FOREIGN_ERRORS as error:
        raise _refusal(model.name, str(error).splitlines()[0].rstrip(".")) from None
    tolerance = TOLERANCES.get(model.model.dtype, HALF_TOLERANCE)
    if float((found - expected).abs().max()) > tolerance * float(expected.abs().max()):
        raise _refusal(model.name, "its attention has other hidden states when it rotates them")


def _hidden_states(model: "Model", rotation: KeyRotation) -> tuple[Tensor, Tensor]:
    """Hidden states with factors in the rotary, and with all keys far."""
    rescale_factor, attention_factor = TEST_FACTORS
    geometry = model.geometry
    factors = RescaleFactors.single(
        geometry=geometry,
        target_length=max(geometry.original_length, NUM_TOKENS),
        rescale_factors=[rescale_factor] * geometry.num_pairs,
        attention_factor=attention_factor,
    )
    ones = factors.replace(rescale_factors=((1.0,) * geometry.num_pairs,), attention_factor=1.0)
    vocabulary = model.model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, NUM_TOKENS), generator=generator).to(model.model.device)
    found = []
    token = _is_trying.set(True)
    try:
        for installed in (OneSet(factors), _AllFar(ones, factors, rotation)):
            with model.using(installed):
                found.append(model.decoder(input_ids=ids, use_cache=False).last_hidden_state)
    finally:
        _is_trying.reset(token)
    return found[0], found[1]


class _AllFar(OneSet):
    """The rotary does not rescale, and all keys are far."""

    def __init__(self, near: RescaleFactors, far: RescaleFactors, rotation: KeyRotation) -> None:
        super().__init__(near)
        self.far = FarPart(near, far, 0, rotation)

    def attach(self, model: "Model") -> Iterable[Attachment]:
        return self.far.attach(model)


def _refusal(name: str, reason: str) -> ModelError:
    return ModelError(
        f"{name} can't read with near-far factors: {reason}; use factors without a near window."
    )


class _Implementation:
    """Sets a model's attention implementation until `remove`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before = model.config._attn_implementation
        model.set_attn_implementation(NAME)

    def remove(self) -> None:
        self._model.set_attn_implementation(self._before)


# ---------------------------------------------------------------- as transformers calls it


def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """Which keys are no padding, (rows, keys), or None if none is; for a layer with a window, sdpa's mask.

    Raises:
        ModelError: tokens do not see exactly the earlier tokens of their row.
    """
    local_size = kwargs.get("local_size")
    limits = local_size is not None and local_size < UNLIMITED_WINDOW
    if limits and not (_is_trying.get() and local_size >= kwargs["kv_length"]):
        return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})  # type: ignore[no-any-return]
    if local_size is None and kwargs.get("mask_function", causal_mask_function) is not causal_mask_function:
        raise ModelError(
            "Near-far factors need attention to all earlier tokens of a row, but the text is packed or has "
            "a mask of its own: read one text per row."
        )
    if int(kwargs.get("q_offset", 0)) + kwargs["q_length"] != kwargs["kv_length"]:
        raise ModelError(
            "Near-far factors need a cache that grows with the text, but this one has a fixed size: use "
            "transformers' DynamicCache."
        )
    is_token = kwargs.get("attention_mask")
    if is_token is None or bool(is_token.all()):
        return None
    is_token = is_token.bool()
    if bool((is_token.int().diff(dim=-1) > 0).sum(-1).add(is_token[:, 0]).gt(1).any()):
        raise ModelError(
            "Near-far factors need rows with padding before and after their tokens only, but a mask hides "
            "tokens within a row: leave these tokens out."
        )
    return is_token  # type: ignore[no-any-return]


def _forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers.

    Args:
        query, key, value: (rows, heads, tokens, head_dim); keys and values may have fewer heads.
        attention_mask: as `_mask` returns it.

    Returns:
        (rows, tokens, heads, head_dim), and no weights.
    """
    far: FarPart = getattr(module, ATTRIBUTE)
    if attention_mask is not None and attention_mask.dim() == 4:  # a layer with a window
        near_key = key[..., : query.shape[-1]]
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, near_key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    _require_plain(kwargs, dropout)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling

    attend = partial(far.attend, module.layer_idx, scale=scale)
    if attention_mask is None:
        output = attend(query, key, value, first=0)
    else:
        output = _by_row(attend, query, key, value, attention_mask)
    return output.transpose(1, 2).contiguous(), None


def _require_plain(kwargs: dict[str, Any], dropout: float) -> None:
    """Refuse parts of attention that the two-part softmax does not have."""
    given = [name for name in ("s_aux", "softcap", "position_bias") if kwargs.get(name) is not None]
    if dropout:
        given.append("dropout")
    if given:
        raise ModelError(
            f"Near-far factors need plain attention, but this model's has {', '.join(given)}: use factors "
            f"without a near window."
        )


def _by_row(
    attend: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_token: Tensor,
) -> Tensor:
    """Attention row by row, without the padding before a row's first token; it gives zero for padding.

    Padding after the last token changes nothing, because no token sees it.
    """
    outputs = []
    num_earlier = key.shape[2] - query.shape[2]
    for row, start in enumerate(is_token.int().argmax(-1).tolist()):
        num_padding = min(max(0, start - num_earlier), query.shape[2] - 1)
        start = min(start, num_earlier + num_padding)
        tensors = query[row, :, num_padding:], key[row, :, start:], value[row, :, start:]
        output = attend(*(tensor.unsqueeze(0) for tensor in tensors), first=start)
        outputs.append(pad(output, (0, 0, num_padding, 0)))
    return torch.cat(outputs)


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, _mask)
