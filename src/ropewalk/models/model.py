"""Model: a causal language model that owns its rotary embedding; `load_model` loads one by name."""

from collections.abc import Iterator, Mapping
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
from ropewalk.models.key_rotation import KeyRotation, learn_key_rotation
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
from ropewalk.models.near_far import NearFar, require_far_rotation
from ropewalk.models.rope_config import RopeDescription, describe
from ropewalk.models.rotary import Installable, OneSet, RotaryHook, guard_hooks
from ropewalk.models.tokenizer import read_tokenizer, require_embeddings

DTYPES = ("float32", "bfloat16", "float16", "auto")
ALL_GPUS = "cuda:all"  # a device of `load_model`


class Model:
    """A causal language model with its rotary embedding, its tokenizer, and its description for records.

    Factors are installed by `using` and `install`, and removed by `uninstall`. The model is inspected once,
    on first use, for the rotary and its layout, the decoder and the head, and the attributes of sliding
    windows.

    In families with one rotary for all kinds of layer, factors apply to every layer that reads it, including
    sliding layers, as in every engine; a sliding layer keeps its window unless `full_attention` is set.

    Attributes:
        model, tokenizer: the objects of transformers; the tokenizer is None if none was given.
        name, revision: the given name, and the hub's commit (None for local files).
        load_options: the arguments with which `load_model` loads it again; None for a model in memory.
    """

    load_options: Mapping[str, Any] | None = None

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
        """For a transformers model without a state; use `load_model` or `wrap` instead."""
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
        """The `Model` of a transformers model in memory; several share what is known and installed.

        Args:
            model: any transformers causal model, or a `Model`.
            original_length: L in tokens, where the model's configuration states it wrongly.
            full_attention: whether `install` lifts sliding windows that are shorter than the target. For this
                and for `original_length`, None keeps the earlier value; another value uninstalls the factors.
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
        """Rotate by these factors until `uninstall`; replaces factors that are installed.

        Raises:
            FactorsError: the factors were made for another geometry.
            ModelError: the family can't be extended, or not by near-far factors; or every layer has a sliding
                window shorter than the target and `full_attention` is off. Factors that were installed before
                then stay installed.
        """
        installed = self._installable(factors) if isinstance(factors, RescaleFactors) else factors
        self._state.require_suitable(self.model, installed)
        self._state.switch(self, installed)

    def _installable(self, factors: RescaleFactors) -> Installable:
        return NearFar.of(factors, self.far_rotation) if factors.is_near_far else OneSet(factors)

    def uninstall(self) -> None:
        """Restore the base model bit for bit; does nothing without installed factors."""
        self._state.switch(self, None)

    @contextmanager
    def using(self, factors: RescaleFactors | Installable | None) -> Iterator[None]:
        """Install inside the `with`, then restore what was installed before; None changes nothing."""
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
        """What is installed now; None for the base model."""
        return self._state.installed

    @property
    def factors(self) -> RescaleFactors | None:
        """The installed factors, for a factor set those of its longest entry; None for the base model."""
        installed = self.installed
        return None if installed is None else installed.factors

    @property
    def full_attention(self) -> bool:
        """Whether sliding windows that are shorter than the target are lifted while factors are installed."""
        return self._state.full_attention

    def base_config(self) -> AbstractContextManager[None]:
        """Inside the `with`, configurations are those of the base model, with or without factors."""
        return self._state.base_config()

    # ------------------------------------------------------------ description

    @property
    def description(self) -> RopeDescription:
        """The geometry of the model, and its own scaling."""
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
            ModelError: the family can't be extended, or its rotation differs from its configuration.
        """
        return self._state.rotary(self.model).hook

    @property
    def decoder_layers(self) -> nn.ModuleList | None:
        """The decoder layers, or None if the model has no list of them beside its rotary."""
        return self._state.rotary(self.model).decoder_layers

    @property
    def head(self) -> Head:
        """The decoder, and how logits are computed from its last hidden states.

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

    @property
    def key_rotation(self) -> KeyRotation:
        """How the model rotates its keys; learnt on first use.

        Raises:
            ModelError: as `learn_key_rotation`.
        """
        if self._state.key_rotation is None:
            self._state.key_rotation = learn_key_rotation(self)
        return self._state.key_rotation

    @property
    def far_rotation(self) -> KeyRotation:
        """`key_rotation`, tried in the attention of near-far factors on first use.

        Raises:
            ModelError: as `require_far_rotation`.
        """
        if not self._state.has_far_rotation:
            require_far_rotation(self)
            self._state.has_far_rotation = True
        return self.key_rotation

    def share_head_of(self, twin: "Model") -> None:
        """Use the head that was found in a smaller model of the same class, instead of searching for it."""
        head = head_of_twin(self.model, twin.head)
        self._state.head = head.decoder, head.is_plain

    @property
    def rotates_by_length(self) -> bool:
        """Whether the model has its own rule that changes the rotation in longer texts."""
        return self.installed is None and self._state.has_length_rule(self.model)

    def warn_if_other_weights(self, factors: RescaleFactors, source: str = "these factors") -> None:
        """Warn if factors were made on other weights of the same geometry; the warning names both models."""
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
    configuration is checked first, so that a model that can't be extended is refused before its weights load.

    Args:
        device: as torch names it, or `auto` for an accelerator if there is one, else the CPU; `cuda:all`
            divides the layers among all GPUs that are visible.
        dtype: float32, bfloat16, float16, or `auto` for the checkpoint's own.
        attn_implementation: as transformers names it.
        revision: branch, tag or commit on the hub.
        original_length: L in tokens, where the configuration states a wrong window.
        full_attention: whether installed factors lift sliding windows that are shorter than the target.

    Raises:
        ModelError: the model is not found, the hub is not reachable, it is not a causal model, it has no
            rotary embedding that can be rescaled, or its weights can't be read.
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
            device_map="balanced" if device == ALL_GPUS else None,
            **options,
        )
        require_complete(report, name)
        model = (model if device == ALL_GPUS else model.to(torch_device)).eval()
    require_embeddings(model, tokenizer, name)
    loaded = Model(
        model,
        tokenizer=tokenizer,
        name=name,
        revision=commit,
        description=description,
        full_attention=full_attention,
    )
    loaded.weights_sha256 = hash_weights(model)  # before factors or training change the model
    where = device if device == ALL_GPUS else str(torch_device)
    loaded.where |= {"device": where, "attn_implementation": attn_implementation}  # as given
    loaded.load_options = {
        "name": name,
        "device": where,
        "dtype": dtype,
        "attn_implementation": attn_implementation,
        "revision": commit,
        "trust_remote_code": trust_remote_code,
        "original_length": original_length,
        "full_attention": full_attention,
    }
    return loaded


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device("cuda" if name == ALL_GPUS else name)
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
