"""A model's name to a model that can be measured and extended, and what must be recorded about it."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils.hub import cached_file, resolve_revision

from ropewalk.errors import ModelError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.config_fields import require_countable
from ropewalk.models.fingerprint import hash_weights, warn_if_other_weights
from ropewalk.models.gguf_scaling import require_plain
from ropewalk.models.load_errors import first_line, one_line_errors
from ropewalk.models.rope_config import RopeDescription, describe, with_todays_names
from ropewalk.models.rotary import install, installed, uninstall
from ropewalk.models.scale_model import SCALE_MODEL, scale_model_path
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


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A causal language model, its tokenizer, and what a record says about where it came from and runs.

    Attributes:
        model, tokenizer: transformers' own objects.
        name, revision: as asked for, and the hub's commit (None for local files).
        description: its geometry, and the scaling that it carries.
        weights_sha256: `hash_weights` of the model.
        where: device, dtype, attn_implementation and revision, for every record.
        full_attention: whether installing lifts sliding windows that are shorter than the target.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    name: str
    revision: str | None
    description: RopeDescription
    weights_sha256: str
    where: dict[str, str | None]
    full_attention: bool = False

    @property
    def geometry(self) -> RopeGeometry:
        return self.description.geometry

    def install(self, factors: RescaleFactors) -> None:
        """Put factors into the model until `uninstall`; see `models.rotary`."""
        install(self.model, factors, **self.how_installed)

    def uninstall(self) -> None:
        """Give the model its own rotary back."""
        uninstall(self.model)

    @contextmanager
    def installed(self, factors: RescaleFactors | None) -> Iterator[None]:
        """Factors in the model for the length of a `with`; None leaves it untouched."""
        if factors is None:
            yield
            return
        with installed(self.model, factors, **self.how_installed):
            yield

    @property
    def how_installed(self) -> dict[str, Any]:
        """The further arguments of `models.rotary` for this model."""
        return {"original_length": self.geometry.original_length, "full_attention": self.full_attention}

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
) -> LoadedModel:
    """Load a model from a folder, the hub, a `.gguf` file, or `scale-model`, ready to be evaluated.

    Weights are read from safetensors or GGUF; pickles are refused, because reading one runs its code. The
    configuration is looked at before any weight, so that a model that can't be extended costs nothing.

    Args:
        device: as torch names it, or `auto` for an accelerator where there is one.
        dtype: float32, bfloat16, float16, or `auto` for the checkpoint's own.
        attn_implementation: as transformers names it.
        revision: branch, tag or commit on the hub.
        original_length: L in tokens, where the configuration states a wrong window.
        full_attention: installing lifts sliding windows that are shorter than the target.

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
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        revision=commit,
        description=description,
        weights_sha256=hash_weights(model),
        where={
            "device": str(torch_device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "attn_implementation": attn_implementation,
            "revision": commit,
        },
        full_attention=full_attention,
    )


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
