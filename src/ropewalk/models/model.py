"""Model: a causal language model that owns its rotary embedding; load_model makes one of a name."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ropewalk.errors import ModelError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.fingerprint import hash_weights, warn_if_other_weights
from ropewalk.models.head import Head, find_head, head_of_twin
from ropewalk.models.load_errors import first_statement, one_line_errors
from ropewalk.models.model_files import (
    find_commit,
    is_local,
    read_config_at,
    require_complete,
    require_readable_weights,
    revision_option,
    where_from,
)
from ropewalk.models.model_state import ATTRIBUTE, ModelState
from ropewalk.models.rope_config import RopeDescription, describe
from ropewalk.models.rotary import Installable, OneSet, RotaryHook, guard_hooks
from ropewalk.models.tokenizer import read_tokenizer, require_embeddings

DTYPES = ("float32", "bfloat16", "float16", "auto")


class Model:
    """A causal language model that owns its rotary embedding, its tokenizer, and what records say about it.

    Factors get into it by `using`, `install` and `uninstall` only. What they need is learnt once, when it is
    first needed: the rotary and its layout, the decoder and the head, and the places of sliding windows.

    In families with one rotary for all kinds of layer, factors apply to every layer that reads it, sliding
    layers too, as every engine computes it; a sliding layer keeps its window unless `full_attention`.

    Attributes:
        model, tokenizer: transformers' own objects; the tokenizer is None where none was given.
        name, revision: as given, and the hub's commit (None for local files).
    """

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any = None,
        name: str = "",
        revision: str | None = None,
        description: RopeDescription | None = None,
        original_length: int | None = None,
        full_attention: bool = False,
    ) -> None:
        """Of a transformers model that has none yet; see `load_model` and `wrap`."""
        config = model.config
        name = name or getattr(config, "name_or_path", "") or config.model_type
        state = ModelState(
            name=name, description=description, original_length=original_length, full_attention=full_attention
        )
        vars(model)[ATTRIBUTE] = state
        self._set(model, state, tokenizer=tokenizer, name=name, revision=revision)
        guard_hooks()

    def _set(self, model: Any, state: ModelState, *, tokenizer: Any, name: str, revision: str | None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        self._state = state

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {type(self.model).__name__}, factors={self.factors!r})"

    @classmethod
    def wrap(
        cls, model: Any, *, original_length: int | None = None, full_attention: bool | None = None
    ) -> "Model":
        """The `Model` of a transformers model in memory. What is learnt and installed stays with the latter.

        Args:
            model: any transformers causal model, or a `Model`.
            original_length: L in tokens, where the model's configuration states it wrongly.
            full_attention: installing lifts sliding windows that are shorter than the target. None, for
                either, keeps what was given before; other values uninstall what is installed.
        """
        if isinstance(model, Model):
            found, state = model, model._state
        else:
            state = vars(model).get(ATTRIBUTE)
            if state is None:
                return cls(model, original_length=original_length, full_attention=bool(full_attention))
            found = cls.__new__(cls)
            found._set(model, state, tokenizer=None, name=state.name, revision=None)
        is_other_length = original_length not in (None, state.original_length(found.model))
        if not is_other_length and full_attention in (None, state.full_attention):
            return found
        found.uninstall()
        return cls(
            found.model,
            tokenizer=found.tokenizer,
            name=found.name,
            revision=found.revision,
            description=None if is_other_length else found.description,
            original_length=original_length,
            full_attention=state.full_attention if full_attention is None else full_attention,
        )

    # ------------------------------------------------------------ factors

    def install(self, factors: RescaleFactors | Installable) -> None:
        """Rotate by these factors until `uninstall`; other factors take the place of earlier ones.

        Raises:
            FactorsError: they were made for another geometry.
            ModelError: the family can't be extended, or every layer slides over a window that is shorter than
                the target and `full_attention` is off. Earlier factors then stay.
        """
        installed = OneSet(factors) if isinstance(factors, RescaleFactors) else factors
        self._state.require_suitable(self.model, installed)
        self._state.switch(self, installed)

    def uninstall(self) -> None:
        """Leave the base model, the same bits; without installed factors, nothing happens."""
        self._state.switch(self, None)

    @contextmanager
    def using(self, factors: RescaleFactors | Installable | None) -> Iterator[None]:
        """`install` for the length of a `with`, then what was installed before; None changes nothing."""
        if factors is None:
            yield
            return
        before = self.installed
        self.install(factors)
        try:
            yield
        finally:
            self._state.switch(self, before)

    @property
    def installed(self) -> Installable | None:
        """What the model rotates by now; None for its own rotary."""
        return self._state.installed

    @property
    def factors(self) -> RescaleFactors | None:
        """The installed factors, of several sets those of the longest; None for the base model."""
        installed = self.installed
        return None if installed is None else installed.factors

    @property
    def full_attention(self) -> bool:
        """Whether sliding windows that are shorter than the target are lifted while factors are installed."""
        return self._state.full_attention

    def base_config(self) -> AbstractContextManager[None]:
        """Inside the `with`, configurations are those of the base model, whatever is installed."""
        return self._state.base_config()

    # ------------------------------------------------------------ what is known of the model

    @property
    def description(self) -> RopeDescription:
        """Its geometry, and the scaling that it has."""
        return self._state.description(self.model)

    @property
    def geometry(self) -> RopeGeometry:
        return self.description.geometry

    @cached_property
    def weights_sha256(self) -> str:
        """`hash_weights` of the model."""
        return hash_weights(self.model)

    @cached_property
    def where(self) -> dict[str, str | None]:
        """Device, dtype, attn_implementation and revision, for every record."""
        return {
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attn_implementation": self.model.config._attn_implementation,
            "revision": self.revision,
        }

    @property
    def hook(self) -> RotaryHook:
        """The hook on the rotary, with the layout of cos and sin.

        Raises:
            ModelError: the family can't be extended, or does not rotate as its configuration states.
        """
        return self._state.rotary(self.model).hook

    @property
    def decoder_layers(self) -> nn.ModuleList | None:
        """The decoder layers, or None if the model has no list of them beside its rotary."""
        return self._state.rotary(self.model).decoder_layers

    @property
    def head(self) -> Head:
        """The decoder, and how logits are made of its last hidden states.

        Raises:
            EvaluationError: no decoder's hidden states give the model's own logits.
        """
        if self._state.head is not None:
            decoder, is_plain = self._state.head
            return Head(model=self.model, decoder=decoder, is_plain=is_plain)
        head = find_head(self.model)
        if head.is_certain:
            self._state.head = head.decoder, head.is_plain
        return head

    @property
    def decoder(self) -> nn.Module:
        """The module that reads tokens and returns last hidden states."""
        return self.head.decoder

    def share_head_of(self, twin: "Model") -> None:
        """Take the head as found in a smaller model of the same class, instead of looking for it."""
        head = head_of_twin(self.model, twin.head)
        self._state.head = head.decoder, head.is_plain

    @property
    def rotates_by_length(self) -> bool:
        """Whether the model rotates otherwise in longer texts, by a rule of its own."""
        return self.installed is None and self._state.has_length_rule(self.model)

    def warn_if_other_weights(self, factors: RescaleFactors, source: str = "these factors") -> None:
        """Warn, naming both models, where factors were made on other weights of the same geometry."""
        warn_if_other_weights(factors, source, model=self.name, weights_sha256=self.weights_sha256)


def load_model(
    name: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
    revision: str | None = None,
    trust_remote_code: bool = False,
    original_length: int | None = None,
    full_attention: bool = False,
) -> Model:
    """Load a model from a folder, the hub, a `.gguf` file, or `scale-model`, ready to be evaluated.

    Weights are read from safetensors or GGUF; pickles are refused, because reading one runs its code. The
    configuration is looked at before any weight, so that a model that can't be extended costs nothing.

    Args:
        device: as torch names it, or `auto` for an accelerator where there is one.
        dtype: float32, bfloat16, float16, or `auto` for the checkpoint's own.
        attn_implementation: as transformers names it.
        revision: branch, tag or commit on the hub.
        original_length: L in tokens, where the configuration states a wrong window.
        full_attention: installing factors lifts sliding windows that are shorter than the target.

    Raises:
        ModelError: not found, not reachable, not a causal model, no rotary embedding that can be rescaled,
            or weights that can't be read.
    """
    name = str(name)
    torch_device, torch_dtype = _device(device), _dtype(dtype)
    path, options = where_from(name)
    commit = find_commit(path, revision)
    config = read_config_at(name, path, options, commit, trust_remote_code)
    description = describe(config, original_length=original_length, name=name)
    require_readable_weights(name, path, options, commit, config, description.geometry.num_layers)
    options |= {"trust_remote_code": trust_remote_code, **revision_option(path, commit)}
    tokenizer = read_tokenizer(path, name, config=config, **options)
    with one_line_errors(name, on_hub=not is_local(path)):
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=torch_dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        require_complete(report, name)
        model = model.to(torch_device).eval()
    require_embeddings(model, tokenizer, name)
    loaded = Model(
        model,
        tokenizer=tokenizer,
        name=name,
        revision=commit,
        description=description,
        full_attention=full_attention,
    )
    loaded.weights_sha256 = hash_weights(model)  # before anything can change them
    loaded.where |= {"device": str(torch_device), "attn_implementation": attn_implementation}  # as given
    return loaded


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise ModelError(
            f"The device is {name!r}, which torch can't use here: give cpu, auto, or another that it has "
            f"({first_statement(error).rstrip('.')})."
        ) from None
    return device


def _dtype(name: str) -> torch.dtype | str:
    if name not in DTYPES:
        raise ModelError(f"The dtype is {name!r}, but must be one of {', '.join(DTYPES)}.")
    return name if name == "auto" else getattr(torch, name)
