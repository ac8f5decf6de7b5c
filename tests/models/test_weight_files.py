"""Weights are safetensors files in the folder itself, wherever they are read; an index can't change that."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merged_tokenizer import make_merged_tokenizer
from safetensors.torch import load_file, save_file

from ropewalk.cli.main import run
from ropewalk.errors import ModelError
from ropewalk.export.gguf.export import export_gguf, write_base_gguf
from ropewalk.export.hf import export_hf
from ropewalk.export.source_checkpoint import find_checkpoint
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.fingerprint import hash_stored_weights
from ropewalk.models.model import load_model
from ropewalk.models.model_files import describe_model
from ropewalk.models.weight_files import INDEX, WEIGHTS, stored_tensors, weight_files
from ropewalk.rope.schemes import scheme_factors


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """One that a GGUF file can hold."""
    return make_merged_tokenizer()


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """Is there once a pickle has run its code."""
    return tmp_path / "ran"


@pytest.fixture
def pickled(ran: Path, tmp_path: Path) -> Path:
    """A pickle that runs code."""

    class Code:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return os.mkdir, (str(ran),)

    path = tmp_path / "pickle"
    path.write_bytes(pickle.dumps(Code()))
    return path


@pytest.fixture
def sharded(tiny_model_folder: Path) -> Path:
    """The tiny model in two files and an index."""
    tensors = load_file(tiny_model_folder / WEIGHTS)
    (tiny_model_folder / WEIGHTS).unlink()
    files = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        part = {name: value for name, value in tensors.items() if files[name] == file}
        save_file(part, tiny_model_folder / file, metadata={"format": "pt"})
    write_index(tiny_model_folder, files)
    return tiny_model_folder


def write_index(folder: Path, files: Any, metadata: Any = None) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": metadata or {}, "weight_map": files}))


def read_index(folder: Path) -> dict[str, str]:
    files: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    return files


def readers(folder: Path, out: Path) -> dict[str, Callable[[], object]]:
    """Everything that reads a checkpoint's weights."""
    factors = FactorSet.of([scheme_factors("yarn", describe_model(folder).geometry, 512)])
    whole = out / "whole.gguf"
    return {
        "load": lambda: load_model(folder),
        "hash": lambda: hash_stored_weights(load_model(folder).model.config, weight_files(folder, "")),
        "checkpoint": lambda: find_checkpoint(str(folder)).weights,
        "export hf": lambda: export_hf(str(folder), factors, out / "hf"),
        "export gguf": lambda: export_gguf(folder, factors, out / "out.gguf"),
        "export gguf --gguf": lambda: export_gguf(folder, factors, out / "two.gguf", base=whole),
    }


