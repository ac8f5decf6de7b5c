"""Put factors into a loaded model, and take them out again.

Families with a model-level rotary compute cos and sin once and pass them to every layer. While factors are
installed, that rotary's forward is replaced on the instance: it fills the family's own layout from the
exact table of `rope.frequencies`, so none of transformers' dynamic or switching rules is ever asked.
Whatever is replaced is remembered and put back, so that afterwards logits are the same bits.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary
from transformers import GenerationMixin

from ropewalk.errors import ModelError
from ropewalk.factors import RescaleFactors
from ropewalk.geometry import RopeGeometry
from ropewalk.models.describe import RopeDescription, describe
from ropewalk.models.layout import RotaryLayout, bare_forward, learn_layout
from ropewalk.rope.frequencies import cos_sin

# A window that no sequence fills. None would also switch off the rotary in families that turn only
# their sliding layers.
UNLIMITED_WINDOW = 2**40
WINDOW_ATTRIBUTES = ("sliding_window", "attention_chunk_size")


def install(
    model: nn.Module,
    factors: RescaleFactors,
    *,
    original_length: int | None = None,
    full_attention: bool = False,
) -> None:
    """Make the model's rotary turn by these factors, until `uninstall`.

    Installing again replaces the factors, which is cheap: only values change.

    Args:
        model: any transformers causal model with one model-level rotary.
        original_length: L in tokens, where the model's configuration states it wrongly.
        full_attention: layers with a window shorter than the target attend to everything meanwhile.

    Raises:
        FactorsError: they were made for another geometry.
        ModelError: the family can't be extended, or windows are too short and `full_attention` is not said.
    """
    current = find_installed(model)
    settings = (original_length, full_attention, factors.per_layer)
    if current is not None and current.settings == settings:
        current.check(factors)
        current.set_factors(factors)
        return
    replacement = _prepare(model, factors, settings)
    if current is not None:
        current.remove()
    replacement.put(model)


def uninstall(model: nn.Module) -> None:
    """Give the model back exactly what it had; without installed factors, nothing happens."""
    current = find_installed(model)
    if current is not None:
        current.remove()


@contextmanager
def installed(
    model: nn.Module,
    factors: RescaleFactors,
    *,
    original_length: int | None = None,
    full_attention: bool = False,
) -> Iterator[None]:
    """`install` for the length of a `with`; afterwards the model is as it was, other factors included."""
    before = find_installed(model)
    remembered = None if before is None else (before.factors, before.settings)
    install(model, factors, original_length=original_length, full_attention=full_attention)
    try:
        yield
    finally:
        if remembered is None:
            uninstall(model)
        else:
            earlier, (length, full, _) = remembered
            install(model, earlier, original_length=length, full_attention=full)


def find_installed(model: nn.Module) -> "InstalledRotary | None":
    """What stands in for the model's rotary now."""
    for module in model.modules():
        forward = module.__dict__.get("forward")
        if isinstance(forward, InstalledRotary):
            return forward
    return None


