"""A transformers configuration to the geometry of its rotary, and the scaling that it already carries.

The only reader of other projects' names. Both forms are read: transformers 5 keeps one dictionary,
`rope_parameters`, with theta inside; transformers 4 has `rope_scaling` beside a top-level `rope_theta`.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig

from ropewalk.errors import FactorsError, ModelError, SettingError
from ropewalk.factors import Base, Provenance, RescaleFactors
from ropewalk.geometry import RopeGeometry
from ropewalk.models.own_scaling import SCALING_TYPES, read_own_scaling
from ropewalk.models.window import StatedWindow, stated_window

NO_ROTARY_IN_MODEL = {
    "gptj": "it turns queries and keys inside each attention layer, from a table of its own",
    "codegen": "it turns queries and keys inside each attention layer, from a table of its own",
    "roformer": "it turns queries and keys inside each attention layer, from a table of its own",
    "bloom": "it has ALiBi, no rotary position embedding",
    "mpt": "it has ALiBi, no rotary position embedding",
}


@dataclass(frozen=True, kw_only=True)
class RopeDescription:
    """What a model's configuration says about position.

    Attributes:
        geometry: the plain rotary, before any scaling.
        own: the scaling that the model carries at its longest length, or None.
        own_short: of longrope, its second set, for lengths up to the original window.
        own_problem: why a scaling that it carries can't be written as factors, or None.
        sliding_window: tokens that its sliding (or chunked) layers see, None where every layer sees all.
        num_sliding_layers: how many layers those are.
        own_reach: tokens that the model reads as it is, with its own scaling; at least the trained window.
        window_notes: a sentence for everything about its window that is not what it seems.
    """

    geometry: RopeGeometry
    own: RescaleFactors | None
    own_short: RescaleFactors | None = None
    own_problem: str | None = None
    sliding_window: int | None
    num_sliding_layers: int
    model_type: str
    own_reach: int
    window_notes: tuple[str, ...] = ()

    def own_under(self, base: Base) -> RescaleFactors | None:
        """What new factors are multiplied onto: nothing, or under `as-is` the scaling that the model carries.

        Raises:
            SettingError: neither `native` nor `as-is`.
            ModelError: `as-is`, and that scaling can't be written as factors.
        """
        if base not in ("native", "as-is"):
            raise SettingError(f"The base is {base!r}, but must be `native` or `as-is`.")
        if base == "native":
            return None
        if self.own_problem is not None:
            raise ModelError(f"The base `as-is` can't be had: {self.own_problem}; say --base native.")
        return self.own

    def original_factors(self) -> RescaleFactors:
        """What the model turns by within its window: its own (short) scaling, or none.

        Raises:
            ModelError: a scaling that can't be written as factors.
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
    """Read any causal model's configuration.

    Args:
        config: a transformers configuration; of a multi-modal one, its text part is read.
        original_length: L in tokens, where the configuration states it wrongly.
        name: how errors call the model; its type by default.

    Raises:
        ModelError: the family has no rotary, or one that a single vector of factors can't describe.
    """
    config = config.get_text_config(decoder=True)
    name = name or config.model_type or "this model"
    parameters = _rope_parameters(config, name)
    rotary_dim, head_dim = _dimensions(config, parameters, name)
    stated = stated_window(config, parameters, original_length)
    if stated.trained is None:
        raise ModelError(
            f"{name} does not say how many tokens it was trained on (`max_position_embeddings`): "
            f"give its window with --original-length."
        )
    geometry = RopeGeometry(
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        rope_theta=float(parameters["rope_theta"]),
        original_length=stated.trained,
        num_layers=_number(config, "num_hidden_layers", name),
    )
    own, own_short, own_problem = _own_scaling(stated, parameters, geometry, name)
    window, num_sliding_layers = _sliding(config)
    return RopeDescription(
        geometry=geometry,
        own=own,
        own_short=own_short,
        own_problem=own_problem,
        sliding_window=window,
        num_sliding_layers=num_sliding_layers,
        model_type=config.model_type,
        own_reach=stated.reach,
        window_notes=stated.notes(),
    )


