"""How a model rotates its keys, learnt from its keys and not from its family.

A KV cache has keys after rotation. To rotate the keys of a text by other factors, they are needed before it:

    k[a] = k0[a] * cos + sign * k0[b] * sin      with the cos and sin of one pair

Families differ in which dimensions a and b make a pair (halves, neighbours), in which dimensions do not
rotate, and in what they store: multi-head latent attention stores its rotated part where others store values.
Here the model reads a few tokens while every token rotates by the same angles. Attention depends on
differences of angles only, so each layer has the same keys before rotation, whatever these angles are, and
the keys for two sets of angles show the pairs.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ropewalk.errors import ModelError, RopewalkError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.head import evaluating
from ropewalk.models.key_cache import (
    LayerPair,
    Record,
    RecordingCache,
    ReplacingCache,
    attention_of_queries,
    read_queries,
)
from ropewalk.models.rotary import Attachment
from ropewalk.models.rotary_layout import FOREIGN_ERRORS

if TYPE_CHECKING:
    from ropewalk.models.model import Model

NUM_TOKENS = 48
QUERIES = (5, 6, 7, 20, 33, 47)  # tokens that are read again to compare their hidden states
ATTENTION_FACTOR = 1.25
# Largest error, in shares of the largest key or hidden state.
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
HALF_TOLERANCE = 0.05


class KeyRotationError(ModelError):
    """A model's keys can't be rotated by what is known of them.

    Attributes:
        reason: the reason, without the model's name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"The keys of {name} can't be kept: {reason}; use exact evaluation.")
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class KeyRotation:
    """The rotation of keys, by key dimension, and the layers whose keys rotate so.

    Attributes:
        layers: for each layer, whether its keys rotate; factors do not change the keys of the others.
        part: what of a layer rotates: 0 for what it stores as keys, 1 for what it stores as values.
        is_scaled: whether the attention factor multiplies rotated keys; not if they are normalised later.
        pairs: the pair whose cos and sin a dimension takes; `num_pairs` for dimensions that are only
            multiplied by the attention factor, `num_pairs` + 1 for those that do not change.
        partners: the other dimension of the pair; the dimension itself if it does not rotate.
        signs: the sign of the sin: 1, -1, or 0 if the dimension does not rotate.
    """

    layers: tuple[bool, ...]
    part: int
    is_scaled: bool
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
        if not self.is_scaled:
            cos, sin = cos / attention, sin / attention
        pairs = torch.tensor(self.pairs, device=cos.device)
        signs = torch.tensor(self.signs, dtype=cos.dtype, device=cos.device)
        cos = torch.cat((cos, attention, torch.ones_like(zero)), -1).index_select(-1, pairs)
        sin = torch.cat((sin, zero, zero), -1).index_select(-1, pairs) * signs
        if not inverse:
            return cos, sin
        square = cos.square() + sin.square()
        return cos / square, -sin / square

    def rotate(self, layer: LayerPair, cos: Tensor, sin: Tensor) -> LayerPair:
        """What a layer stores, with its keys rotated.

        Args:
            layer: its keys and values, (batch, heads, tokens, dim).
            cos, sin: as `columns` returns them.
        """
        keys = layer[self.part].to(cos.dtype)
        partners = torch.tensor(self.partners, device=keys.device)
        rotated = torch.addcmul(keys * cos, keys.index_select(-1, partners), sin)
        return (rotated, layer[1]) if self.part == 0 else (layer[0], rotated)


