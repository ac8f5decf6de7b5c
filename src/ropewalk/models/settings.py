"""ModelSettings: which model is loaded, and how."""

from typing import TYPE_CHECKING

from pydantic import Field

from ropewalk.settings import Settings
from ropewalk.units import LONGEST

if TYPE_CHECKING:
    from ropewalk.models.model import Model
    from ropewalk.models.rope_config import RopeDescription


class ModelSettings(Settings):
    """The arguments of `load_model` without `trust_remote_code`, because recipes may come from other people.

    Raises:
        SettingError: a value out of its range, or an unknown name.
    """

    name: str = Field(
        min_length=1, title="MODEL", description="A folder, a hub name, a .gguf file, or scale-model."
    )
    device: str = Field(default="cpu", description="cpu, cuda, cuda:1, mps, or auto.")
    dtype: str = Field(
        default="float32",
        description="float32, bfloat16, float16, or auto (the checkpoint's own); trained weights are always "
        "float32.",
    )
    attn_implementation: str = Field(
        default="sdpa", description="As transformers names it: sdpa, eager, flash_attention_2 ..."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    original_length: int | None = Field(
        default=None,
        ge=1,
        le=LONGEST,
        description="The trained window in tokens, where the configuration states a wrong one.",
    )
    full_attention: bool = Field(
        default=False, description="Lift sliding windows that are shorter than the target."
    )

    # Imported in the methods: the command line reads the fields for --help, without torch.

    def load(self, name: str | None = None) -> "Model":
        """Load the model, or a checkpoint of it under another name, which has no revision.

        Raises:
            ModelError: as `load_model`.
        """
        from ropewalk.models.model import load_model  # noqa: PLC0415

        options = self.model_dump()
        if name is not None:
            options |= {"name": name, "revision": None}
        return load_model(**options)

    def describe(self) -> "RopeDescription":
        """As `describe_model`: no weights are read.

        Raises:
            ModelError: as `describe_model`.
        """
        from ropewalk.models.model_files import describe_model  # noqa: PLC0415

        return describe_model(self.name, revision=self.revision, original_length=self.original_length)
