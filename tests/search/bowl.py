"""An objective in the place of a model: fast, and its lowest point is known."""

import math
import time

from ropewalk.geometry import RopeGeometry
from ropewalk.search.space import SearchSpace


def make_space(num_pairs=12):
    geometry = RopeGeometry(
        head_dim=2 * num_pairs, rotary_dim=2 * num_pairs, rope_theta=625.0, original_length=256, num_layers=2
    )
    return SearchSpace(geometry=geometry, target_length=2048)


class Bowl:
    """Lowest where log lambda_i = (i / n)^2 ln s, the attention factor is 1.1, and n-hat is 1, not 0."""

    cost = 1.0

    def __init__(self, space, seconds=0.0):
        self.space = space
        self.seconds = seconds
        self.asked = []

    def __call__(self, candidate):
        time.sleep(self.seconds)
        self.asked.append(candidate)
        total, num_pairs = 1.0, len(candidate.rescale_factors)
        for pair, value in enumerate(candidate.rescale_factors):
            goal = (pair / num_pairs) ** 2 * math.log(self.space.extension_ratio)
            total += (math.log(value) - goal) ** 2
        total += 100 * (candidate.attention_factor - 1.1) ** 2
        return total + (0.01 * candidate.num_start_tokens or 1.0)
