"""Requests to a model with a factor set: the policy, and the factors of its rows.

A request lasts as long as a call of `generate`, or a `with pinned(...)`. It belongs to its thread, so that
two threads can use one model at the same time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

from ropewalk.errors import ModelError, SettingError
from ropewalk.models.model import Model
from ropewalk.runtime.rows import Rows

Policy = Literal["pin", "recompute"]
POLICIES: tuple[str, ...] = get_args(Policy)
DEFAULT_POLICY: Policy = "pin"


@dataclass(eq=False)
class Request:
    """One call of `generate`, or one `with pinned(...)`.

    Attributes:
        factors: the model's `FactorsByLength`; requests to other models may be nested around or inside this
            one.
        is_generation: True for a call of `generate`, False for a `with pinned(...)`.
        policy: how its factors depend on its length.
        pinned_length: the length in tokens that `pinned` gives to all rows, or None.
        rows: the factors of the rows; None until the cache of a generation is prepared.
        width: for `generate`, the width of its ids in tokens, once it is known.
        is_total_stated: whether the caller gave `max_length`, which counts prompt and padding.
        prompt_lengths: each row's tokens before the first new one, without padding.
        prefill_chunk_size: the argument of `generate`, for a cache that is rebuilt.
    """

    factors: Any
    is_generation: bool
    policy: Policy = DEFAULT_POLICY
    pinned_length: int | None = None
    rows: Rows | None = None
    width: int = 0
    is_total_stated: bool = False
    prompt_lengths: tuple[int, ...] = ()
    prefill_chunk_size: int | None = None


_requests: ContextVar[tuple[Request, ...]] = ContextVar("ropewalk_requests", default=())


def current(factors: Any) -> Request | None:
    """The innermost request in this thread of the model with these `FactorsByLength`."""
    for request in reversed(_requests.get()):
        if request.factors is factors:
            return request
    return None


@contextmanager
def requesting(request: Request) -> Iterator[Request]:
    """Inside the `with`, this is the innermost request."""
    token = _requests.set((*_requests.get(), request))
    try:
        yield request
    finally:
        _requests.reset(token)


@contextmanager
def pinned(model: Model | nn.Module, length: int) -> Iterator[None]:
    """Inside the `with`, every row rotates by the factors for `length` tokens, even a shorter one.

    Use it for loops over `forward`, whose rows grow, and for conversations that keep their cache from turn to
    turn: inside, no row changes its factors.

    Args:
        model: as returned by `ropewalk.load` and `ropewalk.apply`, or a `Model`.
        length: the most tokens that a row will have.

    Raises:
        FactorsError: `length` is above the longest entry of the factor set, or below 1.
        ModelError: the model has no factor set, or (inside) a row is longer than these factors serve.
    """
    factors: Any = Model.wrap(model).installed
    if not hasattr(factors, "rows_for"):
        raise ModelError(
            "The model has no factor set, so its rows can't be pinned: install one with ropewalk.apply."
        )
    with requesting(Request(factors, False, pinned_length=length, rows=factors.rows_for([length]))):
        yield


def choose_policy(*given: Any) -> Policy:
    """The first policy that is not None, or the default.

    Raises:
        SettingError: it is not in `POLICIES`.
    """
    for policy in given:
        if policy is None:
            continue
        if policy not in POLICIES:
            raise SettingError(f"`rope_policy` is {policy!r}, but must be one of {', '.join(POLICIES)}.")
        return policy  # type: ignore[no-any-return]
    return DEFAULT_POLICY
