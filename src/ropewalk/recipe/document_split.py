"""One text for searches and reports: which of its documents are whose."""

from ropewalk.errors import SettingError
from ropewalk.recipe.stage_runs import Run, report_lengths
from ropewalk.recipe.stages import EvaluateStage, FinetuneStage, ReadjustStage, SearchStage
from ropewalk.text.splits import TextSettings, same_place


def part_text(run: Run) -> None:
    """Find what of the text is for searches, reports and trainings, where they share a source, and say it.

    The first documents that are long enough for every stage are those of the searches, as many as the largest
    search takes; those after them are reported on; those after these are trained on. Documents that are too
    short for some stage are only read by others of their part.

    Raises:
        DataError: no document is long enough, or none is left for reports.
        SettingError: a training source that is the same text is joined by folder.
    """
    recipe, text = run.recipe, run.recipe.text
    if any(isinstance(stage, FinetuneStage) for stage in recipe.stages):
        run.training_text = recipe.mixture_settings()
    searches = [stage for stage in recipe.stages if isinstance(stage, (SearchStage, ReadjustStage))]
    reports = [stage for stage in recipe.stages if isinstance(stage, EvaluateStage)]
    if not text.is_parted or not searches:
        return
    lengths = [int(length) for stage in searches for length in stage.at_lengths]
    lengths += [length for stage in reports for length in report_lengths(run, stage)]
    run.border = text.border(run.tokenizer, max(lengths), max(_num_taken(stage, text) for stage in searches))
    said = f"Text: the first {run.border} documents of {text.search} are for searches"
    if any(report_lengths(run, stage) for stage in reports):
        count = max(stage.num_documents or text.num_report_documents for stage in reports)
        report = text.for_report(run.tokenizer, max(lengths), count, border=run.border)
        said += f", the next {report.num_read} for reports"
        said += _skip_in_training(run, (run.border or 0) + report.num_read)
    run.watch.say(f"{said}.")


def _skip_in_training(run: Run, num_documents: int) -> str:
    """Leave the first documents out of every training source that is the same text; what is said of it."""
    settings, text = run.training_text, run.recipe.text.search
    if settings is None:
        return ""
    shared = [source for source in settings.sources if same_place(source.text, text)]
    if not shared:
        return ""
    joined = next((source.name for source in shared if source.join == "folder"), None)
    if joined is not None:
        raise SettingError(
            f"The data source {joined} is the text that is measured on, and joined by folder, so documents "
            f"can't be left out of it: set its join to none, or name another text for reports (text.report)."
        )
    sources = tuple(
        source.model_validate({**source.model_dump(), "skip": max(source.skip, num_documents)})
        if source in shared
        else source
        for source in settings.sources
    )
    run.training_text = settings.model_copy(update={"sources": sources})
    return ", those after them for training"


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
