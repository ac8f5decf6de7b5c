"""Errors that a caller can cause. Each message is one line: what was given, the rule, what to do.

The command line prints this line and exits with code 2. Any other exception is a defect of Ropewalk: it keeps
its traceback and exits with code 1.
"""

import reprlib
from collections.abc import Iterable

from ropewalk.sanitize import redacted

_SHORT = reprlib.Repr()
_SHORT.maxlong = _SHORT.maxstring = _SHORT.maxother = 40


def shown(value: object) -> str:
    """Return the text of a value in a message: at most about 40 characters."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not print an integer of more than 4300 digits
        return "an integer of thousands of digits"


class RopewalkError(ValueError):
    """Base class of the errors that a caller can cause.

    Args:
        message: one line; passwords and keys in it are hidden.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class SettingError(RopewalkError):
    """A setting out of its range, or an unknown name (scheme, strategy, metric ...)."""


class FactorsError(RopewalkError):
    """Rescale factors, or a file of them, that break a rule or are for another model."""


class ModelError(RopewalkError):
    """A model that can't be found, read or extended."""


class DataError(RopewalkError):
    """Text that is missing, empty, binary or too short."""


class EvaluationError(RopewalkError):
    """A measurement that can't be made, or whose result is not finite."""


class RunFolderError(RopewalkError):
    """An output folder with the files of another run, in use by another process, or not writable."""


class RecipeError(RopewalkError):
    """A recipe with mistakes.

    Attributes:
        mistakes: each with its line, the rule, and what to do.
        lines: one a mistake.
    """

    def __init__(self, source: str, mistakes: Iterable[object]) -> None:
        self.mistakes = tuple(mistakes)
        self.lines = [f"{source}, {mistake}" for mistake in self.mistakes]
        super().__init__(" ".join(self.lines))


class FinetuneError(RopewalkError):
    """A fine-tuning stage that can't start or resume, or whose loss is wrong."""


class ExportError(RopewalkError):
    """Factors that a target can't represent, or an export that can't be written or verified."""


class MissingEngineError(ExportError):
    """An engine that is not installed; the message says how to install it."""


class EngineError(ExportError):
    """An engine that fails to load or run a model; the message quotes the engine."""
