"""One text for searches and reports: which of its documents are whose."""

from ropewalk.errors import SettingError
from ropewalk.pipeline.stages import Run, report_lengths
from ropewalk.recipe.stages import EvaluateStage, FinetuneStage, ReadjustStage, SearchStage
from ropewalk.text.settings import TextSettings, same_place


def part_text(run: Run) -> None:
    """Find the border in a text that is both searched in and reported on, and say where it is.

    The first documents that are long enough for every stage are those of the searches, as many as the largest
    search takes; those after them are reported on. Documents before the border that are too short for some
    stage are read by searches at short lengths only.

    Raises:
        DataError: no document is long enough.
        SettingError: a training reads the same text.
    """
    text, stages = run.recipe.text, run.recipe.stages
    searches = [stage for stage in stages if isinstance(stage, (SearchStage, ReadjustStage))]
    if not text.is_parted or not searches:
        return
    _require_other_training_text(run)
    lengths = [int(length) for stage in searches for length in stage.at_lengths]
    for stage in stages:
        lengths += report_lengths(run, stage) if isinstance(stage, EvaluateStage) else []
    run.border = text.border(run.tokenizer, max(lengths), max(_num_taken(stage, text) for stage in searches))
    run.watch.say(
        f"Text: the first {run.border} documents of {text.search} are for searches, those after them for "
        f"reports."
    )


def require_disjoint(run: Run) -> None:
    """Refuse a report document that is a search document too, once all documents were read.

    Raises:
        SettingError: there is one.
    """
    for report in run.reported:
        if any(report.shares_documents_with(searched) for searched in run.searched):
            raise SettingError(
                f"A report document from {report.source} is a search document too: name a text without "
                f"repetitions, or another source for reports (text.report)."
            )


def _num_taken(stage: SearchStage | ReadjustStage, text: TextSettings) -> int:
    num_documents, num_stop = stage.num_documents, stage.num_stop_documents
    return (text.num_documents if num_documents is None else num_documents) + (
        text.num_stop_documents if num_stop is None else num_stop
    )


def _require_other_training_text(run: Run) -> None:
    if not any(isinstance(stage, FinetuneStage) for stage in run.recipe.stages):
        return
    for source in run.recipe.mixture_settings().sources:
        if same_place(source.text, run.recipe.text.search):
            raise SettingError(
                f"{source.text} is trained on (data source {source.name}), so its documents can't be "
                f"reported on: name another source for reports (text.report), or for training."
            )
