"""ModelSettings: which model a recipe takes, and how it is loaded."""

from pydantic import BaseModel, ConfigDict, Field

from ropewalk.models.model import Model, describe_model, load_model
from ropewalk.models.rope_config import RopeDescription


class ModelSettings(BaseModel):
    """Arguments of `load_model`, except that no model's own code is run: a recipe comes from others.

    Attributes:
        name: a folder, a hub name, a .gguf file, or scale-model.
        device, dtype, attn_implementation, revision: as `load_model`.
        original_length: L in tokens, where the configuration states a wrong window, or to let a recipe be
            checked where the model can't be reached.
        full_attention: lift sliding windows that are shorter than the target.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    device: str = "cpu"
    dtype: str = "float32"
    attn_implementation: str = "sdpa"
    revision: str | None = None
    original_length: int | None = Field(default=None, ge=1)
    full_attention: bool = False

    def load(self, name: str | None = None) -> Model:
        """The model, or a checkpoint of it by another name; that one has no revision.

        Raises:
            ModelError: as `load_model`.
        """
        options = self.model_dump()
        if name is not None:
            options |= {"name": name, "revision": None}
        return load_model(**options)

    def describe(self) -> RopeDescription:
        """As `describe_model`: no weights are read.

        Raises:
            ModelError: as `describe_model`.
        """
        return describe_model(self.name, revision=self.revision, original_length=self.original_length)
