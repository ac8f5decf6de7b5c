"""What every exporter must do: write whole or not at all, hold the factors, and give the same logits back.

The logits are those of the real engine where one is here; of GGUF files they are compared by `tests/export`
in llama.cpp, and here read back by transformers.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ropewalk.errors import ExportError, FactorsError
from ropewalk.export import Served
from ropewalk.export.gguf.export import export_gguf
from ropewalk.export.hf import export_hf
from ropewalk.export.settings import ExportSettings
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.models.model import load_model
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.rope.schemes import scheme_factors
from ropewalk.store import hash_file

SCALE = RopeGeometry(head_dim=64, rotary_dim=64, rope_theta=625.0, original_length=256, num_layers=4)
COMPUTED = longrope_attention_factor(8, 256)
LONG = scheme_factors("yarn", SCALE, 2048).replace(attention_factor=COMPUTED)
SHORT = scheme_factors("ntk:factor=1.5", SCALE, 256).replace(attention_factor=COMPUTED)
SETS = {"pinned": FactorSet.of([LONG]), "switching": FactorSet.of([SHORT, LONG])}


def to_folder(factor_set, out, mode):
    return export_hf("scale-model", factor_set, out, settings=ExportSettings(mode=mode))


def to_gguf(factor_set, out, mode):
    return export_gguf("scale-model", factor_set, out.with_suffix(".gguf"), mode=mode)


EXPORTERS = pytest.mark.parametrize("export", [to_folder, to_gguf], ids=["hf", "gguf"])
MODES = pytest.mark.parametrize("mode", ["pinned", "switching"])


@EXPORTERS
@MODES
def test_it_says_what_it_wrote(tmp_path, export, mode):
    exported = export(SETS[mode], tmp_path / "out", mode)
    assert exported.path.exists()
    assert exported.served == Served.of(SETS[mode], mode)
    assert exported.engines
    json.dumps(exported.as_json())
    for name, digest in exported.files.items():
        path = exported.path / name if exported.path.is_dir() else exported.path
        assert hash_file(path) == digest
    assert [path.name for path in tmp_path.iterdir()] == [exported.path.name]
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode & 0o444
    for path in [exported.path, *exported.path.rglob("*")]:
        assert path.stat().st_mode & usual == usual, "others can't read it"


@EXPORTERS
def test_it_refuses_what_it_can_not_do_and_leaves_nothing(tmp_path, export):
    per_layer = FactorSet.of([LONG.replace(rescale_factors=LONG.rescale_factors * 4)])
    other = FactorSet.of(
        [scheme_factors("yarn", RopeGeometry(**{**SCALE.as_dict(), "rope_theta": 1e4}), 2048)]
    )
    start = FactorSet.of([LONG.replace(num_start_tokens=4)])
    near_far = FactorSet.of([scheme_factors("near-far", SCALE, 2048)])
    for factor_set in (per_layer, other, start, near_far):
        with pytest.raises((ExportError, FactorsError)):
            export(factor_set, tmp_path / "out", "pinned")
    assert list(tmp_path.iterdir()) == []
    exported = export(SETS["pinned"], tmp_path / "out", "pinned")
    with pytest.raises(ExportError, match="exists"):
        export(SETS["pinned"], tmp_path / "out", "pinned")
    assert exported.path.exists()


@MODES
def test_a_folder_gives_the_same_logits_back(tmp_path, mode):
    exported = to_folder(SETS[mode], tmp_path / "out", mode)
    loaded = load_model("scale-model")
    theirs = AutoModelForCausalLM.from_pretrained(exported.path).eval()
    for length in (256, 257):
        ids = torch.randint(2048, (1, length), generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), loaded.using(exported.served.for_length(length)):
            wanted = loaded.model(ids).logits
            given = theirs(ids).logits
        assert float((given - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())


def test_the_bundled_model_is_never_changed(tmp_path):
    from ropewalk.models.scale_model import scale_model_path  # noqa: PLC0415

    before = {path.name: hash_file(path) for path in Path(scale_model_path()).iterdir() if path.is_file()}
    to_folder(SETS["pinned"], tmp_path / "out", "pinned")
    to_gguf(SETS["pinned"], tmp_path / "out", "pinned")
    assert before == {path.name: hash_file(path) for path in scale_model_path().iterdir() if path.is_file()}
