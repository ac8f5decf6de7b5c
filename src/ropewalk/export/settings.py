"""ExportSettings: what an export in the format of Hugging Face has, and for which engine."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from ropewalk.export import ExportMode
from ropewalk.settings import Settings

AdapterAs = Literal["merged", "beside"]


class ExportSettings(Settings):
    """The settings of `export_hf`.

    Raises:
        SettingError: a value that is not allowed, or an unknown name.
    """

    mode: ExportMode = Field(
        default="pinned",
        description="pinned: the longest entry's factors at every length; switching: the window's entry up "
        "to the window, the longest beyond.",
    )
    serve_with: str = Field(
        default="any",
        description="An engine that must compute what Ropewalk computes, or the export is refused; any lists "
        "the engines that compute something else.",
    )
    fold_attention_factor: bool | None = Field(
        default=None,
        description="Whether the attention factor is folded into the query weights, where engines compute "
        "another one; by default only if the engine of `serve_with` needs it.",
    )
    with_runtime: bool = Field(
        default=False,
        description="Add the whole set, for Ropewalk's loader and its vLLM plugin; needed for start tokens.",
    )
    adapter: Path | None = Field(default=None, description="A folder that peft saved.")
    adapter_as: AdapterAs = Field(
        default="merged",
        description="merged into the weights, or beside the base, in a folder of its own.",
    )
    full_attention: bool = Field(
        default=False, description="Lift sliding windows that are shorter than the target."
    )
    original_length: int | None = Field(
        default=None, description="The trained window in tokens, where the configuration states a wrong one."
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    copy_weights: bool = Field(
        default=False,
        description="Copy the weight files; by default they are hard links, which take no disk space.",
    )