def learn_key_rotation(model: "Model") -> KeyRotation:
    """The rotation of a model's keys.

    Raises:
        KeyRotationError: keys are not rotated pair by pair, layers rotate in different ways, or tokens that
            are read again with recorded keys have other hidden states.
    """
    description = model.description
    if description.num_attention_layers < description.geometry.num_layers:
        raise KeyRotationError(
            model.name,
            f"only {description.num_attention_layers} of its {description.geometry.num_layers} layers have "
            f"attention",
        )
    try:
        with torch.inference_mode(False), evaluating(model.model):
            return _Learner(model).learn()
    except RopewalkError:
        raise
    except FOREIGN_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise KeyRotationError(model.name, f"it does not run with recorded keys ({reason})") from None


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
        still, rotated = self._layers(0 * angles), self._layers(angles)
        part, moves = self._moves(still, rotated)
        first = moves.index(True)
        scaled = self._layers(0 * angles, ATTENTION_FACTOR)
        of_first = (layers[first][part] for layers in (still, rotated, scaled))
        rotation = _Dimensions(self, angles, *of_first).rotation(moves, part)
        self._verify(rotation, still, angles.flip(0) * 1.3 + 0.2)
        self._require_reproduced()
        return rotation

    def refuse(self, reason: str) -> KeyRotationError:
        return KeyRotationError(self.model.name, reason)

    def equal(self, first: Tensor, second: Tensor) -> bool:
        if first.shape != second.shape:
            return False
        return float((first - second).abs().max()) <= self.tolerance * float(second.abs().max())

    def _layers(self, angles: Tensor, attention_factor: float = 1.0) -> list[LayerPair]:
        """What each layer stores after rotation by these angles, float64."""
        found: list[LayerPair] = []

        def record(index: int, keys: Tensor, values: Tensor) -> None:
            if index != len(found):
                raise self.refuse(f"its layer {len(found)} stores none")
            found.append((keys.to("cpu", torch.float64), values.to("cpu", torch.float64)))

        with self.model.using(_EqualAngles(self.factors, angles, attention_factor)):
            self._read(record)
        return found

    def _read(self, record: Record) -> Tensor:
        output = self.model.decoder(
            input_ids=self.ids.unsqueeze(0), past_key_values=RecordingCache(record), use_cache=True
        )
        return output.last_hidden_state[0]  # type: ignore[no-any-return]

    def _moves(self, still: list[LayerPair], rotated: list[LayerPair]) -> tuple[int, tuple[bool, ...]]:
        """(what rotates: 0 for keys, 1 for values; for each layer, whether it does)."""
        moves = [
            tuple(not self.equal(b[part], a[part]) for a, b in zip(still, rotated, strict=True))
            for part in (0, 1)
        ]
        if any(moves[0]) == any(moves[1]):
            what = "both keys and values" if any(moves[0]) else "neither keys nor values"
            raise self.refuse(f"factors change {what} in its cache")
        part = int(any(moves[1]))
        return part, moves[part]

    def _verify(self, rotation: KeyRotation, still: list[LayerPair], angles: Tensor) -> None:
        """Compare every layer with what the rotation says for other angles."""
        columns = rotation.columns(angles.cos().unsqueeze(0), angles.sin().unsqueeze(0))
        for before, after, moves in zip(still, self._layers(angles), rotation.layers, strict=True):
            if moves and before[rotation.part].shape[-1] != len(rotation.pairs):
                raise self.refuse("its layers have keys of several sizes")
            expected = rotation.rotate(before, *columns) if moves else before
            if not all(self.equal(*pair) for pair in zip(expected, after, strict=True)):
                raise self.refuse("its layers do not rotate them pair by pair in one way")

    def _require_reproduced(self) -> None:
        """Some tokens, read again with the recorded keys of all others, have the same hidden states."""
        queries = torch.tensor(QUERIES, device=self.ids.device)
        recorded: list[LayerPair] = []

        def record(_index: int, keys: Tensor, values: Tensor) -> None:
            recorded.append((keys.index_fill(2, queries, 0.0), values.index_fill(2, queries, 0.0)))

        with self.model.using(self.factors), attention_of_queries(self.model.model):
            hidden = self._read(record)
            cache = ReplacingCache(recorded.__getitem__, len(recorded), queries)
            again = read_queries(self.model.model, self.model.decoder, self.ids[queries], queries, cache)
        if not self.equal(again, hidden[queries]):
            raise self.refuse("tokens that are read again with them have other hidden states")


class _Dimensions:
    """The dimensions of one layer's keys, each a row of (samples,): without rotation, rotated, and scaled."""

    def __init__(
        self, learner: _Learner, angles: Tensor, still: Tensor, rotated: Tensor, scaled: Tensor
    ) -> None:
        self.learner = learner
        self.still, self.rotated, self.scaled = (
            keys.transpose(1, -1).reshape(keys.shape[-1], -1) for keys in (still, rotated, scaled)
        )
        self.cos, self.sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)

    def rotation(self, layers: tuple[bool, ...], part: int) -> KeyRotation:
        found = [self._match(dimension) for dimension in range(len(self.still))]
        pairs, partners, signs = zip(*found, strict=True)
        for dimension, partner in enumerate(partners):  # else the rotation can't be reversed
            opposite = signs[partner] == -signs[dimension] and pairs[partner] == pairs[dimension]
            if partners[partner] != dimension or not opposite:
                raise self.learner.refuse("it does not rotate them pair by pair")
        scales = {self._is_scaled(dimension) for dimension, sign in enumerate(signs) if sign}
        if len(scales) > 1:
            raise self.learner.refuse("the attention factor multiplies some pairs and not others")
        return KeyRotation(
            layers=layers, part=part, is_scaled=scales.pop(), pairs=pairs, partners=partners, signs=signs
        )

    def _match(self, dimension: int) -> tuple[int, int, float]:
        """The pair, partner and sign of a dimension, with the smallest error."""
        still, keys = self.still[dimension], self.rotated[dimension]
        if self.learner.equal(keys, still):
            return self.learner.num_pairs + (not self._is_scaled(dimension)), dimension, 0.0
        rest = keys - self.cos * still  # is sign * sin * keys of the partner
        products = 2 * self.sin * (rest @ self.still.T)
        squares = rest.square().sum(1, keepdim=True) + self.sin.square() * self.still.square().sum(1)
        errors = torch.stack((squares - products, squares + products))  # sign, pair, partner
        errors[:, :, dimension] = math.inf
        sign, pair, partner = (int(index) for index in torch.unravel_index(errors.argmin(), errors.shape))
        return pair, partner, -1.0 if sign else 1.0

    def _is_scaled(self, dimension: int) -> bool:
        """Whether the attention factor multiplies a dimension."""
        still, scaled = self.still[dimension], self.scaled[dimension]
        if self.learner.equal(scaled, still):
            return False
        if self.learner.equal(scaled, still * ATTENTION_FACTOR):
            return True
        raise self.learner.refuse("the attention factor does not multiply them")
