"""Which entries an exported GGUF file has, and which exports are refused. In llama.cpp: test_llama_cpp."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import (
    FACTORS,
    GEOMETRY,
    SET,
    WINDOW,
    changed,
    entry,
    factors_in,
    raw,
    read_by_transformers,
    refused,
)

from ropewalk.errors import ExportError, ModelError
from ropewalk.export.gguf.export import export_gguf, largest_short_context, read_gguf_mode
from ropewalk.export.gguf.file import Value, read_gguf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import Provenance
from ropewalk.models.fingerprint import OtherWeightsWarning, hash_weights
from ropewalk.models.model import load_model

ADDED = {
    "llama.context_length",
    "llama.rope.scaling.type",
    "llama.rope.scaling.original_context_length",
    "llama.rope.scaling.attn_factor",
}


def test_only_what_is_named_is_added_or_changed(base: Path, tmp_path: Path) -> None:
    done = export_gguf(base, SET, tmp_path / "out.gguf")
    before, after = raw(base), raw(done.path)
    new = {key for key in after[0] if after[0][key] != before[0].get(key)}
    assert {key for key in new if not key.startswith("ropewalk.")} == ADDED
    assert set(before[0]) <= set(after[0])
    assert list(before[1].items()) == list(after[1].items())[: len(before[1])]
    assert list(after[1])[len(before[1]) :] == ["rope_factors_long.weight", "rope_factors_short.weight"]


def test_it_has_the_factors(base: Path, tmp_path: Path) -> None:
    done = export_gguf(base, SET, tmp_path / "out.gguf")
    written = read_gguf(done.path)
    assert written.get("rope.scaling.type") == "longrope"
    assert written.get("rope.scaling.original_context_length") == WINDOW
    assert written.get("context_length") == 512
    assert written.get("rope.scaling.attn_factor") == np.float32(FACTORS.attention_factor)
    for name in ("rope_factors_long.weight", "rope_factors_short.weight"):
        tensor = written.tensor(name)
        assert tensor is not None
        assert tensor.read().tolist() == np.float32(FACTORS.rescale_factors[0]).tolist()
    assert written.get("rope.scaling.factor") is None
    assert written.metadata["ropewalk.mode"].plain == read_gguf_mode(done.path) == "pinned"
    assert written.metadata["ropewalk.geometry_fingerprint"].plain == GEOMETRY.fingerprint()
    assert read_gguf_mode(base) is None
    assert done.as_json()["files"].keys() == {"out.gguf"}


def test_switching_has_both_entries_and_lists_what_it_leaves_out(base: Path, tmp_path: Path) -> None:
    short, between = (
        entry(target, factor, FACTORS.attention_factor) for target, factor in ((WINDOW, 1.5), (128, 2.0))
    )
    entries = FactorSet.of([short, between, FACTORS])
    done = export_gguf(base, entries, tmp_path / "out.gguf", mode="switching")
    written = read_gguf(done.path)
    assert factors_in(written, "short") == np.float32(short.rescale_factors[0]).tolist()
    assert factors_in(written, "long") == np.float32(FACTORS.rescale_factors[0]).tolist()
    assert [dropped.what for dropped in done.dropped] == ["the entry for 128 tokens"]
    pinned = export_gguf(base, entries, tmp_path / "pinned.gguf")
    assert factors_in(read_gguf(pinned.path), "short") == factors_in(written, "long")
    assert len(pinned.dropped) == 2


def test_the_engines_are_named(base: Path, tmp_path: Path) -> None:
    notes = {
        note.engine: note for note in export_gguf(base, SET, tmp_path / "o.gguf", mode="switching").engines
    }
    assert notes["llama.cpp"].is_served
    assert "never uses" in notes["llama.cpp"].what  # a window of 64 is below one step of 256
    assert not notes["transformers"].is_served


@pytest.mark.parametrize(("window", "largest"), [(64, 0), (256, 256), (300, 256), (8192, 8192)])
def test_contexts_are_rounded_up(window: int, largest: int) -> None:
    assert largest_short_context(window) == largest


def test_transformers_reads_the_written_file_as_the_base_model(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """If this fails, transformers reads the factors now: change the engine note, and `load_model`."""
    done = export_gguf(tiny_model_folder, SET, tmp_path / "out.gguf")
    read, base_model = read_by_transformers(done.path), load_model(tiny_model_folder)
    assert read.config.rope_parameters["rope_type"] == "default"
    assert hash_weights(read) == base_model.weights_sha256
    with pytest.raises(ModelError, match="scal"):
        load_model(done.path)


def test_factors_made_on_other_weights_are_warned_of(tiny_model_folder: Path, tmp_path: Path) -> None:
    made_on = Provenance(model="another-model", weights_sha256="f" * 64)
    other = FactorSet.of([SET.longest.replace(provenance=made_on)])
    with pytest.warns(OtherWeightsWarning, match="were made on another-model"):
        export_gguf(tiny_model_folder, other, tmp_path / "out.gguf")


def test_a_tuned_checkpoint_converted_by_llama_cpp_gets_its_factors_back(base: Path, tmp_path: Path) -> None:
    """benchmarks/gguf_converter.py: it keeps the scaling's name and the long context, but no factors."""
    left = {"llama.rope.scaling.type": Value.string("longrope"), "llama.context_length": Value.uint32(512)}
    converted = changed(base, tmp_path / "converted.gguf", metadata=left)
    written = read_gguf(export_gguf(converted, SET, tmp_path / "out.gguf").path)
    assert written.get("rope.scaling.original_context_length") == WINDOW
    assert factors_in(written, "long") == np.float32(FACTORS.rescale_factors[0]).tolist()


def test_factors_are_not_written_twice(base: Path, tmp_path: Path) -> None:
    once = export_gguf(base, SET, tmp_path / "once.gguf").path
    refused(once, tmp_path / "twice.gguf", "scaling")


def test_an_existing_output_is_kept(base: Path, tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(ExportError, match="exists"):
        export_gguf(base, SET, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == "mine"


def test_a_full_disk_leaves_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", fail)
    refused(base, tmp_path / "out.gguf", "space")


def test_a_source_that_is_not_a_checkpoint_is_refused(
    tiny_model_folder: Path, base: Path, tmp_path: Path
) -> None:
    refused(tmp_path / "nothing", tmp_path / "out.gguf", "no config.json")
    refused(base, tmp_path / "out.gguf", "leave --gguf out", base=base)
    (tiny_model_folder / "tokenizer.json").unlink()
    refused(tiny_model_folder, tmp_path / "out.gguf", "no tokenizer.json")
    (tiny_model_folder / "model.safetensors").unlink()
    refused(tiny_model_folder, tmp_path / "out.gguf", "no safetensors weights", base=base)
