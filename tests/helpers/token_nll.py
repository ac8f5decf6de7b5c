"""The NLL of one window's tokens, for tests that compare them one by one."""

from typing import Any

from torch import Tensor

from ropewalk.evaluate.nll import window_nlls
from ropewalk.text.windows import TokenWindow


def token_nll(model: Any, window: TokenWindow, **chunks: int) -> Tensor:
    """Nats of the window's scored tokens: float32, shape (num_scored,)."""
    (nll,) = window_nlls(model, [window], **chunks)
    return nll
