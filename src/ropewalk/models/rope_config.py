"""Reads the geometry of a model's rotary, and its own scaling, from a transformers configuration.

Both forms are read: transformers 5 has one dictionary, `rope_parameters`, with theta inside; transformers 4
has `rope_scaling` beside a top-level `rope_theta`. The description is compared with the rotary that
transformers builds from the same configuration.
"""

import copy
import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import CONFIG_MAPPING

from ropewalk.errors import FactorsError, ModelError, SettingError, shown
from ropewalk.factors.base import Base
from ropewalk.factors.geometry import LARGEST, RopeGeometry
from ropewalk.factors.rescale_factors import Provenance, RescaleFactors
from ropewalk.models.config_fields import Fields, read_by_transformers, require_countable
from ropewalk.models.context_window import StatedWindow, is_length, stated_window
from ropewalk.models.rope_parameters import RopeParameters, read_rope_parameters, rope_dictionary
from ropewalk.models.rotary_check import build_rotary, require_described
from ropewalk.models.rotary_layout import layout_of
from ropewalk.models.scaling_config import num_still_pairs, read_own_scaling

# Model types that can't be extended, with the reason.
NOT_SUPPORTED = {
    "gptj": "each attention layer has its own table of angles instead of a rotary module",
    "codegen": "each attention layer has its own table of angles instead of a rotary module",
    "roformer": "it rotates by a table of weights instead of a rotary module",
    "bloom": "it has ALiBi instead of a rotary position embedding",
    "mpt": "it has ALiBi instead of a rotary position embedding",
    "blt": (
        "it reads bytes in patches, by four transformers (patcher, encoder, global, decoder) that each have "
        "a window and a rotary"
    ),
    "gemma4_assistant": "it drafts for another model, and reads that model's keys and values",
    "gemma4_unified_assistant": "it drafts for another model, and reads that model's keys and values",
}
SWITCHES_NOWHERE = (
    "Its configuration has long factors, but its model in transformers rotates by the short factors at every "
    "length."
)


@dataclass(frozen=True, kw_only=True)
class RopeDescription:
    """The geometry, the scaling and the windows that a model's configuration states.

    Attributes:
        geometry: the plain rotary, before any scaling.
        own: the model's own scaling at its longest length, as factors; None for no scaling.
        own_short: its factors up to the window that its scaling starts from, if they differ from `own`: the
            short set of longrope, factors of 1 for `dynamic`.
        own_problem: why its own scaling can't be written as factors, or None.
        sliding_window: tokens that its sliding (or chunked) layers see, None if every layer sees all tokens.
        num_sliding_layers: the number of these layers.
        num_attention_layers: the number of layers with attention.
        num_rotary_layers: the number of layers that factors change; others have no positions (NoPE), no
            attention, or another rotary.
        own_reach: tokens that the base model reads, with its own scaling; at least the trained window.
        window_notes: one sentence for each stated length that is likely to mislead.
    """

    geometry: RopeGeometry
    own: RescaleFactors | None
    own_short: RescaleFactors | None = None
    own_problem: str | None = None
    sliding_window: int | None
    num_sliding_layers: int
    num_attention_layers: int
    num_rotary_layers: int
    model_type: str
    own_reach: int
    window_notes: tuple[str, ...] = ()

    @property
    def layer_type(self) -> str | None:
        """The layer type that factors are for, as the configuration names it; None for all layers."""
        return self.geometry.layer_type

    @property
    def all_layers_slide(self) -> bool:
        """Whether every attention layer has a sliding window, so that none sees a longer context."""
        return self.sliding_window is not None and self.num_sliding_layers >= self.num_attention_layers

    @property
    def own_type(self) -> str:
        """The type of the model's own scaling, `default` for none."""
        return "default" if self.own is None else str(self.own.provenance.strategy).removeprefix("own ")

    @property
    def has_own_scaling(self) -> bool:
        """Whether the model has its own scaling, even one that can't be written as factors."""
        return self.own is not None or self.own_problem is not None

    def own_under(self, base: Base) -> RescaleFactors | None:
        """The factors that new factors are multiplied by: None for `native`, the model's own for `as-is`.

        Raises:
            SettingError: the base is neither `native` nor `as-is`.
            ModelError: the base is `as-is`, and the model's own scaling can't be written as factors.
        """
        if base not in ("native", "as-is"):
            raise SettingError(f"The base is {base!r}, but must be `native` or `as-is`.")
        if base == "native":
            return None
        if self.own_problem is not None:
            raise ModelError(f"The base `as-is` is not possible: {self.own_problem}; give --base native.")
        return self.own

    def require_long_attention(self, target_length: int, name: str) -> None:
        """Refuse a target that no layer sees, because every attention layer has a shorter window.

        Sliding layers of a model that also has global layers keep their windows.

        Args:
            target_length: tokens.
            name: the model's name in the error.

        Raises:
            ModelError: says how to lift the windows.
        """
        window = self.sliding_window
        if window is None or window >= target_length or not self.all_layers_slide:
            return
        raise ModelError(
            f"All {self.num_attention_layers} attention layers of {name} see only a window of {window} "
            f"tokens, but the target is {target_length}: lift their windows with --full-attention, or choose "
            f"a target up to {window}."
        )

    def original_factors(self) -> RescaleFactors:
        """The factors of the base model within its window: its own (short) scaling, or factors of 1.

        Raises:
            ModelError: its own scaling can't be written as factors.
        """
        if self.own_problem is not None:
            raise ModelError(f"The model's own RoPE can't be kept for short inputs: {self.own_problem}.")
        geometry, own = self.geometry, self.own_short or self.own
        if own is not None:
            return own.replace(target_length=geometry.original_length)
        ones = [1.0] * geometry.num_pairs
        return RescaleFactors.single(
            geometry=geometry, target_length=geometry.original_length, rescale_factors=ones
        )


