"""How a model rotates its keys, learnt from its keys and not from its family.

A KV cache has keys after rotation. To rotate the keys of a text by other factors, they are needed before it:

    k[a] = k0[a] * cos + sign * k0[b] * sin      with the cos and sin of one pair

Families differ in which dimensions a and b make a pair (halves, neighbours), and in which dimensions do not
rotate. Here the model reads a few tokens while every token rotates by the same angles. Attention depends on
differences of angles only, so each layer has the same keys before rotation, whatever these angles are, and
the keys for two sets of angles show the pairs.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ropewalk.errors import ModelError, RopewalkError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.head import evaluating
from ropewalk.models.key_cache import (
    Recorded,
    RecordingCache,
    ReplacingCache,
    attention_of_queries,
    read_queries,
)
from ropewalk.models.rotary import Attachment
from ropewalk.models.rotary_layout import FOREIGN_ERRORS
from ropewalk.rope.frequencies import cos_sin

if TYPE_CHECKING:
    from ropewalk.models.model import Model

NUM_TOKENS = 48
QUERIES = (5, 6, 7, 20, 33, 47)  # tokens that are read again to compare their hidden states
ATTENTION_FACTOR = 1.25
# Largest error, in shares of the largest key or hidden state.
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
HALF_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class KeyRotation:
    """The rotation of keys, by key dimension, and the layers whose keys rotate so.

    Attributes:
        layers: for each layer, whether its keys rotate; factors do not change the keys of the others.
        pairs: the pair whose cos and sin a dimension takes; `num_pairs` for dimensions that are only
            multiplied by the attention factor, `num_pairs` + 1 for those that do not change.
        partners: the other dimension of the pair; the dimension itself if it does not rotate.
        signs: the sign of the sin: 1, -1, or 0 if the dimension does not rotate.
    """

    layers: tuple[bool, ...]
    pairs: tuple[int, ...]
    partners: tuple[int, ...]
    signs: tuple[float, ...]

    def columns(self, cos: Tensor, sin: Tensor, *, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """cos and sin for each key dimension, differentiable.

        Args:
            cos, sin: of each pair, with the attention factor, shape (tokens, num_pairs).
            inverse: of the rotation back.

        Returns:
            Two tensors of shape (tokens, key_dim).
        """
        attention, zero = torch.hypot(cos[..., :1], sin[..., :1]), torch.zeros_like(sin[..., :1])
        pairs = torch.tensor(self.pairs, device=cos.device)
        signs = torch.tensor(self.signs, dtype=cos.dtype, device=cos.device)
        cos = torch.cat((cos, attention, torch.ones_like(zero)), -1).index_select(-1, pairs)
        sin = torch.cat((sin, zero, zero), -1).index_select(-1, pairs) * signs
        if not inverse:
            return cos, sin
        square = cos.square() + sin.square()
        return cos / square, -sin / square

    def rotate(self, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The rotated keys.

        Args:
            keys: (batch, heads, tokens, key_dim).
            cos, sin: as `columns` returns them.
        """
        partners = torch.tensor(self.partners, device=keys.device)
        return torch.addcmul(keys * cos, keys.index_select(-1, partners), sin)


def learn_key_rotation(model: "Model") -> KeyRotation:
    """The rotation of a model's keys.

    Raises:
        ModelError: keys are not rotated pair by pair, layers rotate in different ways, or tokens that are
            read again with recorded keys have other hidden states.
    """
    try:
        with evaluating(model.model):
            return _Learner(model).learn()
    except RopewalkError:
        raise
    except FOREIGN_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _refusal(model.name, f"it does not run with recorded keys ({reason})") from None


def _refusal(name: str, reason: str) -> ModelError:
    return ModelError(f"The keys of {name} can't be kept: {reason}; use exact evaluation.")


@dataclass(frozen=True, eq=False)
class _EqualAngles:
    """An `Installable` that rotates every token by the same angles, shape (num_pairs,)."""

    factors: RescaleFactors
    angles: Tensor
    attention_factor: float = 1.0
    per_layer: bool = False

    def choose(self, positions: Tensor) -> "_EqualAngles":
        return self

    def cos_sin(self, positions: Tensor, layer_index: int) -> tuple[Tensor, Tensor]:
        angles = self.angles.to(positions.device).expand(*positions.shape, -1)
        return angles.cos() * self.attention_factor, angles.sin() * self.attention_factor

    def attach(self, model: "Model") -> Iterable[Attachment]:
        return ()


