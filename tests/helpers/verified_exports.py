"""Exports of tiny models, and their verification with an engine."""

import torch

from ropewalk.export.hf import export_hf
from ropewalk.export.manifest import read_folded, read_folder_mode
from ropewalk.export.settings import ExportSettings
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.verify.base_model import base_folder
from ropewalk.verify.cases import default_lengths
from ropewalk.verify.compare import ExportUnderTest, verify
from ropewalk.verify.result import FLOAT32


def factor_set_of(loaded, mode):
    """Factors whose attention factor no engine computes, so that losing it shows."""
    long = scheme_factors("yarn", loaded.geometry, 4 * loaded.geometry.original_length)
    long = long.replace(attention_factor=1.1)
    if mode == "pinned":
        return FactorSet.of([long])
    short = scheme_factors("ntk:factor=1.5", loaded.geometry, loaded.geometry.original_length)
    return FactorSet.of([short.replace(attention_factor=1.1), long])


def exported(source, tmp_path, needs):
    mode = "switching" if needs == "switching" else "pinned"
    factor_set = factor_set_of(load_model(source), mode)
    settings = ExportSettings(mode=mode, fold_attention_factor=needs == "folded")
    export_hf(str(source), factor_set, tmp_path / "out", settings=settings)
    return tmp_path / "out", factor_set


def verified(folder, source, factor_set, engine, tmp_path, lengths=None, tolerances=FLOAT32):
    loaded = load_model(source)
    base = tmp_path / f"base-{folder.name}"
    base.mkdir()
    folded = read_folded(folder)
    question = ExportUnderTest.of(
        folder, str(base_folder(str(source), base)), factor_set, mode=read_folder_mode(folder),
        folded_for=None if folded is None else folded[1], tolerances=tolerances,
    )  # fmt: skip
    ids = torch.randint(258, (256,), generator=torch.Generator().manual_seed(1)).tolist()
    return verify(question, loaded, engine, ids, lengths or default_lengths(question.served))
