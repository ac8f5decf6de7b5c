"""One clear line for each mistake, and the paper's defaults."""

import json

import pytest

from ropewalk.errors import SettingError
from ropewalk.finetune.settings import FinetuneSettings

MISTAKES = [
    ({"num_steps": 0}, "num_steps"),
    ({"length": 4}, "length"),
    ({"batch_size": -1}, "batch_size"),
    ({"learning_rate": 0}, "learning_rate"),
    ({"learning_rate": float("nan")}, "learning_rate"),
    ({"betas": (0.9, 1.0)}, "betas.1"),
    ({"schedule": "square"}, "cosine"),
    ({"warmup_steps": 10}, "warmup_steps is 10, but must be below the 10 steps"),
    ({"batch_size": 6, "per_device_batch_size": 4}, "batch_size is 6, but must be a multiple of"),
    ({"mixed_window": True, "per_device_batch_size": 2}, "with mixed_window, .* it must be 1"),
    ({"learning_rte": 1}, "'learning_rate'"),
    ({"lora": {"rank": 0}}, "lora.rank"),
    ({"parallel": {"fdsp": True}}, r"parallel has no 'fdsp' \(do you mean 'fsdp'\?\)"),
    ({"parallel": {"fsdp": True, "deepspeed": "ds.json"}}, "deepspeed"),
    ({"parallel": {"cp_size": 2}}, "cp_size 2, which needs fsdp too"),
    (
        {"parallel": {"cp_size": 3, "fsdp": True}},
        "length is 1024, but with cp_size 3 it must be a multiple of 6",
    ),
    ({"parallel": {"cp_size": 2, "fsdp": True}, "mixed_window": True}, "mixed_window needs masks"),
    ({"parallel": {"cp_size": 0}}, "cp_size 0, but it must be a whole number"),
    ({"trainer": {"seed": 1}}, "decided by seed"),
    ({"trainer": {"optm": "adafactor"}}, r"TrainingArguments do not have \(do you mean 'optim'\?\)"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=[str(m[0]) for m in MISTAKES])
def test_a_mistake_is_one_line(changes, message):
    with pytest.raises(SettingError, match=message) as caught:
        FinetuneSettings.checked({"length": 1024, "num_steps": 10, **changes})
    assert "\n" not in str(caught.value)


def test_all_mistakes_at_once():
    with pytest.raises(SettingError, match=r"num_steps: .*; seed: "):
        FinetuneSettings.checked({"length": 1024, "num_steps": 0, "seed": -1})


def test_defaults_are_the_papers():
    settings = FinetuneSettings(length=131072, num_steps=400)
    assert (settings.batch_size, settings.learning_rate, settings.schedule) == (32, 2e-5, "linear")
    assert settings.lora is None


def test_what_does_not_change_the_result_is_no_identity():
    plain = FinetuneSettings(length=1024, num_steps=10)
    other = FinetuneSettings(
        length=1024,
        num_steps=10,
        per_device_batch_size=4,
        save_every=3,
        keep_checkpoints=1,
        gradient_checkpointing=False,
        report_to=("tensorboard",),
        loss_tile_tokens=7,
    )
    assert plain.identity() == other.identity()
    assert plain.identity() != FinetuneSettings(length=1024, num_steps=10, seed=1).identity()
    assert json.loads(json.dumps(plain.identity())) == plain.identity()