class InstalledRotary:
    """Stands in for the forward of a model's rotary: the same layout, from the exact table.

    The last table is kept: a search reads the same positions thousands of times. It is used again only
    for equal positions, dtype and device, and never after the factors change.
    """

    def __init__(
        self,
        rotary: nn.Module,
        layout: RotaryLayout,
        description: RopeDescription,
        name: str,
        factors: RescaleFactors,
        settings: tuple[int | None, bool, bool],
    ) -> None:
        self.rotary = rotary
        self.layout = layout
        self.description = description
        self.name = name
        self.settings = settings
        self._replaced: list[_Replaced] = []
        self._rows: Any = WeakIdKeyDictionary()
        self._table: _Table | None = None
        self.set_factors(factors)

    def set_factors(self, factors: RescaleFactors) -> None:
        self.factors = factors
        self._table = None

    def check(self, factors: RescaleFactors) -> None:
        """Refuse factors of another geometry, or layers that never see as far as the target."""
        factors.require_geometry(self.description.geometry, self.name)
        window, num_layers = self.description.sliding_window, self.description.num_sliding_layers
        full_attention = self.settings[1]
        if window is not None and window < factors.target_length and not full_attention:
            raise ModelError(
                f"{num_layers} of {self.description.geometry.num_layers} layers of {self.name} see only "
                f"{window} tokens, but the target is {factors.target_length}: lift their windows with "
                f"--full-attention, or choose a target up to {window}."
            )

    def put(self, model: nn.Module) -> None:
        """Replace the forward, and whatever else would act on its own."""
        self._replace(self.rotary, "forward", self)
        if self.factors.per_layer:
            for index, layer in enumerate(_decoder_layers(model, self.rotary, self.description.geometry)):
                self._replace(layer, "forward", _LayerForward(self, index, layer.forward))
        if self.settings[1]:
            for owner, attribute in _windows(model):
                self._replace(owner, attribute, UNLIMITED_WINDOW)
        for module in model.modules():
            if _drops_cache_at_switch(module):
                self._replace(module, "prepare_inputs_for_generation", _PlainPrepare(module))

    def remove(self) -> None:
        for replaced in reversed(self._replaced):
            replaced.put_back()
        self._replaced = []

    def _replace(self, owner: Any, attribute: str, value: Any) -> None:
        had = attribute in owner.__dict__
        self._replaced.append(_Replaced(owner, attribute, had, owner.__dict__.get(attribute)))
        setattr(owner, attribute, value)

    def __call__(self, x: Tensor, position_ids: Tensor) -> Any:
        """As the original: hidden states, and positions of shape (rows, tokens)."""
        table = self._table
        if table is None or not table.serves(x, position_ids):
            table = self._table = self._make_table(x, position_ids)
        if self.factors.per_layer:
            self._rows[_first_leaf(table.outputs[0])] = table.outputs
        return table.outputs[0]

    def _make_table(self, x: Tensor, position_ids: Tensor) -> "_Table":
        # Made as plain tensors: one made under inference mode could not be used in training later.
        with torch.inference_mode(False), torch.no_grad():
            positions = position_ids.clone()
            exact = positions.to(_float64_device(positions.device))
            outputs = [
                self.layout.fill(*cos_sin(self.factors, exact, layer_index), like=x)
                for layer_index in range(len(self.factors.rescale_factors))
            ]
        return _Table(positions, x.dtype, x.device, outputs)

    def row_for(self, value: Any, layer_index: int) -> Any:
        """What layer `layer_index` gets in the place of `value`, if that came from here; else None."""
        leaf = value[0] if isinstance(value, (tuple, list)) and value else value
        if not isinstance(leaf, Tensor) or leaf not in self._rows:
            return None
        return self._rows[leaf][layer_index]


class _Table:
    """Filled outputs, with what they were made for."""

    def __init__(
        self, positions: Tensor, dtype: torch.dtype, device: torch.device, outputs: list[Any]
    ) -> None:
        self.positions = positions
        self.dtype = dtype
        self.device = device
        self.outputs = outputs
        self._versions = self._current_versions()

    def serves(self, x: Tensor, position_ids: Tensor) -> bool:
        return (
            x.dtype == self.dtype
            and x.device == self.device
            and position_ids.device == self.positions.device
            and torch.equal(position_ids, self.positions)
            and self._versions == self._current_versions()
        )

    def _current_versions(self) -> list[int]:
        """They change where a family writes into what it was given."""
        return [leaf._version for output in self.outputs for leaf in _leaves(output)]


@dataclass(frozen=True)
class _Replaced:
    """An attribute as it was."""

    owner: Any
    attribute: str
    had: bool
    value: Any

    def put_back(self) -> None:
        if self.had:
            setattr(self.owner, self.attribute, self.value)
        else:
            delattr(self.owner, self.attribute)


class _LayerForward:
    """Stands in for one decoder layer's forward, where factors are per layer."""

    def __init__(self, rotary: InstalledRotary, layer_index: int, original: Any) -> None:
        self.rotary = rotary
        self.layer_index = layer_index
        self.original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        swapped = tuple(self._swap(value) for value in args)
        return self.original(*swapped, **{name: self._swap(value) for name, value in kwargs.items()})

    def _swap(self, value: Any) -> Any:
        row = self.rotary.row_for(value, self.layer_index)
        return value if row is None else row


