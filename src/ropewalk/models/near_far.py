"""Near-far factors in a model: its rotary rotates for near keys, and its attention once more for far ones."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ropewalk.errors import ModelError, RopewalkError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.far_attention import NAME, FarAttention
from ropewalk.models.far_part import FarPart
from ropewalk.models.head import evaluating
from ropewalk.models.key_rotation import KeyRotation, KeyRotationError
from ropewalk.models.rotary import Attachment, OneSet
from ropewalk.models.rotary_layout import FOREIGN_ERRORS
from ropewalk.rope.frequencies import cos_sin

if TYPE_CHECKING:
    from ropewalk.models.model import Model

NUM_TOKENS = 32
TEST_FACTORS = 1.7, 1.25  # rescale factor and attention factor
# Largest error of the last hidden states, in shares of the largest.
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
HALF_TOLERANCE = 0.05


class NearFar:
    """An `Installable` that reads all texts with one far part.

    Attributes:
        factors: the near-far factors.
        far: their far part.
        per_layer: False: the rotary rotates all layers by the near factors.
    """

    per_layer = False

    def __init__(self, factors: RescaleFactors, far: FarPart, *, length: int) -> None:
        """`length` is the most tokens of a text, see `FarAttention`."""
        self.factors = factors
        self.far = far
        self._attention = FarAttention([far], length=length)

    @classmethod
    def of(cls, factors: RescaleFactors, rotation: KeyRotation) -> "NearFar":
        """Near-far factors for texts up to their target length."""
        return cls(factors, FarPart.of(factors, rotation), length=factors.target_length)

    def choose(self, positions: Tensor) -> "NearFar":
        return self

    def cos_sin(self, positions: Tensor, layer_index: int) -> tuple[Tensor, Tensor]:
        return cos_sin(self.far.near, positions)

    def attach(self, model: "Model") -> Iterable[Attachment]:
        return self._attention.attach(model)


def require_far_rotation(model: "Model") -> None:
    """Try whether a model's attention can rotate queries and keys once more.

    With all keys far, the hidden states must be those with the far factors in the rotary.

    Raises:
        ModelError: the family does not rotate pair by pair, or has attention of its own; or the model runs
            another implementation than sdpa.
    """
    implementation = model.model.config._attn_implementation
    if implementation not in ("sdpa", NAME):
        raise _refusal(model.name, f"it needs the attention implementation sdpa, but has {implementation}")
    try:
        rotation = model.key_rotation
        if rotation.part != 0:
            raise _refusal(model.name, "its cache does not store keys as its attention reads them")
        with torch.inference_mode(False), evaluating(model.model):
            expected, found = _hidden_states(model, rotation)
    except KeyRotationError as error:
        raise _refusal(model.name, error.reason) from None
    except RopewalkError:
        raise
    except FOREIGN_ERRORS as error:
        raise _refusal(model.name, str(error).splitlines()[0].rstrip(".")) from None
    tolerance = TOLERANCES.get(model.model.dtype, HALF_TOLERANCE)
    if float((found - expected).abs().max()) > tolerance * float(expected.abs().max()):
        raise _refusal(model.name, "its attention has other hidden states when it rotates them")


def _hidden_states(model: "Model", rotation: KeyRotation) -> tuple[Tensor, Tensor]:
    """Hidden states with factors in the rotary, and with all keys far."""
    rescale_factor, attention_factor = TEST_FACTORS
    geometry = model.geometry
    factors = RescaleFactors.single(
        geometry=geometry,
        target_length=max(geometry.original_length, NUM_TOKENS),
        rescale_factors=[rescale_factor] * geometry.num_pairs,
        attention_factor=attention_factor,
    )
    ones = factors.replace(rescale_factors=((1.0,) * geometry.num_pairs,), attention_factor=1.0)
    all_far = NearFar(factors, FarPart(ones, factors, 0, rotation), length=NUM_TOKENS)
    vocabulary = model.model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (1, NUM_TOKENS), generator=generator).to(model.model.device)
    with model.using(OneSet(factors)):
        expected = model.decoder(input_ids=ids, use_cache=False).last_hidden_state
    with model.using(all_far):
        found = model.decoder(input_ids=ids, use_cache=False).last_hidden_state
        _require_masks_of_decoder(model, ids)
    return expected, found


def _require_masks_of_decoder(model: "Model", ids: Tensor) -> None:
    """Refuse models that make masks before their decoder runs, where far parts are not known."""
    try:
        model.model(input_ids=ids, use_cache=False)
    except ModelError:
        raise _refusal(model.name, "it makes its attention masks outside of its decoder") from None


def _refusal(name: str, reason: str) -> ModelError:
    return ModelError(
        f"{name} can't read with near-far factors: {reason}; use factors without a near window."
    )
