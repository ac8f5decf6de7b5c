"""Stubs of `Mixture` and `finetune_model`: a training that takes no time, with the real settings."""

import json
from pathlib import Path
from typing import Any

import torch

from ropewalk.errors import DataError, SettingError
from ropewalk.finetune.data.mixture import MixtureSettings


class Mixture:
    def __init__(self, settings: MixtureSettings, tokenizer: Any, length: int) -> None:
        if length > 4096:
            raise DataError(f"No document has {length} tokens.")
        self.settings, self.length = settings, length


def finetune_model(loaded, factors, stream, settings, folder, *, on_step=None, part_of_recipe=False):
    """Change every weight a little; the step is on disk after each step."""
    if loaded.model.dtype != torch.float32:
        raise SettingError("trained in float32")
    assert stream.length == settings.length
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "step.json"
    start = json.loads(place.read_text())["step"] if place.is_file() else 0
    for step in range(start, settings.num_steps):
        place.write_text(json.dumps({"step": step + 1, "starts": [*_starts(folder), start]}))
        if on_step is not None:
            on_step(Step(step + 1, settings.num_steps))
    generator = torch.Generator().manual_seed(settings.num_steps)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 1e-2)
    model = folder / "model"
    loaded.model.save_pretrained(model)
    loaded.tokenizer.save_pretrained(model)
    factors.save(model / "factors.json")
    calls.append((settings, factors.as_values()))


calls: list[Any] = []


class Step:
    def __init__(self, step: int, num_steps: int) -> None:
        self.step, self.num_steps, self.loss, self.seconds = step, num_steps, 1.0, 0.1


def _starts(folder: Path) -> list[int]:
    place = folder / "step.json"
    return json.loads(place.read_text())["starts"] if place.is_file() else []


def stand_in(monkeypatch: Any) -> None:
    """Replace the functions that recipes use."""
    calls.clear()
    monkeypatch.setattr("ropewalk.recipe.stage_runs.finetune_model", finetune_model)
    monkeypatch.setattr("ropewalk.recipe.stage_runs.Mixture", Mixture)
