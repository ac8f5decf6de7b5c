"""The files of a model, on the disk or the hub: its configuration, and checks before weights are read."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils.hub import cached_file, resolve_revision

from ropewalk.errors import ModelError
from ropewalk.models.config_fields import require_countable
from ropewalk.models.gguf_scaling import require_plain
from ropewalk.models.load_errors import one_line_errors
from ropewalk.models.rope_config import RopeDescription, describe, with_todays_names
from ropewalk.models.scale_model import SCALE_MODEL, scale_model_path
from ropewalk.models.untrusted_config import without_chosen_code
from ropewalk.models.weight_files import (
    INDEX,
    WEIGHTS,
    read_index,
    require_plain_weights,
    stored_dtypes,
    weight_files,
)

NAMES = f"a model's folder, a hub name, a .gguf file, or {SCALE_MODEL}"
ADAPTER_CONFIG = "adapter_config.json"


def describe_model(
    name: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    original_length: int | None = None,
) -> RopeDescription:
    """The description of a model's rotary, as in `load_model`, from its configuration alone.

    Raises:
        ModelError: as `load_model`.
    """
    config = read_config(name, revision=revision, trust_remote_code=trust_remote_code)
    return describe(config, original_length=original_length, name=str(name))


def read_config(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """A model's configuration, as transformers reads it.

    Raises:
        ModelError: as `load_model`.
    """
    path, options = where_from(str(name))
    return read_config_at(str(name), path, options, find_commit(path, revision), trust_remote_code)


def where_from(name: str) -> tuple[str, dict[str, Any]]:
    """The arguments of `from_pretrained`: a local path or a hub name, and the file name of a GGUF file.

    Raises:
        ModelError: neither a model's folder or file, nor a valid hub name.
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


def read_config_at(
    name: str, path: str, options: dict[str, Any], commit: str | None, trust_remote_code: bool
) -> Any:
    """transformers' configuration, without the choices of code that `untrusted_config` removes."""
    options = {**options, **revision_option(path, commit)}
    with one_line_errors(name, on_hub=not is_local(path)):
        config = None if "gguf_file" in options else _older_config(path, commit, name)
        if config is None:
            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
        config = without_chosen_code(config, name)
    _require_causal(config, name, trust_remote_code)
    return config


def _older_config(path: str, commit: str | None, name: str) -> Any:
    """A configuration with key names that transformers no longer reads, renamed; None for any other."""
    read, _ = PreTrainedConfig.get_config_dict(path, **revision_option(path, commit))
    require_countable(read, name)
    todays = with_todays_names(read)
    if todays == read or todays.get("model_type") not in CONFIG_MAPPING:
        return None
    return CONFIG_MAPPING[todays["model_type"]].from_dict(todays, name_or_path=path)


def find_commit(path: str, revision: str | None) -> str | None:
    """The hub's commit of a revision, so that all files come from one commit; None for local files."""
    if is_local(path):
        return None
    found = resolve_revision(path, revision)
    commit: str | None = getattr(found, "resolved", found)
    return commit


def revision_option(path: str, commit: str | None) -> dict[str, str | None]:
    """The argument `revision` of transformers' functions, so that all files come from one commit."""
    return {} if is_local(path) else {"revision": commit}


def is_local(path: str) -> bool:
    """Whether a path from `where_from` is a folder, not a hub name."""
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
    """The message for a folder without a configuration; for an adapter, it names the base."""
    if not adapter.is_file():
        return f"{name} has no config.json: name a folder that transformers can load."
    try:
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        base = None
    return (
        f"{name} has an adapter, not a model: name its base{f' {base!r:.200}' if base else ''}, or a "
        f"folder where the adapter is merged into it."
    )


def require_readable_weights(
    name: str, path: str, options: dict[str, Any], commit: str | None, config: Any, num_layers: int
) -> None:
    """Check the names and the headers of the weight files that transformers will read."""
    if is_local(path) and (Path(path) / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{name} has an {ADAPTER_CONFIG} beside it, and with peft installed, transformers would load "
            f"that adapter too: move the adapter to another folder, or merge it."
        )
    if "gguf_file" in options:
        return
    with one_line_errors(name, on_hub=not is_local(path)):
        folder = Path(path) if is_local(path) else _fetch_weights(name, path, commit)
        files = weight_files(folder, name)
        require_plain_weights(files, name, config)
    num_stored = sum(len(stored_dtypes(file, name)) for file in files)
    if num_layers > num_stored:  # before all these layers are built
        raise ModelError(
            f"{name} lacks most of its weights ({num_stored} tensors for {num_layers} layers): its files are "
            f"incomplete."
        )


def _fetch_weights(name: str, path: str, commit: str | None) -> Path:
    """Download the weights that transformers will read from the hub; returns the snapshot's folder."""
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


def require_complete(report: dict[str, Any], name: str) -> None:
    """Refuse a model with missing weights, which transformers fills with random numbers."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} of its weights ({missing[0]} ...): its files are incomplete."
        )
