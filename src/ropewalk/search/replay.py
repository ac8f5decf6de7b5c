"""Replay: the trials of a journal that a resumed search goes through again instead of evaluating them."""

from typing import Any

from ropewalk.errors import RunFolderError
from ropewalk.search.evaluation import Evaluator
from ropewalk.search.journal import Journal
from ropewalk.search.trial import Query, Trial, TrialKind
from ropewalk.store import differences


class Replay:
    """The recorded trials, each compared with the query that the search makes now."""

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._trials = list(journal.trials) if journal else []

    def trial(
        self, index: int, query: Query, kind: TrialKind, generator_state: dict[str, Any], evaluator: Evaluator
    ) -> Trial | None:
        """The recorded trial of this query; None if the journal ends before it.

        If another trial is recorded there, and no other environment explains it, the journal may be cut
        there.

        Args:
            generator_state: of the strategy, now.
            evaluator: of the query.

        Raises:
            RunFolderError: another trial is recorded there.
        """
        if index >= len(self._trials):
            return None
        assert self._journal is not None, "trials come from a journal"
        recorded = self._trials[index]
        is_same = (
            (recorded.candidate, recorded.kind) == (query.candidate, kind)
            and self._journal.generator_states[index] == generator_state
            and evaluator.could_have_made(recorded)
            and _answers(recorded, query)
        )
        if is_same:
            return recorded
        changes = differences(self._journal.environments[-1], self._journal.environments[0])
        if changes or not self._journal.cut_damaged:
            raise _other_trial(self._journal, index, changes)
        self._journal.cut(index)
        del self._trials[index:]
        return None


def _answers(trial: Trial, query: Query) -> bool:
    """Whether a trial has the documents of the query, and a gradient if that was requested."""
    has_gradient = trial.gradient is not None
    return trial.documents == query.documents and (trial.value is None or has_gradient == query.gradient)


def _other_trial(journal: Journal, index: int, changes: list[str]) -> RunFolderError:
    reason = (
        f"what differs is {'; '.join(changes)} there"
        if changes
        else "settings and versions are the same, so the journal or the code was changed: --cut-damaged cuts "
        "the journal off there"
    )
    return RunFolderError(
        f"{journal.path}: the search does not ask for trial {index} as it is recorded, so it can't be "
        f"resumed; {reason}. Restore that, or start in another folder."
    )
