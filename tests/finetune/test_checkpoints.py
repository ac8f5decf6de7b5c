import json
import random

import numpy as np
import pytest
import torch

from ropewalk.errors import FinetuneError
from ropewalk.finetune import checkpoints
from ropewalk.finetune.distributed import Ranks

ALONE = Ranks()


def make_optimizer(seed=0):
    torch.manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    groups = [
        {"params": parameters[:1], "weight_decay": 0.1},
        {"params": parameters[1:], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9))


def step(optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_an_optimizer_goes_on_as_it_was(tmp_path):
    one, other = make_optimizer(), make_optimizer()
    for seed in range(3):
        step(one, seed)
    checkpoints.write_optimizer(tmp_path, one)
    for ours, theirs in zip(other.param_groups, one.param_groups, strict=True):
        for parameter, source in zip(ours["params"], theirs["params"], strict=True):
            parameter.data.copy_(source.data)
    checkpoints.read_optimizer(tmp_path, other)
    step(one, 9)
    step(other, 9)
    for ours, theirs in zip(other.param_groups, one.param_groups, strict=True):
        assert {k: v for k, v in ours.items() if k != "params"} == {
            k: (list(v) if isinstance(v, tuple) else v) for k, v in theirs.items() if k != "params"
        }
        assert all(torch.equal(a, b) for a, b in zip(ours["params"], theirs["params"], strict=True))


def test_a_state_that_is_no_json_is_refused(tmp_path):
    optimizer = make_optimizer()
    optimizer.param_groups[0]["hook"] = print
    with pytest.raises(FinetuneError, match="pickle"):
        checkpoints.write_optimizer(tmp_path, optimizer)


def test_generators_go_on_as_they_were(tmp_path):
    def draw():
        return random.random(), random.gauss(0, 1), float(np.random.rand()), float(torch.rand(()))

    random.gauss(0, 1)  # its other half is kept by the generator
    checkpoints.write_generators(tmp_path, 0)
    expected = draw()
    assert draw() != expected
    checkpoints.read_generators(tmp_path, 0)
    assert draw() == expected
    checkpoints.read_generators(tmp_path, 7)  # a process that was not there


def save(stage, name, text="x"):
    return checkpoints.saving(stage, name, ALONE, write=lambda f: (f / "a.txt").write_text(text) and None)


def test_a_folder_is_whole_or_not_there(tmp_path):
    def fail(folder):
        (folder / "a.txt").write_text("half")
        raise OSError(28, "No space left on device")

    save(tmp_path, "checkpoint-1")
    with pytest.raises(FinetuneError, match=r"checkpoint-2 .*no space left"):
        checkpoints.saving(tmp_path, "checkpoint-2", ALONE, write=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_only_complete_ones_count_in_the_order_of_their_steps(tmp_path):
    for number in (9, 10, 2):
        save(tmp_path, f"checkpoint-{number}")
    (tmp_path / "checkpoint-11").mkdir()
    (tmp_path / ".checkpoint-12.partial").mkdir()
    for name in (".partial-checkpoint-13", ".removed-checkpoint-1"):  # of the first versions
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert [path.name for path in checkpoints.complete_checkpoints(tmp_path)] == [
        "checkpoint-2",
        "checkpoint-9",
        "checkpoint-10",
    ]
    checkpoints.prune(tmp_path, 1)
    checkpoints.clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-10",
        "checkpoint-11",
        "checkpoint-best",
    ]


def test_a_manifest_covers_the_files_of_other_libraries(tmp_path):
    """As FSDP and DeepSpeed leave them: folders, and pickles among them, which are only hashed."""

    def write(folder):
        (folder / "optimizer_0").mkdir()
        (folder / "optimizer_0" / "__0_0.distcp").write_bytes(bytes(range(256)) * 9000)
        (folder / "scheduler.pt").write_bytes(b"PK\x03\x04 a pickle")

    folder = checkpoints.saving(tmp_path, "checkpoint-3", ALONE, write=write)
    checkpoints.check_manifest(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest["files"]) == ["optimizer_0/__0_0.distcp", "scheduler.pt"]

    shard = folder / "optimizer_0" / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(FinetuneError, match=r"optimizer_0/__0_0\.distcp"):
        checkpoints.check_manifest(folder)
    content[-1] ^= 1
    shard.write_bytes(content)
    (folder / "scheduler.pt").unlink()
    with pytest.raises(FinetuneError, match=r"scheduler\.pt"):
        checkpoints.check_manifest(folder)
    (folder / "scheduler.pt").write_bytes(b"PK\x03\x04 a pickle")
    checkpoints.check_manifest(folder)
    (folder / "training_args.bin").write_bytes(b"planted")
    with pytest.raises(FinetuneError, match=r"training_args\.bin"):
        checkpoints.check_manifest(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other", "version": 1, "files": {}}'])
def test_a_manifest_that_is_none(tmp_path, content):
    folder = save(tmp_path, "checkpoint-1")
    (folder / "manifest.json").write_text(content)
    with pytest.raises(FinetuneError, match=r"manifest\.json"):
        checkpoints.check_manifest(folder)
