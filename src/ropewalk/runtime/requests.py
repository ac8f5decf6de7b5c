"""What is asked of a model right now: by which policy, and which factors its rows were given.

A request lasts as long as a `generate`, or a `with pinned(...)`. It belongs to the thread that made it, so
that two threads may use one model at once.
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
    """One use of one model.

    Attributes:
        factors: the model's `FactorsByLength`; other models' requests may be around or inside this one.
        is_generation: a `generate`; else a `with pinned(...)`.
        policy: how its factors follow its length.
        pinned: the length in tokens that `pinned` gave to all rows, or None.
        rows: the factors in use; None until a generation has been admitted.
        width: of a generation, the width of its ids in tokens, once that is known.
        is_total_stated: its `max_length` was stated, which counts prompt and padding.
        prompt_lengths: each row's own tokens before the first new one.
        prefill_chunk_size: as `generate` was told, for a cache that is rebuilt.
    """

    factors: Any
    is_generation: bool
    policy: Policy = DEFAULT_POLICY
    pinned: int | None = None
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
    """It is what is asked, meanwhile."""
    token = _requests.set((*_requests.get(), request))
    try:
        yield request
    finally:
        _requests.reset(token)


@contextmanager
def pinned(model: Model | nn.Module, length: int) -> Iterator[None]:
    """Meanwhile every row turns by the factors for `length` tokens, however short it is.

    For loops of one's own over `forward`, whose rows grow, and for conversations that keep their cache from
    turn to turn: what is read and generated inside never crosses to other factors.

    Args:
        model: as `ropewalk.load` and `ropewalk.apply` give it.
        length: tokens that no row will exceed.

    Raises:
        FactorsError: longer than the longest entry of the factor set, or below 1.
        ModelError: the model has no factor set, or (inside) a row exceeds what those factors serve.
    """
    factors: Any = Model.wrap(model).installed
    if not hasattr(factors, "rows_for"):
        raise ModelError(
            "Nothing can be pinned: this model has no factor set; give it one by ropewalk.apply."
        )
    with requesting(Request(factors, False, pinned=length, rows=factors.rows_for([length]))):
        yield


def choose_policy(*given: Any) -> Policy:
    """The first that is given.

    Raises:
        SettingError: it is none of `POLICIES`.
    """
    for policy in given:
        if policy is None:
            continue
        if policy not in POLICIES:
            raise SettingError(f"`rope_policy` is {policy!r}, but must be one of {', '.join(POLICIES)}.")
        return policy  # type: ignore[no-any-return]
    return DEFAULT_POLICY
