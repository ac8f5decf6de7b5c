"""The state that Ropewalk keeps for a transformers model: what is known about it, and what is installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import nn
from transformers import PreTrainedConfig

from ropewalk.errors import ModelError
from ropewalk.models.generation_cache import drops_cache_at_switch, keep_cache
from ropewalk.models.key_rotation import KeyRotation
from ropewalk.models.replaced_attribute import ReplacedAttribute
from ropewalk.models.rope_config import RopeDescription, read_description
from ropewalk.models.rotary import Attachment, Installable, OneSet, RotaryHook
from ropewalk.models.rotary_calls import find_decoder_layers, find_rotary, text_decoder
from ropewalk.models.rotary_check import require_described
from ropewalk.models.rotary_layout import layout_of
from ropewalk.models.sliding_windows import UNLIMITED_WINDOW, find_windows

if TYPE_CHECKING:
    from ropewalk.models.model import Model

ATTRIBUTE = "_ropewalk_state"  # of a transformers model
LENGTH_DEPENDENT = ("dynamic", "longrope")


class ModelState:
    """The state of one transformers model, which every `Model` of it shares.

    It is an attribute of the transformers model, so that a copy of the model has a copy of it. It refers to
    parts of the model, not to the model, so that the memory of a base model is freed with its last reference.

    Attributes:
        name: the model's name in errors.
        full_attention: whether sliding windows are lifted while factors are installed.
        head: the decoder, and whether the output matrix alone gives the logits; None until it is found.
        key_rotation: how the model rotates its keys; None until it is learnt.
        has_far_rotation: whether its attention was tried with near-far factors.
        attached: the hooks and attributes of what is installed; empty for the base model.
    """

    def __init__(
        self,
        *,
        name: str,
        description: RopeDescription | None = None,
        original_length: int | None = None,
        full_attention: bool = False,
    ) -> None:
        """None as `description` reads it from the model, with `original_length` instead of its window."""
        self.name = name
        self.full_attention = full_attention
        self.head: tuple[nn.Module, bool] | None = None
        self.key_rotation: KeyRotation | None = None
        self.has_far_rotation = False
        self.attached: list[Attachment] = []
        self._description = description
        self._original_length = original_length
        self._rotary: LearntRotary | None = None
        self._rope_types: list[str] | None = None

    def description(self, model: Any) -> RopeDescription:
        """The geometry and the scaling that the model's configuration states."""
        if self._description is None:
            self._description = read_description(
                model.config, original_length=self._original_length, name=self.name
            )
        return self._description

    def original_length(self, model: Any) -> int:
        """The window that the model was trained on, in tokens: the given one, or else the configuration's."""
        return self._original_length or self.description(model).geometry.original_length

    def rotary(self, model: Any) -> "LearntRotary":
        """The rotary as `install` needs it; computed once, on first use.

        Raises:
            ModelError: the family can't be extended, or its rotation differs from its configuration.
        """
        if self._rotary is None:
            self._rotary = LearntRotary.of(model, self.name, self.description(model), self.full_attention)
        return self._rotary

    def has_length_rule(self, model: Any) -> bool:
        """Whether a rotary has a rule that changes the rotation in longer texts."""
        if self._rope_types is None:
            self._rope_types = [kind for part in model.modules() for kind in _rope_types(part)]
        return any(rope_type in LENGTH_DEPENDENT for rope_type in self._rope_types)

    @property
    def installed(self) -> Installable | None:
        """What is installed now; None for the base model."""
        return self._rotary.hook.installed if self._rotary is not None and self.attached else None

    def require_suitable(self, model: Any, installed: Installable) -> None:
        """Check that this can be installed, before anything changes.

        Raises:
            FactorsError: the factors have another geometry.
            ModelError: every layer has a sliding window shorter than the target, or the factors are per layer
                and the layers are not found.
        """
        description, rotary = self.description(model), self.rotary(model)
        target = installed.factors.target_length
        installed.factors.require_geometry(description.geometry, self.name)
        if not self.full_attention:
            description.require_long_attention(target, self.name)
        if installed.per_layer and rotary.is_shared and rotary.decoder_layers is None:
            raise ModelError(
                f"{self.name} has no list of {description.geometry.num_layers} layers beside its rotary: "
                f"give one vector of factors for all layers."
            )

    def switch(self, owner: "Model", installed: Installable | None) -> None:
        """Replace what is installed; None restores the base model."""
        before = self.installed
        if _is_one_set(before) and _is_one_set(installed) and before.per_layer == installed.per_layer:
            self.rotary(owner.model).hook.set(installed)
            return
        self._detach()
        if installed is None:
            return
        try:
            self._attach(owner, installed)
        except BaseException:
            self._detach()
            if before is not None:
                self._attach(owner, before)
            raise

    @contextmanager
    def base_config(self) -> Iterator[None]:
        """Inside the `with`, configurations are those of the base model, with or without factors."""
        replaced = [
            attached
            for attached in self.attached
            if isinstance(attached, ReplacedAttribute) and isinstance(attached.owner, PreTrainedConfig)
        ]
        for attribute in reversed(replaced):
            attribute.remove()
        try:
            yield
        finally:
            for attribute in replaced:
                attribute.replace()

    def _attach(self, owner: "Model", installed: Installable) -> None:
        rotary = self.rotary(owner.model)
        layers = rotary.decoder_layers if installed.per_layer and rotary.is_shared else None
        rotary.hook.set(installed)
        self.attached.extend(rotary.hook.attach(layers or ()))
        self.attached.extend(ReplacedAttribute(*window, UNLIMITED_WINDOW) for window in rotary.windows)
        self.attached.extend(keep_cache(owner.model.get_submodule(path)) for path in rotary.cache_droppers)
        self.attached.extend(installed.attach(owner))

    def _detach(self) -> None:
        """Remove in reverse order, so that an attribute that was replaced twice gets its first value."""
        while self.attached:
            self.attached.pop().remove()
        if self._rotary is not None:
            self._rotary.hook.set(None)


