"""A model's name to a model that can be measured and extended, and what must be recorded about it."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils.hub import cached_file, resolve_revision

from ropewalk.errors import ModelError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.config_fields import require_countable
from ropewalk.models.fingerprint import hash_weights, warn_if_other_weights
from ropewalk.models.generation_cache import drops_cache_at_switch, keep_cache
from ropewalk.models.gguf_scaling import require_plain
from ropewalk.models.head import Head, find_head, head_of_twin
from ropewalk.models.load_errors import first_line, one_line_errors
from ropewalk.models.replaced_attribute import ReplacedAttribute
from ropewalk.models.rope_config import RopeDescription, describe, read_description, with_todays_names
from ropewalk.models.rotary import Attachment, Installable, OneSet, RotaryHook, guard_hooks
from ropewalk.models.rotary_calls import find_decoder_layers, find_rotary, text_decoder
from ropewalk.models.rotary_check import require_described
from ropewalk.models.rotary_layout import learn_layout
from ropewalk.models.scale_model import SCALE_MODEL, scale_model_path
from ropewalk.models.sliding_windows import UNLIMITED_WINDOW, find_windows
from ropewalk.models.tokenizer import read_tokenizer, require_embeddings
from ropewalk.models.untrusted_config import without_chosen_code
from ropewalk.models.weight_files import (
    INDEX,
    WEIGHTS,
    read_index,
    require_plain_weights,
    stored_dtypes,
    weight_files,
)

DTYPES = ("float32", "bfloat16", "float16", "auto")
NAMES = f"a model's folder, a hub name, a .gguf file, or {SCALE_MODEL}"
ADAPTER_CONFIG = "adapter_config.json"
ATTRIBUTE = "_ropewalk_model"  # of a transformers model: its `Model`
LENGTH_DEPENDENT = ("dynamic", "longrope")


class Model:
    """A causal language model that owns its rotary embedding, its tokenizer, and what records say about it.

    Factors get into it by `using`, `install` and `uninstall` only. What they need is learnt once, when it is
    first needed: the rotary and its layout, the decoder and the head, and the places of sliding windows.

    In families with one rotary for all kinds of layer, factors apply to every layer that reads it, sliding
    layers too, as every engine computes it; a sliding layer keeps its window unless `full_attention`.

    Attributes:
        model, tokenizer: transformers' own objects; the tokenizer is None where none was given.
        name, revision: as given, and the hub's commit (None for local files).
        full_attention: whether sliding windows that are shorter than the target are lifted while factors are
            installed.
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
        config = model.config
        self.model = model
        self.tokenizer = tokenizer
        self.name: str = name or getattr(config, "name_or_path", "") or config.model_type
        self.revision = revision
        self.full_attention = full_attention
        self._description = description
        self._original_length = original_length
        self._head: Head | None = None
        self._attached: list[Attachment] = []
        vars(model)[ATTRIBUTE] = self
        guard_hooks()

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {type(self.model).__name__}, factors={self.factors!r})"

    @classmethod
    def wrap(
        cls, model: Any, *, original_length: int | None = None, full_attention: bool | None = None
    ) -> "Model":
        """The `Model` of a transformers model in memory, which is built once and stays with it.

        Args:
            model: any transformers causal model; a `Model` is returned as it is.
            original_length: L in tokens, where the model's configuration states it wrongly.
            full_attention: installing lifts sliding windows that are shorter than the target.
                None, for either, keeps what an earlier `Model` of it has. Where they differ from it, what was
                installed is uninstalled, and a new `Model` takes its place.
        """
        earlier = model if isinstance(model, Model) else vars(model).get(ATTRIBUTE)
        if earlier is None:
            return cls(model, original_length=original_length, full_attention=bool(full_attention))
        other_length = original_length is not None and original_length != earlier.geometry.original_length
        if not other_length and full_attention in (None, earlier.full_attention):
            return earlier
        earlier.uninstall()
        return cls(
            earlier.model,
            tokenizer=earlier.tokenizer,
            name=earlier.name,
            revision=earlier.revision,
            description=None if other_length else earlier.description,
            original_length=original_length,
            full_attention=earlier.full_attention if full_attention is None else full_attention,
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
        self._require_suitable(installed)
        self._switch(installed)

    def uninstall(self) -> None:
        """Leave the base model, the same bits; without installed factors, nothing happens."""
        if self._attached:
            self._switch(None)

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
            self._switch(before)

    @property
    def installed(self) -> Installable | None:
        """What the model rotates by now; None for its own rotary."""
        return self.hook.installed if self._attached else None

    @property
    def factors(self) -> RescaleFactors | None:
        """The installed factors, of several sets those of the longest; None for the base model."""
        installed = self.installed
        return None if installed is None else installed.factors

    @contextmanager
    def base_config(self) -> Iterator[None]:
        """Inside the `with`, configurations are those of the base model, whatever is installed."""
        replaced = [
            attached
            for attached in self._attached
            if isinstance(attached, ReplacedAttribute) and isinstance(attached.owner, PreTrainedConfig)
        ]
        for attribute in replaced:
            attribute.remove()
        try:
            yield
        finally:
            for attribute in replaced:
                attribute.replace()

    # ------------------------------------------------------------ what is learnt once

    @property
    def description(self) -> RopeDescription:
        """Its geometry, and the scaling that it has."""
        if self._description is None:
            self._description = read_description(
                self.model.config, original_length=self._original_length, name=self.name
            )
        return self._description

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

    @cached_property
    def hook(self) -> RotaryHook:
        """The hook on the rotary, with the layout of cos and sin.

        Raises:
            ModelError: the family can't be extended, or does not rotate as its configuration states.
        """
        description = self.description
        calls = find_rotary(self.model, self.name, description.layer_type)
        layout = learn_layout(
            calls.rotary, self.geometry.num_pairs, self.name, layer_type=description.layer_type
        )
        require_described(calls.rotary, layout, description, self.name)
        return RotaryHook(calls, layout, self.name)

    @cached_property
    def decoder_layers(self) -> nn.ModuleList | None:
        """The decoder layers, or None if the model has no list of them beside its rotary."""
        return find_decoder_layers(self.model, self.hook.calls.rotary, self.geometry.num_layers)

    @property
    def head(self) -> Head:
        """The decoder, and how logits are made of its last hidden states.

        Raises:
            EvaluationError: no decoder's hidden states give the model's own logits.
        """
        head = self._head or find_head(self.model)
        if head.is_certain:
            self._head = head
        return head

    @property
    def decoder(self) -> nn.Module:
        """The module that reads tokens and returns last hidden states."""
        return self.head.decoder

    @property
    def rotates_by_length(self) -> bool:
        """Whether the model rotates otherwise in longer texts, by a rule of its own."""
        return not self._attached and any(
            rope_type in LENGTH_DEPENDENT for module in self._scaled_rotaries for rope_type in _types(module)
        )

    def share_head_of(self, twin: "Model") -> None:
        """Take the head as found in a smaller model of the same class, instead of looking for it."""
        self._head = head_of_twin(self.model, twin.head)

    @cached_property
    def _scaled_rotaries(self) -> list[nn.Module]:
        return [module for module in self.model.modules() if getattr(module, "rope_type", None) is not None]

    @cached_property
    def _windows(self) -> list[tuple[Any, str]]:
        return find_windows(text_decoder(self.model)) if self.full_attention else []

    @cached_property
    def _cache_droppers(self) -> list[nn.Module]:
        return [module for module in self.model.modules() if drops_cache_at_switch(module)]

    # ------------------------------------------------------------ attaching

    def _require_suitable(self, installed: Installable) -> None:
        installed.factors.require_geometry(self.geometry, self.name)
        description, target = self.description, installed.factors.target_length
        window, num_sliding = description.sliding_window, description.num_sliding_layers
        all_slide = num_sliding >= description.num_attention_layers
        if window is not None and window < target and all_slide and not self.full_attention:
            raise ModelError(
                f"All {num_sliding} attention layers of {self.name} see only a window of {window} tokens, "
                f"but the target is {target}: lift their windows with --full-attention, or choose a target "
                f"up to {window}."
            )
        self._layers_to_attach(installed)  # learns the hook, and refuses before anything changes

    def _layers_to_attach(self, installed: Installable) -> Iterable[nn.Module]:
        """The layers that need hooks of their own."""
        shares_rotary = not self.hook.calls.layer_indices
        if not (installed.per_layer and shares_rotary):
            return ()
        if self.decoder_layers is None:
            raise ModelError(
                f"No list of {self.geometry.num_layers} layers stands beside the rotary of {self.name}: give "
                f"one vector of factors for all layers."
            )
        return self.decoder_layers

    def _switch(self, installed: Installable | None) -> None:
        before = self.installed
        if _is_one_set(before) and _is_one_set(installed) and before.per_layer == installed.per_layer:
            self.hook.set(installed)
            return
        self._detach()
        if installed is None:
            return
        try:
            self._attach(installed)
        except BaseException:
            self._detach()
            if before is not None:
                self._attach(before)
            raise

    def _attach(self, installed: Installable) -> None:
        self.hook.set(installed)
        self._attached.extend(self.hook.attach(self._layers_to_attach(installed)))
        self._attached.extend(ReplacedAttribute(*window, UNLIMITED_WINDOW) for window in self._windows)
        self._attached.extend(keep_cache(module) for module in self._cache_droppers)
        self._attached.extend(installed.attach(self))

    def _detach(self) -> None:
        """The last first, so that an attribute that was replaced twice is as it was."""
        while self._attached:
            self._attached.pop().remove()
        if "hook" in vars(self):
            self.hook.set(None)

    def warn_if_other_weights(self, factors: RescaleFactors, source: str = "these factors") -> None:
        """Warn, naming both models, where factors were made on other weights of the same geometry."""
        warn_if_other_weights(factors, source, model=self.name, weights_sha256=self.weights_sha256)


def _is_one_set(installed: Installable | None) -> TypeGuard[OneSet]:
    return isinstance(installed, OneSet)


def _types(rotary: Any) -> Iterable[Any]:
    """The types of scaling of a rotary, of which some have one for each type of layer."""
    return rotary.rope_type.values() if isinstance(rotary.rope_type, dict) else (rotary.rope_type,)


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
    commit = _commit(path, revision)
    config = _read_config(name, path, options, commit, trust_remote_code)
    description = describe(config, original_length=original_length, name=name)
    _require_readable_weights(name, path, options, commit, config, description.geometry.num_layers)
    options |= {"trust_remote_code": trust_remote_code, **_revision(path, commit)}
    tokenizer = read_tokenizer(path, name, config=config, **options)
    with one_line_errors(name, on_hub=not _is_local(path)):
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=torch_dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        _require_complete(report, name)
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


def describe_model(
    name: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    original_length: int | None = None,
) -> RopeDescription:
    """What `load_model` would say of a model's positions, from its configuration alone: no weights are read.

    Raises:
        ModelError: as `load_model`.
    """
    config = read_config(name, revision=revision, trust_remote_code=trust_remote_code)
    return describe(config, original_length=original_length, name=str(name))


def read_config(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """A model's configuration, as transformers has it.

    Raises:
        ModelError: as `load_model`.
    """
    path, options = where_from(str(name))
    return _read_config(str(name), path, options, _commit(path, revision), trust_remote_code)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise ModelError(
            f"The device is {name!r}, which torch can't use here: give cpu, auto, or another that it has "
            f"({first_line(error).rstrip('.')})."
        ) from None
    return device


def _dtype(name: str) -> torch.dtype | str:
    if name not in DTYPES:
        raise ModelError(f"The dtype is {name!r}, but must be one of {', '.join(DTYPES)}.")
    return name if name == "auto" else getattr(torch, name)


def where_from(name: str) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is called with: a local path or a hub name, and a GGUF's file name.

    Raises:
        ModelError: neither a model's folder or file, nor what a hub name looks like.
    """
    if name == SCALE_MODEL:
        return str(scale_model_path()), {}
    if not name:
        raise ModelError(f"A model with an empty name does not exist: name {NAMES}.")
    path = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"{name} does not exist: name a local .gguf file.")
        require_plain(path)
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(_no_config(name, path / ADAPTER_CONFIG))
        return str(path), {}
    if path.exists():
        raise ModelError(f"{name} is a file: name {NAMES}.")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise ModelError(f"{name} does not exist: name {NAMES}.")
    return name, {}


def _read_config(
    name: str, path: str, options: dict[str, Any], commit: str | None, trust_remote_code: bool
) -> Any:
    """transformers' configuration, which chooses no code."""
    options = {**options, **_revision(path, commit)}
    with one_line_errors(name, on_hub=not _is_local(path)):
        config = None if "gguf_file" in options else _older_config(path, commit, name)
        if config is None:
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
        config = without_chosen_code(config, name)
    _require_causal(config, name, trust_remote_code)
    return config


def _older_config(path: str, commit: str | None, name: str) -> Any:
    """A configuration in names that transformers no longer reads, under today's; None for any other."""
    read, _ = PreTrainedConfig.get_config_dict(path, **_revision(path, commit))
    require_countable(read, name)
    todays = with_todays_names(read)
    if todays == read or todays.get("model_type") not in CONFIG_MAPPING:
        return None
    return CONFIG_MAPPING[todays["model_type"]].from_dict(todays, name_or_path=path)


def _commit(path: str, revision: str | None) -> str | None:
    """The hub's commit that a revision is now, so that all files are of one; None for local files."""
    if _is_local(path):
        return None
    found = resolve_revision(path, revision)
    commit: str | None = getattr(found, "resolved", found)
    return commit


def _revision(path: str, commit: str | None) -> dict[str, str | None]:
    return {} if _is_local(path) else {"revision": commit}


def _is_local(path: str) -> bool:
    return Path(path).is_dir()


def _require_causal(config: Any, name: str, trust_remote_code: bool) -> None:
    remote = getattr(config, "auto_map", None) or {}
    if type(config) in AutoModelForCausalLM._model_mapping:
        return
    if not (trust_remote_code and "AutoModelForCausalLM" in remote):
        raise ModelError(
            f"{name} is a {config.model_type} model, which transformers does not load as a causal language "
            f"model: name one that predicts the next token."
        )


def _no_config(name: str, adapter: Path) -> str:
    """What to name instead of a folder without a configuration."""
    if not adapter.is_file():
        return f"{name} holds no config.json: name a folder that transformers can load."
    try:
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        base = None
    return (
        f"{name} holds an adapter, not a model: name its base{f' {base!r:.200}' if base else ''}, or a "
        f"folder where the adapter is merged into it."
    )


def _require_readable_weights(
    name: str, path: str, options: dict[str, Any], commit: str | None, config: Any, num_layers: int
) -> None:
    """Look at the names and the headers of the files that transformers will read, before it does."""
    if _is_local(path) and (Path(path) / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{name} has an {ADAPTER_CONFIG} beside it, and where peft is installed transformers would put "
            f"that adapter into the model: move the adapter to a folder of its own, or merge it."
        )
    if "gguf_file" in options:
        return
    with one_line_errors(name, on_hub=not _is_local(path)):
        folder = Path(path) if _is_local(path) else _fetch_weights(name, path, commit)
        files = weight_files(folder, name)
        require_plain_weights(files, name, config)
    num_stored = sum(len(stored_dtypes(file, name)) for file in files)
    if num_layers > num_stored:  # before so many are built
        raise ModelError(
            f"{name} lacks most of its weights ({num_stored} tensors for {num_layers} layers): its files are "
            f"incomplete."
        )


def _fetch_weights(name: str, path: str, commit: str | None) -> Path:
    """The snapshot of a model on the hub, with the weights that transformers will read."""
    quietly = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    if cached_file(path, ADAPTER_CONFIG, revision=commit, **quietly) is not None:
        raise ModelError(
            f"{name} has an adapter beside its weights on the hub ({ADAPTER_CONFIG}), which transformers "
            f"would follow to another model: download the model alone, and name its folder."
        )
    folder = Path(snapshot_download(path, revision=commit, allow_patterns=[WEIGHTS, INDEX]))
    if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
        files = sorted(set(read_index(folder / INDEX, name).values()))
        folder = Path(snapshot_download(path, revision=commit, allow_patterns=files))
    elif not (folder / WEIGHTS).is_file():
        raise ModelError(
            f"{name} has no safetensors weights on the hub, and pickles are refused: try another revision."
        )
    return folder


def _require_complete(report: dict[str, Any], name: str) -> None:
    """transformers fills absent weights with random numbers and goes on; a measurement must not."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} of its weights ({missing[0]} ...): its files are incomplete."
        )
