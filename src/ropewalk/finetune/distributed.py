"""The processes of a run: gathers values from all of them, and stops all of them if one fails."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState  # type: ignore[import-untyped]
from accelerate.utils import gather  # type: ignore[import-untyped]

from ropewalk.errors import FinetuneError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.store import hash_json


class Ranks:
    """The processes of the run, seen from this one, through accelerate.

    Attributes:
        index: rank of this process; process 0 writes what is written once.
        count: number of processes.
    """

    def __init__(self) -> None:
        self._state = PartialState()
        self.index: int = self._state.process_index
        self.count: int = self._state.num_processes

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def gather(self, values: list[float]) -> list[list[float]]:
        """The values of every process, by rank; float64."""
        device = self._state.device
        precise = torch.float32 if device.type == "mps" else torch.float64
        found: list[list[float]] = gather(torch.tensor([values], dtype=precise, device=device)).tolist()
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait until every process reaches the end of the block, or raise in all of them.

        accelerate's `wait_for_everyone` would wait for a process that failed until its timeout.

        Raises:
            FinetuneError: another process failed in the block.
        """
        try:
            yield
        except BaseException:
            self.gather([1.0])
            raise
        failed = [index for index, (flag,) in enumerate(self.gather([0.0])) if flag]
        if failed:
            raise FinetuneError(f"Process {failed[0]} of {self.count} failed: read its error.")

    def require_same(self, digest: str, what: str) -> None:
        """Check that a digest is the same in all processes.

        Args:
            digest: hexadecimal.
            what: the name of what was hashed, for the message.

        Raises:
            FinetuneError: names the first process that differs from process 0.
        """
        found = self.gather([float(byte) for byte in bytes.fromhex(digest)])
        for index, other in enumerate(found):
            if other != found[0]:
                raise FinetuneError(
                    f"Process {index} of {self.count} has different {what} than process 0: give each process "
                    f"the same files and settings."
                )


def factors_digest(factors: RescaleFactors) -> str:
    """SHA-256 of the factors without their provenance."""
    values = json.loads(factors.to_json())
    del values["provenance"]
    return hash_json(values)
