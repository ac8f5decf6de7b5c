"""Put factors into a loaded model, and take them out again.

A family with a model-level rotary computes cos and sin once and passes them to every layer. While factors
are installed, that rotary's forward is replaced on the instance: it fills the family's own layout from the
exact table of `rope.frequencies`, so none of transformers' dynamic or switching rules is ever called.
Whatever is replaced is remembered where it was and put back, so that afterwards logits are the same bits.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.errors import FactorsError, ModelError
from ropewalk.factors import RescaleFactors
from ropewalk.models.describe import RopeDescription, describe
from ropewalk.models.layout import RotaryLayout, bare_forward, learn_layout
from ropewalk.rope.frequencies import cos_sin

_MISSING = object()
