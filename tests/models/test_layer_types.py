"""Families whose layers rotate differently: factors change one layer type, the others keep their bits.

One contract for a handful of families, from the configuration to the exported folder. The same is tried for
every family by scripts/list_families.py and benchmarks/exported_families.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from family_exports import families, require_exported
from torch import Tensor

from list_families import build, tiny_config
from ropewalk.errors import FactorsError, ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.verify.export_config import check_configuration

# One rotary called per layer type; of other names; a head size and still pairs of its own; one rotary per
# theta; one in each attention layer; one for all layers, of which some slide.
FAMILIES = ("gemma3_text", "olmo3", "deepseek_v4", "gemma4_text", "granite_swa", "recurrent_gemma", "gpt_oss")
READS_NO_SCALING = ("recurrent_gemma",)
RATIO = 4.0

pytestmark = pytest.mark.filterwarnings("ignore")  # of families' own code


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 41).unsqueeze(0)).logits[0]


def make(family: str, **changes: Any) -> Model:
    return Model.wrap(build(tiny_config(family, **changes)), original_length=families.ORIGINAL_LENGTH)


def factors_for(model: Model, scheme: str = "pi") -> RescaleFactors:
    return scheme_factors(scheme, model.geometry, int(RATIO) * families.ORIGINAL_LENGTH)


def linear(family: str, model: Model) -> dict[str, Any]:
    """transformers' own linear scaling, of the layers that factors are for alone."""
    parameters = model.model.config.get_text_config().rope_parameters
    layer_type = model.geometry.layer_type
    own = parameters if layer_type is None else parameters[layer_type]
    kind = "proportional" if own["rope_type"] == "proportional" else "linear"
    scaled = {**own, "rope_type": kind, "factor": RATIO}
    return scaled if layer_type is None else {**parameters, layer_type: scaled}


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_do_what_transformers_does_to_that_layer_type_alone(family: str) -> None:
    model = make(family)
    before = logits(model.model)
    with model.using(factors_for(model)):
        found = logits(model.model)
    assert torch.equal(logits(model.model), before), "the same bits after uninstalling"
    assert not torch.allclose(found, before, rtol=1e-3)
    if family not in READS_NO_SCALING:
        own = make(family, rope_parameters=linear(family, model))
        torch.testing.assert_close(found, logits(own.model), rtol=1e-4, atol=1e-4 * float(found.abs().max()))


@pytest.mark.parametrize("family", ["gemma3_text", "olmo3", "gemma4_text"])
def test_sliding_layers_keep_their_rotation(family: str) -> None:
    model = make(family)
    seen: dict[str, list[Tensor]] = {}
    rotary = model.hook.calls.rotary

    def see(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
        given = [*args, *kwargs.values()]
        layer_type = next(value for value in given if isinstance(value, str))
        seen.setdefault(layer_type, []).append(output[0])

    logits(model.model)
    with model.using(factors_for(model)):
        handle = rotary.register_forward_hook(see, with_kwargs=True)  # after the hook of the factors
        logits(model.model)
        handle.remove()
    handle = rotary.register_forward_hook(see, with_kwargs=True)
    logits(model.model)
    handle.remove()
    with_factors, without = seen["sliding_attention"]
    assert torch.equal(with_factors, without)
    with_factors, without = seen["full_attention"]
    assert not torch.equal(with_factors, without)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in READS_NO_SCALING])
def test_an_export_is_loaded_and_verified(family: str, tmp_path: Path) -> None:
    exported = require_exported(family, {}, tmp_path)
    assert check_configuration(exported.out, exported.served).is_right


def test_factors_of_another_layer_type_are_refused() -> None:
    model = make("gemma3_text")
    geometry = model.geometry.__class__(**{**model.geometry.as_dict(), "layer_type": "sliding_attention"})
    with pytest.raises(FactorsError, match="layer_type"):
        model.install(scheme_factors("pi", geometry, 256))


def test_thetas_that_differ_between_layers_are_told_apart(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention"]
    changes: dict[str, Any] = {"layer_types": kinds, "num_hidden_layers": 2, "layer_rope_theta": [5e5, 1e4]}
    model, scaled = make("granite_swa", **changes), factors_for(make("granite_swa", **changes))
    other = make("granite_swa", **{**changes, "layer_rope_theta": [5e5, 0]})
    assert (model.geometry.layer_type, model.geometry.rope_theta) == ("full_attention", 5e5)
    assert len(model.hook.calls.modules) == 1
    assert other.geometry.layer_type is None
    with model.using(scaled):
        assert not torch.equal(logits(model.model), logits(make("granite_swa", **changes).model))
    base = tmp_path / "base"
    model.model.to(torch.float32).save_pretrained(base)
    with pytest.raises(ModelError, match="full_attention"):
        families.export_hf(str(base), families.FactorSet.of([scaled]), tmp_path / "out")