def describe(config: Any, *, original_length: int | None = None, name: str = "") -> RopeDescription:
    """Read the configuration of a causal model, and compare it with the rotary of transformers.

    Args:
        config: a transformers configuration; for a multi-modal model, its text part is read.
        original_length: L in tokens, where the configuration states it wrongly.
        name: the model's name in errors; its type by default.

    Raises:
        ModelError: the family has no rotary, or one that a single vector of factors can't describe; or the
            configuration is invalid, or does not state how the model rotates.
    """
    description = read_description(config, original_length=original_length, name=name)
    text, name = _text_part(config, name)
    calls = build_rotary(text, name, description.geometry)
    if calls is not None:
        layout = layout_of(calls, description.geometry, name)
        if not require_described(calls, layout, description, name):
            return dataclasses.replace(
                description,
                own_reach=description.geometry.original_length,
                window_notes=(*description.window_notes, SWITCHES_NOWHERE),
            )
    return description


def read_description(config: Any, *, original_length: int | None = None, name: str = "") -> RopeDescription:
    """As `describe`, without the comparison, for a caller who compares with the rotary of a loaded model.

    Raises:
        ModelError: as `describe`.
    """
    text, name = _text_part(config, name)
    return _read(Fields(text, name), original_length)


def factors_from_config(
    config: Mapping[str, Any], *, original_length: int | None = None, name: str = "config.json"
) -> RescaleFactors:
    """The scaling in a `config.json`, as factors; for longrope, the long factors.

    For a model type that transformers supports, its configuration class reads the values. For any other type,
    they are read from the dictionary by the usual key names.

    Args:
        original_length: L in tokens, where the configuration states it wrongly.

    Raises:
        ModelError: as `describe`, or there is no scaling.
    """
    require_countable(config, name)
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{name} has no `model_type`, so it is not a model's config.json: name one.")
    text = config.get("text_config")
    if config["model_type"] not in CONFIG_MAPPING and isinstance(text, dict):
        config = text  # of a multi-modal model: transformers may support the text part alone
    config, model_type = with_todays_names(config), str(config.get("model_type"))
    if model_type in CONFIG_MAPPING:
        with read_by_transformers(name), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the older form is deprecated, but supported here
            read = CONFIG_MAPPING[model_type].from_dict(copy.deepcopy(config))
        description = describe(read, original_length=original_length, name=name)
    else:
        fields = Fields(_shared_fields(config), name)
        _require_one_position(fields)
        description = _read(fields, original_length)
    if description.own is None:
        reason = description.own_problem or "its rotary has no scaling, so there are no factors to convert"
        raise ModelError(f"{name} has no factors: {reason}.")
    return description.own


def with_todays_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rename `su`, longrope in the first Phi-3 configurations, which transformers no longer reads."""
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, dict) or "su" not in (scaling.get("type"), scaling.get("rope_type")):
        return dict(config)
    return {**config, "rope_scaling": {**scaling, "type": "longrope", "rope_type": "longrope"}}


def _shared_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The usual keys of model types that transformers does not support, under transformers' names."""
    fields = dict(config)
    # Multi-head latent attention rotates a part of each head, whose size has its own key.
    fields["head_dim"] = fields.get("qk_rope_head_dim") or fields.get("head_dim")
    fields.setdefault("partial_rotary_factor", fields.get("rotary_pct"))
    return fields


