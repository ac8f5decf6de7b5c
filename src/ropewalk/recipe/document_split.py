"""Divides one text between searches, tests and trainings."""

from ropewalk.errors import SettingError
from ropewalk.recipe.evaluate_stage import report_lengths
from ropewalk.recipe.stage_context import Run
from ropewalk.recipe.stages import EvaluateStage, FinetuneStage, ReadjustStage, SearchStage
from ropewalk.text.settings import TextSplit, same_place
from ropewalk.text.splits import find_boundary, read_test_documents


def divide_text(run: Run) -> None:
    """Find which documents are for searches, tests and trainings if they share a source, and report it.

    The first documents that are long enough for every stage are for searches, as many as the largest search
    takes; those after them are for tests; those after these are for training. Other stages of the same part
    read the documents that are too short for some stage.

    Raises:
        DataError: no document is long enough, or none is left for tests.
        SettingError: a training source that is the same text is joined by folder.
    """
    recipe, text = run.recipe, run.recipe.text
    if any(isinstance(stage, FinetuneStage) for stage in recipe.stages):
        run.training_text = recipe.data
    searches = [stage for stage in recipe.stages if isinstance(stage, (SearchStage, ReadjustStage))]
    tests = [stage for stage in recipe.stages if isinstance(stage, EvaluateStage)]
    if not text.shares_source or not searches:
        return
    lengths = [int(length) for stage in searches for length in stage.at_lengths]
    lengths += [length for stage in tests for length in report_lengths(run, stage)]
    most = max(_num_taken(stage, text) for stage in searches)
    run.boundary = find_boundary(text, run.tokenizer, max(lengths), most)
    message = f"Text: the first {run.boundary} documents of {text.search} are for searches"
    if any(report_lengths(run, stage) for stage in tests):
        count = max(stage.num_documents or text.num_test_documents for stage in tests)
        test = read_test_documents(
            text, run.tokenizer, max(lengths), num_documents=count, boundary=run.boundary
        )
        message += f", the next {test.num_read} for tests"
        message += _skip_in_training(run, (run.boundary or 0) + test.num_read)
    run.watch.say(f"{message}.")


def _skip_in_training(run: Run, num_documents: int) -> str:
    """Leave the first documents out of every training source that is the same text; returns the message."""
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
            f"can't be left out of it: set its join to none, or name another text for tests (text.test)."
        )
    sources = tuple(
        source.model_validate({**source.model_dump(), "skip": max(source.skip, num_documents)})
        if source in shared
        else source
        for source in settings.sources
    )
    run.training_text = settings.model_copy(update={"sources": sources})
    return ", those after them for training"


def require_unseen_tests(run: Run) -> None:
    """Refuse a test document that is a search document too, once all documents were read.

    Raises:
        SettingError: there is one.
    """
    for report in run.reported:
        if any(report.shares_documents_with(searched) for searched in run.searched):
            raise SettingError(
                f"A test document from {report.source} is a search document too: name a text without "
                f"repetitions, or another source for tests (text.test)."
            )


def _num_taken(stage: SearchStage | ReadjustStage, text: TextSplit) -> int:
    followed, others = stage.num_documents, stage.num_validation_documents
    return (text.num_documents if followed is None else followed) + (
        text.num_validation_documents if others is None else others
    )