def factors_from_config(config: Mapping[str, Any], *, name: str = "config.json") -> RescaleFactors:
    """The scaling in a `config.json`, as factors; of longrope, the long ones.

    Raises:
        ModelError: as `describe`, or nothing is scaled there.
    """
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{name} is no model configuration: it names no `model_type`.")
    known = config["model_type"] in CONFIG_MAPPING
    config_class = CONFIG_MAPPING[config["model_type"]] if known else PreTrainedConfig
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the older form is deprecated, and read here
            description = describe(config_class.from_dict(_with_todays_names(config)), name=name)
    except ModelError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ModelError(
            f"{name} can't be read as a {config['model_type']} configuration: {reason}"
        ) from None
    if description.own is None:
        reason = description.own_problem or "its rotary is plain, so there are no factors to convert"
        raise ModelError(f"{name} holds no factors: {reason}.")
    return description.own


def _with_todays_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """`su` is what the first Phi-3 configurations call longrope, and transformers no longer reads."""
    scaling = config.get("rope_scaling")
    if not isinstance(scaling, dict) or scaling.get("type") != "su":
        return dict(config)
    return {**config, "rope_scaling": {**scaling, "type": "longrope"}}


def _rope_parameters(config: Any, name: str) -> dict[str, Any]:
    """One flat dictionary with at least `rope_type` and `rope_theta`, from either form."""
    if config.model_type in NO_ROTARY_IN_MODEL:
        raise ModelError(f"{name} can't be extended: {NO_ROTARY_IN_MODEL[config.model_type]}.")
    if getattr(config, "alibi", False):
        raise ModelError(f"{name} can't be extended: it has ALiBi, no rotary position embedding.")
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    theta = given.get("rope_theta", getattr(config, "rope_theta", None))
    nested = sorted(key for key, value in given.items() if isinstance(value, dict))
    if nested:
        raise ModelError(
            f"{name} can't be extended: it has different rotary parameters for each type of layer "
            f"({', '.join(nested)}), which one set of factors can't describe."
        )
    if theta is None:
        raise ModelError(f"{name} can't be extended: its configuration has no rotary position embedding.")
    rope_type = given.get("rope_type") or given.get("type") or "default"
    if given.get("mrope_section") or rope_type == "mrope":
        raise ModelError(
            f"{name} can't be extended: its pairs are split between time, height and width (mrope), "
            f"and only one position a token is searched."
        )
    if rope_type not in ("default", *SCALING_TYPES):
        raise ModelError(f"{name} can't be extended: its scaling {rope_type!r} is not known here.")
    return {**given, "rope_type": rope_type, "rope_theta": theta}


def _dimensions(config: Any, parameters: Mapping[str, Any], name: str) -> tuple[int, int]:
    """(rotary_dim, head_dim), as transformers computes them."""
    head_dim = getattr(config, "head_dim", None)
    if not head_dim:
        head_dim = _number(config, "hidden_size", name) // _number(config, "num_attention_heads", name)
    partial = parameters.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
    return int(head_dim * (1.0 if partial is None else partial)), int(head_dim)


def _number(config: Any, field: str, name: str) -> int:
    value = getattr(config, field, None)
    if value is None:
        raise ModelError(f"{name} can't be extended: its configuration does not say `{field}`.")
    return int(value)


def _own_scaling(
    stated: StatedWindow, parameters: Mapping[str, Any], geometry: RopeGeometry, name: str
) -> tuple[RescaleFactors | None, RescaleFactors | None, str | None]:
    """(own, own_short, own_problem): what the model computes, so from the window that it states itself."""
    rope_type = parameters["rope_type"]
    if rope_type == "default":
        return None, None, None
    window = dataclasses.replace(geometry, original_length=stated.scaled_from or geometry.original_length)
    try:
        own, short = read_own_scaling(parameters, window, stated.reach, stated.factor)
    except FactorsError as error:
        return (
            None,
            None,
            f"its own {rope_type} scaling can't be written as factors ({str(error).rstrip('.')})",
        )
    provenance = Provenance(model=name, strategy=f"own {rope_type}", base="native")
    own = own.replace(geometry=geometry, provenance=provenance)
    return own, short and short.replace(geometry=geometry, provenance=provenance), None


def _sliding(config: Any) -> tuple[int | None, int]:
    """(window in tokens, number of layers that see only so far)."""
    num_layers = int(config.num_hidden_layers)
    layer_types = getattr(config, "layer_types", None)
    for attribute, layer_type in (
        ("sliding_window", "sliding_attention"),
        ("attention_chunk_size", "chunked_attention"),
    ):
        window = getattr(config, attribute, None)
        if not window:
            continue
        num_sliding = num_layers if layer_types is None else list(layer_types).count(layer_type)
        if num_sliding:
            return int(window), num_sliding
    return None, 0
