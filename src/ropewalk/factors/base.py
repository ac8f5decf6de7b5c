"""Base: how new factors relate to the model's own scaling."""

from typing import Literal

Base = Literal["native", "as-is"]
"""`native`: the factors replace that scaling; `as-is`: they are multiplied onto it."""
