"""Put factors into a loaded model, and take them out again.

Families with a model-level rotary compute cos and sin once and pass them to every layer. While factors are
installed, that rotary's forward is replaced on the instance: it fills the family's own layout from the
exact table of `rope.frequencies`, so none of transformers' dynamic or switching rules is ever asked.
Whatever is replaced is remembered and put back, so that afterwards logits are the same bits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary
from transformers import GenerationMixin

from ropewalk.errors import ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.modules import drops_cache_at_switch, find_decoder_layers, find_rotary, find_windows
from ropewalk.models.replaced import Replacements
from ropewalk.models.rope_config import RopeDescription, read_description
from ropewalk.models.rotary_check import require_described
from ropewalk.models.rotary_layout import RotaryLayout, learn_layout, leaves
from ropewalk.rope.frequencies import cos_sin

# A window that no sequence fills and that kernels can hold in 32 bits. None would not do: it switches off
# the rotary in families that turn only their sliding layers.
UNLIMITED_WINDOW = 2**30

# original_length, full_attention, and whether factors are per layer.
Settings = tuple[int | None, bool, bool]
Rotary = TypeVar("Rotary", bound="InstalledRotary")


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
    if current is not None and current.takes(settings):
        current.check(factors)
        current.set_factors(factors)
        return
    if current is not None:
        current.remove()  # so that the model is looked at as it came, its windows too
    try:
        prepare(model, factors, settings, InstalledRotary).put(model)
    except BaseException:
        if current is not None:
            current.put(model)
        raise


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
    earlier = None if before is None else before.factors
    install(model, factors, original_length=original_length, full_attention=full_attention)
    try:
        yield
    finally:
        if before is not None and earlier is not None and find_installed(model) is before:
            before.set_factors(earlier)
        else:
            uninstall(model)
            if before is not None:
                before.put(model)


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
        settings: Settings,
    ) -> None:
        self.rotary = rotary
        self.layout = layout
        self.description = description
        self.name = name
        self.settings = settings
        self._replacements = Replacements()
        self._tables: Any = WeakIdKeyDictionary()
        self._table: Table | None = None
        self._traced: list[Table] | None = None
        self.set_factors(factors)

    @property
    def per_layer(self) -> bool:
        return self.factors.per_layer

    def takes(self, settings: Settings) -> bool:
        """Whether other factors with these settings can simply take the place of the present ones."""
        return self.settings == settings

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
        self._replacements.replace(self.rotary, "forward", self)
        if self.per_layer:
            for index, layer in enumerate(find_decoder_layers(model, self.rotary, self.description.geometry)):
                self._replacements.replace(layer, "forward", _LayerForward(self, index, layer.forward))
        if self.settings[1]:
            for owner, attribute in find_windows(model):
                self._replacements.replace(owner, attribute, UNLIMITED_WINDOW)
        for module in model.modules():
            if drops_cache_at_switch(module):
                self._replacements.replace(module, "prepare_inputs_for_generation", _PlainPrepare(module))

    def remove(self) -> None:
        self._replacements.put_back()

    @contextmanager
    def traced(self) -> Iterator[list["Table"]]:
        """Meanwhile tables are leaves that need gradients; those that were made are listed."""
        self._table, self._traced = None, []
        try:
            yield self._traced
        finally:
            self._table = self._traced = None

    def __call__(self, x: Tensor, position_ids: Tensor) -> Any:
        """As the original: hidden states, and positions of shape (rows, tokens), or one for each axis."""
        position_ids = self.layout.one_position(position_ids, self.name)
        table = self._table
        if table is None or not table.serves(x, position_ids):
            # A plain tensor in every mode: one made in inference mode could not be used in training later.
            with torch.inference_mode(False):
                positions = position_ids.clone()
                like = torch.empty(0, dtype=x.dtype, device=x.device)
                table = self._table = Table(positions, like, self._fill(positions, like, layer_index=0))
            if self._traced is not None:
                self._traced.append(table.require_gradients())
        if self.per_layer:
            self._tables[table.leaves[0]] = table
        return table.outputs

    def outputs_for(self, value: Any, layer_index: int) -> Any:
        """What layer `layer_index` gets in the place of `value`, if that came from here; else `value`."""
        leaf = value[0] if isinstance(value, (tuple, list)) and value else value
        if not isinstance(leaf, Tensor) or leaf not in self._tables:
            return value
        table = self._tables[leaf]
        # Made when the layer asks, and not kept: tables of all layers at once may not fit.
        with torch.inference_mode(False):
            return self._refill(table, layer_index)

    def _refill(self, table: "Table", layer_index: int) -> Any:
        return self._fill(table.positions, table.like, layer_index)

    def _fill(self, positions: Tensor, like: Tensor, layer_index: int) -> Any:
        exact = positions.to(float64_device(positions.device))
        return self.layout.fill(*cos_sin(self.factors, exact, layer_index), like=like)


class Table:
    """What a rotary returned last, with what it was made for."""

    def __init__(self, positions: Tensor, like: Tensor, outputs: Any) -> None:
        self.positions = positions
        self.like = like
        self.outputs = outputs
        self._versions = self._current_versions()

    def serves(self, x: Tensor, position_ids: Tensor) -> bool:
        return (
            x.dtype == self.like.dtype
            and x.device == self.like.device
            and position_ids.device == self.positions.device
            and torch.equal(position_ids, self.positions)
            and self._versions == self._current_versions()
        )

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return leaves(self.outputs)

    def require_gradients(self) -> "Table":
        for leaf in self.leaves:
            leaf.requires_grad_()
        return self

    def _current_versions(self) -> list[int]:
        """They change where a family writes into what it was given."""
        return [leaf._version for leaf in self.leaves]


class _LayerForward:
    """Stands in for one decoder layer's forward, where factors are per layer."""

    def __init__(self, rotary: InstalledRotary, layer_index: int, original: Any) -> None:
        self.rotary = rotary
        self.layer_index = layer_index
        self.original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        swapped = [self.rotary.outputs_for(value, self.layer_index) for value in args]
        named = {name: self.rotary.outputs_for(value, self.layer_index) for name, value in kwargs.items()}
        if named.get("position_embeddings") is not None:
            # A family that passes something else than what the rotary returned would keep layer 0's factors.
            assert named["position_embeddings"] is not kwargs["position_embeddings"]
        return self.original(*swapped, **named)


