"""Stand-ins for the rooms that only a training recipe needs: settings with the same shape."""

import sys
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field


class FinetuneSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(ge=8)
    num_steps: int = Field(ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)
    warmup_steps: int = 0
    save_every: int = 50
    schedule: str = "linear"
    precision: str = "float32"
    weight_decay: float = 0.0
    per_device_batch_size: int = 1
    gradient_checkpointing: bool = True
    parallel: dict[str, Any] = Field(default_factory=dict)


class SourceSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    text: str
    join: str = "none"
    kind: str = "text"
    min_tokens: int = 1
    max_tokens: int | None = None
    tokens: int | None = None
    weight: float = Field(default=1.0, gt=0)


class MixtureSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[SourceSettings, ...]
    retrieval_share: float = Field(default=0.0, ge=0, le=1)
    seed: int = 0


@pytest.fixture(autouse=True)
def _rooms(monkeypatch):
    for name, held in (
        ("ropewalk.finetune.settings", {"FinetuneSettings": FinetuneSettings}),
        ("ropewalk.text.mixture", {"MixtureSettings": MixtureSettings}),
    ):
        module = ModuleType(name)
        module.__dict__.update(held)
        monkeypatch.setitem(sys.modules, name, module)