class _Learner:
    def __init__(self, model: "Model") -> None:
        self.model = model
        geometry = model.geometry
        self.num_pairs = geometry.num_pairs
        self.factors = RescaleFactors.single(
            geometry=geometry, target_length=1, rescale_factors=[1.0] * self.num_pairs
        )
        vocabulary = model.model.config.get_text_config(decoder=True).vocab_size
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(vocabulary, (NUM_TOKENS,), generator=generator).to(model.model.device)
        self.tolerance = TOLERANCES.get(model.model.dtype, HALF_TOLERANCE)

    def learn(self) -> KeyRotation:
        steps = torch.arange(self.num_pairs, dtype=torch.float64)
        angles = (steps + 0.5) * (3.0 / self.num_pairs)  # all different, within (0, 3)
        still, rotated = self._keys(0 * angles), self._keys(angles)
        moves = tuple(not self._equal(*layer) for layer in zip(still, rotated, strict=True))
        if not any(moves):
            raise _refusal(self.model.name, "factors change the keys of no layer")
        first = moves.index(True)
        scaled = self._keys(0 * angles, ATTENTION_FACTOR)[first]
        rotation = self._match(moves, still[first], rotated[first], scaled, angles)
        other_angles = angles.flip(0) * 1.3 + 0.2
        columns = rotation.columns(other_angles.cos().unsqueeze(0), other_angles.sin().unsqueeze(0))
        for before, after, is_moved in zip(still, self._keys(other_angles), moves, strict=True):
            if is_moved and before.shape[-1] != len(rotation.pairs):
                raise _refusal(self.model.name, "its layers have keys of several sizes")
            if not self._equal(rotation.rotate(before, *columns) if is_moved else before, after):
                raise _refusal(self.model.name, "its layers do not rotate them pair by pair in one way")
        self._require_reproduced(rotation)
        return rotation

    def _keys(self, angles: Tensor, attention_factor: float = 1.0) -> list[Tensor]:
        """The keys of each layer after rotation by these angles, float64, (1, heads, tokens, key_dim)."""
        found: list[Tensor] = []

        def record(index: int, keys: Tensor, _values: Tensor) -> None:
            if index != len(found):
                raise _refusal(self.model.name, f"its layer {len(found)} has none")
            found.append(keys.to("cpu", torch.float64))

        with self.model.using(_EqualAngles(self.factors, angles, attention_factor)):
            self._read(record)
        return found

    def _read(self, record: Callable[[int, Tensor, Tensor], None]) -> Tensor:
        cache = RecordingCache(record)
        output = self.model.decoder(input_ids=self.ids.unsqueeze(0), past_key_values=cache, use_cache=True)
        return output.last_hidden_state[0]  # type: ignore[no-any-return]

    def _equal(self, first: Tensor, second: Tensor) -> bool:
        if first.shape != second.shape:
            return False
        return float((first - second).abs().max()) <= self.tolerance * float(second.abs().max())

    def _match(
        self, moves: tuple[bool, ...], still: Tensor, rotated: Tensor, scaled: Tensor, angles: Tensor
    ) -> KeyRotation:
        """The pair, partner and sign of each dimension, with the smallest error."""
        still, rotated, scaled = (
            keys.transpose(1, -1).reshape(keys.shape[-1], -1) for keys in (still, rotated, scaled)
        )
        cos, sin, square = angles.cos(), angles.sin(), still.square().sum(1)
        pairs, partners, signs = [], [], []
        for dimension, keys in enumerate(rotated):
            if self._equal(keys, still[dimension]):
                is_scaled = not self._equal(scaled[dimension], still[dimension])
                pairs.append(self.num_pairs + 1 - is_scaled)
                partners.append(dimension)
                signs.append(0.0)
                expected = still[dimension] * (ATTENTION_FACTOR if is_scaled else 1.0)
            else:
                rest = keys - cos[:, None] * still[dimension]  # is sign * sin * still[partner]
                products = sin[:, None] * (rest @ still.T)
                errors = rest.square().sum(1, keepdim=True) + sin[:, None].square() * square
                errors = torch.stack((errors - 2 * products, errors + 2 * products))
                errors[:, :, dimension] = math.inf
                sign, pair, partner = (int(i) for i in torch.unravel_index(errors.argmin(), errors.shape))
                pairs.append(pair)
                partners.append(partner)
                signs.append(1.0 - 2.0 * sign)
                expected = still[dimension] * ATTENTION_FACTOR
            if not self._equal(expected, scaled[dimension]):
                raise _refusal(self.model.name, "the attention factor does not multiply them")
        self._require_pairs(pairs, partners, signs)
        return KeyRotation(layers=moves, pairs=tuple(pairs), partners=tuple(partners), signs=tuple(signs))

    def _require_pairs(self, pairs: list[int], partners: list[int], signs: list[float]) -> None:
        """Only where two dimensions are each other's partners can the rotation be reversed."""
        for dimension, partner in enumerate(partners):
            opposite = signs[partner] == -signs[dimension] and pairs[partner] == pairs[dimension]
            if partners[partner] != dimension or not opposite:
                raise _refusal(self.model.name, "it does not rotate them pair by pair")

    def _require_reproduced(self, rotation: KeyRotation) -> None:
        """Some tokens, read again with the recorded keys of all others, have the same hidden states."""
        positions = torch.arange(NUM_TOKENS)
        queries = positions[list(QUERIES)].to(self.ids.device)
        table = (part.to(self.ids.device) for part in cos_sin(self.factors, positions))
        cos, sin = (part.to(torch.promote_types(self.model.model.dtype, torch.float32)) for part in table)
        recorded: list[Recorded] = []

        def record(index: int, keys: Tensor, values: Tensor) -> None:
            if rotation.layers[index]:
                before = rotation.rotate(keys.to(cos.dtype), *rotation.columns(cos, sin, inverse=True))
                keys = rotation.rotate(before, *rotation.columns(cos, sin))
            others = keys.index_fill(2, queries, 0.0), values.index_fill(2, queries, 0.0)
            recorded.append(lambda: others)

        with self.model.using(self.factors):
            hidden = self._read(record)
            cache = ReplacingCache(recorded, queries)
            with attention_of_queries(self.model.model):
                again = read_queries(self.model.model, self.model.decoder, self.ids[queries], queries, cache)
        if not self._equal(again, hidden[queries]):
            raise _refusal(self.model.name, "tokens that are read again with them have other hidden states")
