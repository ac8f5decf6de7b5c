"""Factors that an engine may use by mistake, and whether the comparisons would detect each of them."""

import math

import numpy as np
from torch import Tensor

from ropewalk.export import Served
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.verify.cases import Case
from ropewalk.verify.readings import Distance, Reading, mean_token_distance, read_with_ropewalk
from ropewalk.verify.result import Check, Tolerances

# If the distance to wrong factors is below this share of the distance to the right ones, the engine uses the
# wrong factors; rounding can't explain the difference.
NEARER = 0.9
# Differences below this share of the largest logit are rounding of float32, also on a processor where they
# are exactly 0. Measured means over tokens: 0.07e-6 between ATEN_CPU_CAPABILITY=default, avx2 and avx512 with
# 1 and 2 threads (bundled model, to 2048 tokens), 0.4e-6 between transformers and Ropewalk (tiny model, 128).
ROUNDING = 32 * 2.0**-23


def wrong_factors(served: Served, right: RescaleFactors, *, is_long: bool) -> dict[str, RescaleFactors]:
    """The factors that an engine may use by mistake, without those that are equal to the right ones.

    Args:
        right: the factors that it should use.
        is_long: whether these are the long factors.
    """
    ones = tuple(1.0 for _ in right.rescale_factors[0])
    choices = {
        "no factors": right.replace(rescale_factors=(ones,), attention_factor=1.0, num_start_tokens=0),
        "the other set": served.short if is_long else served.long,
        "pairs in reverse": right.replace(rescale_factors=(right.rescale_factors[0][::-1],)),
    }
    return without_equal(choices, right)


def without_equal(choices: dict[str, RescaleFactors], right: RescaleFactors) -> dict[str, RescaleFactors]:
    """The choices that are different from the right factors."""
    return {name: factors for name, factors in choices.items() if are_different(factors, right)}


def are_different(one: RescaleFactors, other: RescaleFactors) -> bool:
    """Whether any token gets another angle or another attention factor, in the float32 of engines."""
    resolution = float(np.finfo(np.float32).eps)
    return (
        one.num_start_tokens != other.num_start_tokens
        or not np.allclose(one.array(), other.array(), rtol=resolution, atol=0)
        or not math.isclose(one.attention_factor, other.attention_factor, rel_tol=resolution)
    )


class WrongFactorDetector:
    """Whether each of the wrong factors would be detected by the reading of at least one text.

    Wrong factors are detected if they exceed the tolerances, or if the engine's NLL per token is nearer to
    the right factors than to them. The second rule is for long texts, where wrong factors can have the same
    mean NLL: worse within the window, better beyond it.
    """

    def __init__(self, served: Served, tolerances: Tolerances) -> None:
        self._served = served
        self._tolerances = tolerances
        self._is_detected: dict[str, bool] = {}

    def compare(
        self, case: Case, engine: Reading, ours: Reading, base: Distance, loaded: Model, ids: Tensor
    ) -> None:
        """Compare the engine's reading with each of the wrong factors that no earlier text detected.

        Args:
            ours: Ropewalk's reading with the right factors.
            base: the distance between engine and Ropewalk for the base model.
            ids: the text, shape (1, tokens).
        """
        rounding = ROUNDING * float(ours.logits.abs().max())
        right = mean_token_distance(engine, ours)
        right = rounding if right < rounding else right  # NaN stays NaN
        for name, factors in wrong_factors(self._served, case.factors, is_long=case.is_long).items():
            if self._is_detected.get(name):
                continue
            with loaded.using(factors):
                wrong = read_with_ropewalk(loaded, ids)
            extra = Distance.between(engine, wrong).beyond(base)
            is_within = extra.is_within(self._tolerances, case.length)
            self._is_detected[name] = not is_within or right < NEARER * mean_token_distance(engine, wrong)

    def checks(self) -> list[Check]:
        """One check per wrong factors."""
        return Check.of_detections(self._is_detected)
