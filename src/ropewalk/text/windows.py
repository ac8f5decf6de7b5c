"""Windows: which tokens of a document the model reads at once, and which of these are scored."""

from dataclasses import dataclass

import torch

from ropewalk.errors import SettingError
from ropewalk.text.tokens import TokenDocument


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenWindow:
    """Tokens that the model reads at once; only the last `num_scored` of them are scored.

    Attributes:
        ids: shape (n,), int64.
        num_scored: 1 to n - 1, because the first token of a window has no context.
    """

    ids: torch.Tensor
    num_scored: int

    def __post_init__(self) -> None:
        assert self.ids.ndim == 1, self.ids.shape
        assert 1 <= self.num_scored < len(self.ids), (self.num_scored, len(self.ids))


def truncate(document: TokenDocument, length: int) -> list[TokenWindow]:
    """Returns one window: the first `length` tokens of a document; all but the first token are scored.

        read   <s> 0 1 2 3 4 5 6
        score      0 1 2 3 4 5 6

    Raises:
        SettingError: `length` is below 2 or above the document's length.
    """
    ids = _first(document, length)
    return [TokenWindow(ids=ids, num_scored=length - 1)]


def sliding(document: TokenDocument, length: int, window: int, stride: int) -> list[TokenWindow]:
    """Returns windows over the first `length` tokens that score each token but the first exactly once.

    Each window begins `stride` tokens after the one before it, and scores the tokens that no window before
    it has scored. The last window ends where the text ends, so all windows have one size (here 5, with
    stride 2):

        read   <s> 0 1 2 3            read   1 2 3 4 5          read   2 3 4 5 6
        score      0 1 2 3            score        4 5          score          6

    A window as long as the text gives the same as `truncate`.

    Args:
        length, window, stride: tokens.

    Raises:
        SettingError: `stride` is not in 1 to window - 1, or `length` is below 2 or above the document's.
    """
    ids = _first(document, length)
    if not 1 <= stride < window:
        raise SettingError(
            f"The stride is {stride} tokens and the window {window}, but the stride must be at least 1 and "
            f"below the window."
        )
    windows = [TokenWindow(ids=ids[: min(window, length)], num_scored=min(window, length) - 1)]
    end = min(window, length)
    while end < length:
        new_end = min(end + stride, length)
        windows.append(TokenWindow(ids=ids[new_end - window : new_end], num_scored=new_end - end))
        end = new_end
    return windows


def _first(document: TokenDocument, length: int) -> torch.Tensor:
    if not 2 <= length <= len(document.ids):
        raise SettingError(
            f"The length is {length} tokens, but must be at least 2 and at most the {len(document.ids)} of "
            f"{document.name}."
        )
    return document.ids[:length]
