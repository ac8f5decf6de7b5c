"""Base: what new factors do with a scaling that the model already has."""

from typing import Literal

Base = Literal["native", "as-is"]
"""`native`: the factors replace that scaling; `as-is`: they are multiplied onto it."""