def _text_part(config: Any, name: str) -> tuple[Any, str]:
    """The configuration of the text part, and the model's name in errors."""
    with read_by_transformers(name or "The model"):
        text = config.get_text_config(decoder=True)
        name = name or str(text.model_type) or "this model"
        if config.model_type in NOT_SUPPORTED:
            raise Fields(config, name).refuse(NOT_SUPPORTED[config.model_type])
        return text, name


def _read(fields: Fields, original_length: int | None) -> RopeDescription:
    model_type = str(fields.get("model_type"))
    if model_type in NOT_SUPPORTED:
        raise fields.refuse(NOT_SUPPORTED[model_type])
    if fields.get("alibi"):
        raise fields.refuse("it has ALiBi instead of a rotary position embedding")
    rotary = read_rope_parameters(fields)
    parameters, layers = rotary.values, rotary.layers
    stated = stated_window(fields, parameters, original_length)
    if stated.trained is None:
        raise ModelError(
            f"{fields.name} does not say how many tokens it was trained on (`max_position_embeddings`): "
            f"give its window with --original-length."
        )
    geometry = _geometry(rotary, stated.trained, fields.required("num_hidden_layers"))
    if not is_length(stated.reach):
        raise fields.refuse(
            f"its {stated.rope_type} scaling reaches {shown(stated.reach)} tokens, but a length is at most "
            f"{LARGEST['original_length']}"
        )
    if not any(layers.rotates):
        raise fields.refuse("none of its layers has a rotary position embedding")
    own, own_short, own_problem = _own_scaling(stated, parameters, geometry)
    return RopeDescription(
        geometry=geometry,
        own=own,
        own_short=own_short,
        own_problem=own_problem,
        sliding_window=layers.window,
        num_sliding_layers=sum(layers.sees_window),
        num_attention_layers=sum(layers.attends),
        num_rotary_layers=sum(layers.rotates),
        model_type=model_type,
        own_reach=stated.reach,
        window_notes=(*stated.notes(), *layers.notes()),
    )


def _require_one_position(fields: Fields) -> None:
    """Refuse several positions per token, for a model that can't be built and compared."""
    given = rope_dictionary(fields)
    if given.get("mrope_section") or "mrope" in (given.get("rope_type"), given.get("type")):
        raise fields.refuse(
            "its pairs are split between time, height and width (mrope), and only one position per token is "
            "searched"
        )


def _geometry(rotary: RopeParameters, original_length: int, num_layers: int) -> RopeGeometry:
    """The sizes as transformers computes them."""
    parameters, sizes = rotary.values, rotary.sizes
    head_dim = sizes.size("head_dim")
    if head_dim is None:
        head_dim = sizes.required("hidden_size") // sizes.required("num_attention_heads")
    partial = parameters.number("partial_rotary_factor")
    partial = sizes.number("partial_rotary_factor") if partial is None else partial
    share = 1.0 if partial is None else partial
    rotary_dim, frequency_dim = int(head_dim * share), None
    still = num_still_pairs(parameters)
    if rotary.is_proportional and share < 1:
        rotary_dim, frequency_dim = 2 * int(share * head_dim // 2), head_dim
    elif still:
        rotary_dim, frequency_dim = rotary_dim - 2 * still, rotary_dim
    return RopeGeometry(
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        rope_theta=parameters.number("rope_theta") or 0.0,
        original_length=original_length,
        num_layers=num_layers,
        layer_type=rotary.layer_type,
        frequency_dim=frequency_dim,
    )


def _own_scaling(
    stated: StatedWindow, parameters: Fields, geometry: RopeGeometry
) -> tuple[RescaleFactors | None, RescaleFactors | None, str | None]:
    """(own, own_short, own_problem), for the window that the configuration states, as in the model."""
    if stated.rope_type == "default":
        return None, None, None
    window = dataclasses.replace(geometry, original_length=stated.scaled_from or geometry.original_length)
    try:
        own, short = read_own_scaling(parameters, window, stated)
    except FactorsError as error:
        reason = str(error).rstrip(".")
        return None, None, f"its own {stated.rope_type} scaling can't be written as factors ({reason})"
    provenance = Provenance(model=parameters.name, strategy=f"own {stated.rope_type}", base="native")
    own = own.replace(geometry=geometry, provenance=provenance)
    return own, short and short.replace(geometry=geometry, provenance=provenance), None
