"""What a user can cause. Each message is one line: what was given, the rule, what to do.

The command line turns these into that one line and exit code 2; anything else is a defect of ours and
keeps its traceback.
"""

import reprlib

from ropewalk.sanitize import redacted

_SHORT = reprlib.Repr()
_SHORT.maxlong = _SHORT.maxstring = _SHORT.maxother = 40


def shown(value: object) -> str:
    """A value as a message shows it: short, whatever its size."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not print an integer of more than 4300 digits
        return "an integer of thousands of digits"


class RopewalkError(ValueError):
    """A mistake in what was given to Ropewalk, not in Ropewalk.

    Args:
        message: shown without passwords and keys, wherever it came from.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class SettingError(RopewalkError):
    """A setting out of its range, or an unknown name (scheme, strategy, metric ...)."""


class FactorsError(RopewalkError):
    """Rescale factors, or their file, that break a rule or belong to another model."""


class ModelError(RopewalkError):
    """A model that can't be found, read or extended."""


class DataError(RopewalkError):
    """Text that is missing, empty, binary or too short."""


class EvaluationError(RopewalkError):
    """A measurement that can't be made of what was given."""


class RunFolderError(RopewalkError):
    """An output folder that holds something else, is in use, or can't be written."""


class FinetuneError(RopewalkError):
    """A fine-tuning stage that can't begin, go on or be trusted."""


class ExportError(RopewalkError):
    """Factors that a target can't hold, a place that can't be written, or an export that can't be checked."""


class MissingEngineError(ExportError):
    """An engine that is not installed; the message says how to install it."""


class EngineError(ExportError):
    """An engine that does not load or run what it was given; the message holds what it said."""