class _PlainPrepare:
    """Generation as every model does it, without Phi's rule of dropping the cache where factors switch."""

    def __init__(self, model: Any) -> None:
        self.model = model
        # Its signature is asked for: whether it takes embeddings in the place of ids.
        self.__wrapped__ = GenerationMixin.prepare_inputs_for_generation.__get__(model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return GenerationMixin.prepare_inputs_for_generation(self.model, *args, **kwargs)


def prepare(
    model: nn.Module, factors: RescaleFactors, settings: Settings, make: Callable[..., Rotary]
) -> Rotary:
    """Everything that may refuse, before anything is touched; `put` then puts it in.

    Raises:
        FactorsError: they were made for another geometry.
        ModelError: the family can't be extended, or windows are too short.
    """
    config: Any = model.config
    name = getattr(config, "name_or_path", "") or config.model_type
    description = read_description(config, original_length=settings[0], name=name)
    rotary = find_rotary(model, name)
    layout = learn_layout(rotary, description.geometry.num_pairs, name)
    require_described(rotary, layout, description, name)
    replacement = make(rotary, layout, description, name, factors, settings)
    if replacement.per_layer:
        find_decoder_layers(model, rotary, description.geometry)
    replacement.check(factors)
    return replacement


def float64_device(device: torch.device) -> torch.device:
    """Where the exact table can be made: Apple's GPUs have no float64."""
    return torch.device("cpu") if device.type == "mps" else device