class _PlainPrepare:
    """Generation as every model does it, without Phi's rule of dropping the cache where factors switch."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return GenerationMixin.prepare_inputs_for_generation(self.model, *args, **kwargs)


def _prepare(
    model: nn.Module, factors: RescaleFactors, settings: tuple[int | None, bool, bool]
) -> InstalledRotary:
    """Everything that may refuse, before anything is touched."""
    config: Any = model.config
    name = getattr(config, "name_or_path", "") or config.model_type
    description = describe(config, original_length=settings[0], name=name)
    rotary = find_rotary(model, name)
    layout = learn_layout(rotary, description.geometry.num_pairs, name)
    _require_described(rotary, layout, description, name)
    if factors.per_layer:
        _decoder_layers(model, rotary, description.geometry)
    replacement = InstalledRotary(rotary, layout, description, name, factors, settings)
    replacement.check(factors)
    return replacement


def find_rotary(model: nn.Module, name: str) -> nn.Module:
    """The one rotary that serves every layer of the text decoder.

    Raises:
        ModelError: there is none, there are several, or each layer has its own.
    """
    get_decoder = getattr(model, "get_decoder", None)
    decoder: nn.Module = get_decoder() if get_decoder is not None else model
    rotaries = {name: module for name, module in decoder.named_modules() if _is_rotary(module)}
    shared = [module for name, module in rotaries.items() if not any(map(str.isdigit, name.split(".")))]
    if len(rotaries) == 1 and shared:
        return shared[0]
    if shared:
        reason = f"it has {len(rotaries)} rotaries, which one set of factors can't describe"
    elif rotaries:
        reason = "each of its attention layers has a rotary of its own"
    else:
        reason = "it has no model-level rotary that could be replaced"
    raise ModelError(f"{name} can't be extended: {reason}.")


def _is_rotary(module: nn.Module) -> bool:
    parameters = inspect.signature(type(module).forward).parameters
    return "rotary" in type(module).__name__.lower() and "position_ids" in parameters


def _require_described(
    rotary: nn.Module, layout: RotaryLayout, description: RopeDescription, name: str
) -> None:
    """The model, as it came, must turn as its configuration says, or factors would mean something else."""
    if description.own_problem is not None:
        return
    buffer = getattr(rotary, "inv_freq", None)
    is_half = isinstance(buffer, Tensor) and buffer.dtype in (torch.bfloat16, torch.float16)
    positions = torch.arange(4).unsqueeze(0)
    original = bare_forward(copy.deepcopy(rotary).cpu(), positions)
    plain = RescaleFactors.single(
        geometry=description.geometry, target_length=1, rescale_factors=[1.0] * layout.num_pairs
    )
    for candidate in (plain, description.own, description.own_short):
        if candidate is not None:
            filled = layout.fill(
                *cos_sin(candidate.replace(attention_factor=1.0), positions), like=torch.zeros(1)
            )
            if _agree(original, filled, 0.05 if is_half else 1e-4):
                return
    raise ModelError(
        f"{name} can't be extended: its rotary does not turn at the frequencies that its configuration "
        f"states ({layout.num_pairs} pairs, theta {description.geometry.rope_theta:g})."
    )


def _agree(original: Any, filled: Any, tolerance: float) -> bool:
    """Equal up to one attention factor, which position 0 shows."""
    pairs = list(zip(_leaves(original), _leaves(filled), strict=True))
    if any(theirs.shape != ours.shape for theirs, ours in pairs):
        return False
    scale = max(float(theirs[:, 0].abs().max()) for theirs, _ in pairs)
    return all(float((theirs / scale - ours).abs().max()) < tolerance for theirs, ours in pairs)


def _decoder_layers(model: nn.Module, rotary: nn.Module, geometry: RopeGeometry) -> nn.ModuleList:
    """The layers beside the rotary.

    Raises:
        ModelError: there is no such list, so that per-layer factors can't be told apart.
    """
    for parent in model.modules():
        if any(child is rotary for child in parent.children()):
            for child in parent.children():
                if isinstance(child, nn.ModuleList) and len(child) == geometry.num_layers:
                    return child
    raise ModelError(
        f"No list of {geometry.num_layers} layers stands beside this model's rotary: give one vector of "
        f"factors for all layers."
    )


def _windows(model: nn.Module) -> Iterator[tuple[Any, str]]:
    """Every place that limits how far a layer sees: configurations (for masks and caches) and modules."""
    owners: dict[int, Any] = {}
    for module in model.modules():
        owners.setdefault(id(module), module)
        config = getattr(module, "config", None)
        if config is not None:
            owners.setdefault(id(config), config)
    for owner in owners.values():
        for attribute in WINDOW_ATTRIBUTES:
            value = owner.__dict__.get(attribute)
            if isinstance(value, int) and not isinstance(value, bool):
                yield owner, attribute


def _drops_cache_at_switch(module: nn.Module) -> bool:
    prepare = getattr(type(module), "prepare_inputs_for_generation", None)
    code = getattr(inspect.unwrap(prepare), "__code__", None) if prepare is not None else None
    return code is not None and "original_max_position_embeddings" in code.co_names


def _float64_device(device: torch.device) -> torch.device:
    """Where the exact table can be made: Apple's GPUs have no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def _leaves(output: Any) -> tuple[Tensor, ...]:
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)


def _first_leaf(output: Any) -> Tensor:
    return _leaves(output)[0]
