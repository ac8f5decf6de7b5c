"""A model's name to a model that can be measured and extended, and what must be recorded about it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ropewalk.errors import ModelError
from ropewalk.factors import RescaleFactors
from ropewalk.geometry import RopeGeometry
from ropewalk.models.describe import RopeDescription, describe
from ropewalk.models.gguf_scaling import require_plain
from ropewalk.models.install import install, installed, uninstall
from ropewalk.models.scale_model import SCALE_MODEL, scale_model_path
from ropewalk.models.weights import hash_weights, warn_if_other_weights

DTYPES = ("float32", "bfloat16", "float16", "auto")
NAMES = f"a model's folder, a hub name, a .gguf file, or {SCALE_MODEL}"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")


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
        """Put factors into the model until `uninstall`; see `models.install`."""
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
        """The further arguments of `models.install` for this model."""
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
    config = _read_config(name, path, options, revision, trust_remote_code)
    description = describe(config, original_length=original_length, name=name)
    commit = getattr(config, "_commit_hash", None)
    options["trust_remote_code"] = trust_remote_code
    if commit is not None:
        options["revision"] = commit  # weights and tokenizer of the configuration's own commit
    if _is_local(path) and "gguf_file" not in options:
        _require_safetensors(Path(path), name)
    with _one_line_errors(name):
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=torch_dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        _require_complete(report, name)
        model = model.to(torch_device).eval()
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


def load_tokenizer(name: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """A model's tokenizer alone, named as in `load_model`.

    Raises:
        ModelError: not found, not reachable, or no tokenizer that can be read.
    """
    name = str(name)
    path, options = where_from(name)
    if not _is_local(path):
        options["revision"] = revision
    with _one_line_errors(name):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **options)


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
    return _read_config(str(name), path, options, revision, trust_remote_code)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise ModelError(
            f"The device is {name!r}, which torch can't use here: give cpu, auto, or another that it has "
            f"({_first_line(error)})."
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
            raise ModelError(f"{name} holds no config.json: name a folder that transformers can load.")
        return str(path), {}
    if path.exists():
        raise ModelError(f"{name} is a file: name {NAMES}.")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name):
        raise ModelError(f"{name} does not exist: name {NAMES}.")
    return name, {}


def _read_config(
    name: str, path: str, options: dict[str, Any], revision: str | None, trust_remote_code: bool
) -> Any:
    if not _is_local(path):
        options = {**options, "revision": revision}
    with _one_line_errors(name):
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
    _require_causal(config, name, trust_remote_code)
    return config


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


def _require_safetensors(folder: Path, name: str) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{name} has its weights as a pickle only ({pickles[0]}), and reading a pickle can run any code "
            f"in it: convert it to safetensors."
        )
    raise ModelError(f"{name} holds no weights: a model.safetensors is needed beside its config.json.")


def _require_complete(report: dict[str, Any], name: str) -> None:
    """transformers fills absent weights with random numbers and goes on; a measurement must not."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} of its weights ({missing[0]} ...): its files are incomplete."
        )


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """What transformers raises about a user's model, as one line that says what to do."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # tokenizers and safetensors raise bare ones
        raise ModelError(_explain(name, error)) from error


def _explain(name: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "not a valid git identifier" in text:
        return f"{name} has no such revision on the hub: check --revision."
    if "gated" in text:
        return f"{name} is gated on the hub: ask for access on its page, then log in with `hf auth login`."
    if "is not a valid model identifier" in text:
        return f"{name} is neither a local folder nor on the hub: check the name, or log in if it is private."
    if "couldn't connect" in text or "onnection" in text or "offline" in text.lower():
        return (
            f"{name} is no local folder, and the hub can't be reached for it: check the name and the "
            f"network, or name a folder."
        )
    if "safetensors" in text and "does not appear to have" in text:
        return f"{name} has no safetensors weights on the hub, and pickles are refused: try another revision."
    if "trust_remote_code" in text:
        return f"{name} needs code of its own to be run: read that code, then say --trust-remote-code."
    return f"{name} can't be loaded: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".") + "."