@pytest.mark.parametrize(
    "named",
    ["a.bin", "a.pt", "../outside.safetensors", "part-0.safetensors/../../outside.safetensors",
     "sub/inside.safetensors", "sub\\inside.safetensors", "C:x.safetensors", "*.safetensors",
     "link.safetensors", "x.safetensors\n", "gone.safetensors", "folder.safetensors", "", None, 3,
     ["part-0.safetensors"]],
)  # fmt: skip
def test_an_index_names_only_safetensors_in_the_folder(
    sharded: Path, pickled: Path, ran: Path, named: object, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    before = readers(sharded, out)
    for name in ("a.bin", "a.pt"):
        shutil.copy(pickled, sharded / name)
    (sharded / "sub").mkdir()
    (sharded / "folder.safetensors").mkdir()
    for place in (tmp_path / "outside.safetensors", sharded / "sub" / "inside.safetensors"):
        shutil.copy(sharded / "part-0.safetensors", place)
    (sharded / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    files = read_index(sharded)
    write_index(sharded, {**files, max(files): named})
    for label, read in before.items():
        if label == "export gguf --gguf":
            continue
        with pytest.raises(ModelError, match=r"index|safetensors") as caught:
            read()
        assert "\n" not in str(caught.value), label
    assert not ran.exists()
    assert not list(out.iterdir())


def test_a_gguf_is_compared_with_no_other_files(sharded: Path, tmp_path: Path) -> None:
    write_base_gguf(sharded, tmp_path / "whole.gguf")
    shutil.copy(sharded / "part-0.safetensors", tmp_path / "outside.safetensors")
    write_index(sharded, dict.fromkeys(read_index(sharded), "../outside.safetensors"))
    with pytest.raises(ModelError, match="outside"):
        readers(sharded, tmp_path)["export gguf --gguf"]()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"a":' * 9999, "\udcff"]
)
def test_an_index_that_is_none(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content, errors="surrogateescape")
    with pytest.raises(ModelError, match="index") as caught:
        load_model(sharded)
    assert "\n" not in str(caught.value)


def test_every_reader_reads_what_transformers_reads(sharded: Path, tmp_path: Path) -> None:
    assert [file.name for file in weight_files(sharded, "")] == ["part-0.safetensors", "part-1.safetensors"]
    assert sorted(stored_tensors(sharded, "")) == sorted(read_index(sharded))
    write_base_gguf(sharded, tmp_path / "whole.gguf")
    for read in readers(sharded, tmp_path).values():
        assert read() is not None


def test_links_are_followed_within_the_folder_alone(tiny_model_folder: Path, tmp_path: Path) -> None:
    (tiny_model_folder / WEIGHTS).rename(tiny_model_folder / "kept.safetensors")
    (tiny_model_folder / WEIGHTS).symlink_to("kept.safetensors")
    load_model(tiny_model_folder)
    linked = tmp_path / "linked"
    linked.symlink_to(tiny_model_folder)
    load_model(linked)
    (tiny_model_folder / "kept.safetensors").rename(tmp_path / "kept.safetensors")
    (tiny_model_folder / WEIGHTS).unlink()
    (tiny_model_folder / WEIGHTS).symlink_to(tmp_path / "kept.safetensors")
    with pytest.raises(ModelError, match="link"):
        load_model(tiny_model_folder)


def test_no_file_from_outside_goes_out_with_an_export(tiny_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not for the public")
    (tiny_model_folder / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="LICENSE"):
        readers(tiny_model_folder, tmp_path)["export hf"]()
    assert not (tmp_path / "hf").exists()


def test_parts_of_a_distributed_checkpoint_are_refused(tiny_model_folder: Path) -> None:
    """transformers would read them in place of the weights beside them."""
    shutil.copy(
        tiny_model_folder / WEIGHTS, tiny_model_folder / "shard-00001-model-00001-of-00001.safetensors"
    )
    with pytest.raises(ModelError, match="distributed"):
        load_model(tiny_model_folder)


def test_what_trainers_leave_is_not_taken_for_weights(
    tiny_model_folder: Path, pickled: Path, ran: Path
) -> None:
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"):
        shutil.copy(pickled, tiny_model_folder / name)
    load_model(tiny_model_folder)
    (tiny_model_folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"pickle only \(pytorch_model\.bin\)"):
        load_model(tiny_model_folder)
    (tiny_model_folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match="no safetensors weights"):
        load_model(tiny_model_folder)
    assert not ran.exists()


def test_no_engine_is_given_an_index_that_names_a_pickle(
    sharded: Path, pickled: Path, ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(pickled, sharded / "a.bin")
    write_index(sharded, dict.fromkeys(read_index(sharded), "a.bin"))
    assert run(["verify", str(sharded), "--model", "scale-model", "--factors", "factors.json"]) == 2
    assert "a.bin" in capsys.readouterr().err
    assert not ran.exists()


@pytest.mark.parametrize("verb", [("search", "--target-length", "128"), ("evaluate", "perplexity")])
def test_fp8_on_the_command_line_is_one_line(
    tiny_model_folder: Path, verb: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_model_folder / "config.json"
    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": fp8}))
    stored = {}
    for name, value in load_file(tiny_model_folder / WEIGHTS).items():
        scale = {f"{name}_scale_inv": torch.ones(1, 1, dtype=torch.bfloat16)} if "proj" in name else {}
        stored |= {name: value.to(torch.float8_e4m3fn) if scale else value.to(torch.bfloat16), **scale}
    save_file(stored, tiny_model_folder / WEIGHTS, metadata={"format": "pt"})
    (tmp_path / "a.txt").write_text("some text " * 400)
    split = 1 if verb[0] == "search" else 2
    options = ["--text", str(tmp_path / "a.txt"), *verb[split:]]
    options += ["--out", str(tmp_path / "run")] if verb[0] == "search" else ["--lengths", "64"]
    assert run([*verb[:split], str(tiny_model_folder), *options]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if "fp8" in line]) == 1
    assert not (tmp_path / "run").exists()
