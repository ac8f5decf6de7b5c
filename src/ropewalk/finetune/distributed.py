"""The processes of a run: what they must have alike, and how one that fails takes the others with it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from ropewalk.errors import FinetuneError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.store import hash_json


class Ranks:
    """Every process of the run, seen from this one; a run of one process is alone.

    Attributes:
        index: of this process, from 0; the first one writes what is written once.
        count: how many there are.
    """

    def __init__(self, device: torch.device) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.index = distributed.get_rank() if together else 0
        self.count = distributed.get_world_size() if together else 1
        self._device = device

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def gather(self, values: list[float]) -> list[list[float]]:
        """The values of every process, in their order; float64."""
        if self.count == 1:
            return [values]
        precise = torch.float32 if self._device.type == "mps" else torch.float64
        own = torch.tensor(values, dtype=precise, device=self._device)
        found = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(found, own)
        return [tensor.tolist() for tensor in found]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Every process comes to the end of it, or none goes on.

        Raises:
            FinetuneError: another process failed in it.
        """
        try:
            yield
        except BaseException:
            self.gather([1.0])
            raise
        failed = [index for index, (flag,) in enumerate(self.gather([0.0])) if flag]
        if failed:
            raise FinetuneError(f"Process {failed[0]} of {self.count} stopped; see what it says.")

    def require_same(self, digest: str, what: str) -> None:
        """Refuse to go on where processes differ.

        Args:
            digest: hexadecimal.

        Raises:
            FinetuneError: names the first process that differs from process 0.
        """
        found = self.gather([float(byte) for byte in bytes.fromhex(digest)])
        for index, other in enumerate(found):
            if other != found[0]:
                raise FinetuneError(
                    f"Process {index} of {self.count} holds other {what} than process 0: give every process "
                    f"the same files and settings."
                )


def factors_digest(factors: RescaleFactors) -> str:
    """SHA-256 of what the model is turned by: everything in the factors but where they come from."""
    values = json.loads(factors.to_json())
    del values["provenance"]
    return hash_json(values)
