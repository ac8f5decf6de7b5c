"""The files of a checkpoint to export: found, checked, and chosen for the export."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from ropewalk import store
from ropewalk.errors import ExportError, ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.fingerprint import hash_stored_weights, warn_if_other_weights
from ropewalk.models.longrope_config import in_each_part, rope_part
from ropewalk.models.model_files import ADAPTER_CONFIG, read_config, where_from
from ropewalk.models.transformers4_config import CONFIG, read_config_file
from ropewalk.models.untrusted_config import CHOOSES_CODE
from ropewalk.models.weight_files import INDEX, WEIGHTS, require_inside, require_whole, weight_files
from ropewalk.store import link_or_copy

# Mistral's own format, often beside transformers'. vLLM prefers it, and then reads no config.json.
OTHER_FORMAT = ("consolidated*", "params.json")
# Keys of a configuration that an engine would follow instead of the factors, with the reason.
OTHER_CODE = "an engine that follows it would run other code than was measured here"
PREFERRED_KEYS = {
    "dual_chunk_attention_config": "vLLM and SGLang would read it instead of the factors",
    **dict.fromkeys(("auto_map", *CHOOSES_CODE), OTHER_CODE),
}
# Further files of a served model: tokenizer, templates, licence. No pickles and no code.
TAKEN = (
    "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.spm", "*.vocab", "LICENSE*", "LICENCE*",
    "NOTICE*", "additional_chat_templates/*.jinja",
)  # fmt: skip
# Left out: other weights and their indices, files of trainers, files of Ropewalk about other factors, and
# files that the export writes itself.
LEFT = (
    *OTHER_FORMAT, "*.index*.json", "pytorch_model*", "tf_model*", "flax_model*", "adapter_*",
    "trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "optimizer*",
    "factors*.json", "ropewalk.json", "manifest.json", "run.json", "done.json", "inputs.json",
    "requirements*.txt", CONFIG,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint in a folder on this machine.

    Attributes:
        folder: the folder.
        name: the name that the user gave.
        revision: the hub's commit; None for local files.
        config: its `config.json`.
    """

    folder: Path
    name: str
    revision: str | None
    config: dict[str, Any]

    @property
    def weights(self) -> list[Path]:
        """The weight files, as transformers finds them.

        Raises:
            ModelError: there are none, or an index names anything but safetensors files in the folder.
        """
        return list(weight_files(self.folder, self.name))

    @property
    def others(self) -> list[Path]:
        """The other files that an export copies, as paths below `folder`.

        Raises:
            ModelError: a file is a link out of the folder, so the export would publish another file.
        """
        taken = {path for pattern in TAKEN for path in self.folder.glob(pattern) if path.is_file()}
        left = {path for pattern in LEFT for path in self.folder.glob(pattern)}
        names = sorted(path.relative_to(self.folder) for path in taken - left)
        for name in names:
            require_inside(self.folder, str(name), self.name)
        return names

    @property
    def preferred(self) -> dict[str, str]:
        """What is left out because an engine would read it instead of the factors: name to reason."""
        files = sorted({path.name for pattern in OTHER_FORMAT for path in self.folder.glob(pattern)})
        parts = (self.config, rope_part(self.config))
        keys = {key: why for key, why in PREFERRED_KEYS.items() if any(part.get(key) for part in parts)}
        return dict.fromkeys(files, "vLLM would read this format, which has no factors") | keys

    def without_preferred(self) -> dict[str, Any]:
        """The configuration without the keys of `preferred`."""
        return in_each_part(
            self.config, lambda part: {name: part[name] for name in part if name not in PREFERRED_KEYS}
        )

    def take_along(self, out: Path) -> None:
        """Copies everything but weights and configuration."""
        for name in self.others:
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_bytes((self.folder / name).read_bytes())

    def take_weights(self, out: Path, *, copy: bool = False) -> None:
        """Links the weight files, or copies them on request or where needed; see `link_or_copy`."""
        for path in self.weights:
            link_or_copy(path, out / path.name, copy=copy)
        self.take_index(out)

    def take_index(self, out: Path) -> None:
        """Copies the index of the weight files, if they have one."""
        if self.weights != [self.folder / WEIGHTS]:
            (out / INDEX).write_bytes((self.folder / INDEX).read_bytes())

    @cached_property
    def weights_sha256(self) -> str | None:
        """The `hash_weights` of its model, from the files alone; None if it can't be computed."""
        try:
            return hash_stored_weights(read_config(self.folder), self.weights)
        except (ModelError, SafetensorError, OSError):  # not supported by transformers, or incomplete
            return None

    def warn_if_other_weights(self, factors: RescaleFactors) -> None:
        """Warn if factors were made on other weights; does nothing if either hash is unknown."""
        found = None if factors.provenance.weights_sha256 is None else self.weights_sha256
        warn_if_other_weights(factors, "These factors", model=self.name, weights_sha256=found)

    def require_whole(self) -> None:
        """Refuses a checkpoint whose weights are missing or truncated, by their headers alone.

        Raises:
            ModelError: names the file.
        """
        require_whole(self.weights, self.name)


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter of peft.

    Raises:
        ExportError: it is a model as well; transformers would load the adapter's base instead of it.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    if any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        raise ExportError(
            f"{folder} has a model and an adapter ({ADAPTER_CONFIG}), so programs load different models: "
            f"put the adapter into another folder, and name it by --adapter to export it."
        )
    return True


def find_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """A folder, a hub name (its files are downloaded), or `scale-model`.

    Raises:
        ModelError: not found, or not readable.
        ExportError: a GGUF file.
    """
    path, options = where_from(name)
    if options:
        raise ExportError(
            f"{name} is a GGUF file, not a checkpoint for transformers: use `ropewalk export gguf`, "
            f"or name the folder that it was made from."
        )
    folder = Path(path) if Path(path).is_dir() else _download(name, revision)
    commit = None if Path(path).is_dir() else folder.name
    return Checkpoint(folder=folder, name=name, revision=commit, config=read_config_file(folder / CONFIG))


def read_checkpoint_json(path: Path) -> Any:
    """A JSON file of a checkpoint.

    Raises:
        ModelError: it can't be read.
    """
    return store.read_json(path, ModelError, remedy="copy it again", allow_nan=True)


def _download(name: str, revision: str | None) -> Path:
    try:
        patterns = [CONFIG, "*.safetensors", *TAKEN]
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=list(OTHER_FORMAT)
            )
        )
    except Exception as error:  # the hub's client raises many kinds
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{name} is not a local folder, and can't be downloaded from the hub ({reason.strip()[:200]}): "
            f"check the name and the network."
        ) from None
