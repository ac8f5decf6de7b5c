"""A training document: token ids and their weights in the loss."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingDocument:
    """The tokens of one document and their weights in the loss.

    Attributes:
        ids: token ids, shape (n,), int64. BOS and EOS at the ends are optional: packing removes them, and
            adds its own.
        weights: weight of each token in the loss where the model predicts it, shape (n,), bool or float;
            None for 1 everywhere.
        source: name of the source.
        whole: True if the document must not be split over two segments, such as a question and the text that
            answers it. Packing starts a new segment for it where it doesn't fit.
    """

    ids: torch.Tensor
    weights: torch.Tensor | None = None
    source: str
    whole: bool = False

    def __post_init__(self) -> None:
        assert self.ids.ndim == 1, self.ids.shape
        assert self.weights is None or self.weights.shape == self.ids.shape