@dataclass(frozen=True, kw_only=True, eq=False)
class LearntRotary:
    """What `install` needs to know about a model.

    Attributes:
        hook: replaces what the rotary returns.
        decoder_layers: the list of layers beside the rotary that they share, or None if there is none.
        windows: (owner, attribute) of every window that is lifted.
        cache_droppers: paths of the modules with Phi's rule of generation.
    """

    hook: RotaryHook
    decoder_layers: nn.ModuleList | None
    windows: list[tuple[Any, str]]
    cache_droppers: list[str]

    @classmethod
    def of(cls, model: Any, name: str, description: RopeDescription, full_attention: bool) -> "LearntRotary":
        """Inspect the base model.

        Raises:
            ModelError: the family can't be extended, or its rotation differs from its configuration.
        """
        geometry = description.geometry
        calls = find_rotary(model, name, geometry.layer_type, geometry.rope_theta)
        layout = layout_of(calls, geometry, name)
        require_described(calls, layout, description, name)
        layers = find_decoder_layers(model, calls.rotary, geometry.num_layers)
        return cls(
            hook=RotaryHook(calls, layout, name),
            decoder_layers=None if calls.also_in_layers else layers,
            windows=find_windows(text_decoder(model)) if full_attention else [],
            cache_droppers=[path for path, part in model.named_modules() if drops_cache_at_switch(part)],
        )

    @property
    def is_shared(self) -> bool:
        """Whether the layers share a rotary."""
        return not self.hook.calls.layer_indices


def _rope_types(module: Any) -> list[Any]:
    """The scaling types of a rotary (one per layer type in some families); empty for other modules."""
    rope_type = getattr(module, "rope_type", None)
    return list(rope_type.values()) if isinstance(rope_type, dict) else [rope_type]


def _is_one_set(installed: Installable | None) -> TypeGuard[OneSet]:
    return isinstance(installed, OneSet)
