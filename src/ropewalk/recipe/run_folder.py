"""PipelineFolder and StageFolder: the folder of a recipe's run, and those of its stages.

runs/quick/                          of a recipe (`ropewalk extend`)
├── recipe.json                      what is run; another recipe is refused
├── stages/01-search-8x/             a folder a stage:
│   ├── inputs.json                  what it was begun with
│   ├── journal.jsonl, factors.json  of a search; of readjustment one each a length
│   ├── training/                    of a fine-tuning: its checkpoints, and its model
│   ├── start/                       of external training: the checkpoint to start from
│   ├── records.jsonl                of an evaluation
│   ├── passkey-answers.jsonl        what was answered, prompt by prompt
│   └── done.json                    what it made, with hashes; written last
├── result/                          the checkpoint, if one was tuned, and factors.json: the factor set
└── result.json                      records, limits and verdicts
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord, PasskeyAnswer
from ropewalk.factors.factor_set import FACTORS_NAME
from ropewalk.recipe.run_disk import (
    FORMAT,
    FORMAT_VERSION,
    as_line,
    content_of,
    digest,
    explained,
    locked,
    make_folder,
    names_in,
    read_document,
    read_lines,
    require_empty,
    without_partials,
    write_file,
    write_lines,
)
from ropewalk.search.journal import differing
from ropewalk.store import LOCK, PARTIAL, FolderLock, follow_umask, link_or_copy, write_atomically

STAGE_FORMAT = "ropewalk.stage"
# Where a recipe finds a model and text. What lies there is compared by its content, stage by stage.
PLACES = frozenset({"model.name", "model.revision", "text.search", "text.report"})


class PipelineFolder:
    """The folder of a recipe's run; `open` makes or takes up one, and locks it until `close` (or `with`).

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, lock: FolderLock | None = None) -> None:
        """Without a lock it may only be read; others write there perhaps."""
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, identity: Mapping[str, Any]) -> "PipelineFolder":
        """The folder of a run of this recipe: a new or an empty one, or one in which it was begun.

        Args:
            identity: the recipe, as JSON values.

        Raises:
            RunFolderError: it holds another recipe's run or other files, is in use, is no folder, or can't be
                written.
        """
        path = Path(path)
        make_folder(path)
        folder = cls(path, locked(path))
        try:
            folder._take_up(identity)
        except BaseException:
            folder.close()
            raise
        return folder

    def holds(self, identity: Mapping[str, Any]) -> bool:
        """Whether this recipe's run has begun there.

        Raises:
            RunFolderError: another recipe's has.
        """
        if not self.recipe_path.is_file():
            return False
        begun = read_document(self.recipe_path).get("recipe")
        differences = [
            line
            for line in differing(json.loads(json.dumps(identity)), begun)
            if line.partition(" is ")[0] not in PLACES
        ]
        if differences:
            raise RunFolderError(
                f"{self.path} holds a run of another recipe: {'; '.join(differences)} there. Go on with the "
                f"recipe that it was begun with, or choose another folder."
            )
        return True

    @property
    def recipe_path(self) -> Path:
        return self.path / "recipe.json"

    @property
    def result_path(self) -> Path:
        """The folder of what comes out."""
        return self.path / "result"

    @property
    def result_factors_path(self) -> Path:
        return self.result_path / FACTORS_NAME

    @property
    def summary_path(self) -> Path:
        return self.path / "result.json"

    def stage(self, index: int, name: str) -> "StageFolder":
        """A stage's folder; it is made when the stage begins."""
        return StageFolder(self.path / "stages" / f"{index + 1:02d}-{name}")

    def write_result(self, checkpoint: Path | None, factors: str) -> None:
        """Put the checkpoint (linked, not copied, where that can be) and the factor set into `result`.

        It is made beside and then takes the place of the one before, so that it is never there in part.

        Raises:
            RunFolderError: it can't be written.
        """
        partial = self.path / f".{self.result_path.name}{PARTIAL}"
        with explained(self.result_path):
            shutil.rmtree(partial, ignore_errors=True)
            if checkpoint is None:
                partial.mkdir()
            else:
                shutil.copytree(checkpoint, partial, copy_function=link_or_copy)
                follow_umask(partial)
            # Replaced, and so never written through a link.
            write_atomically(partial / self.result_factors_path.name, factors.encode())
            shutil.rmtree(self.result_path, ignore_errors=True)
            partial.rename(self.result_path)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the run in short.

        Raises:
            RunFolderError: it can't be written.
        """
        write_file(self.summary_path, as_line(dict(summary), indent=2))

    def close(self) -> None:
        """Give the folder free."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> "PipelineFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_up(self, identity: Mapping[str, Any]) -> None:
        without_partials(self.path, self.recipe_path.name)  # killed before it was there
        if self.holds(identity):
            without_partials(self.path, self.summary_path.name)
            return
        require_empty(self.path, [name for name in names_in(self.path) if name != LOCK])
        document = {"format": FORMAT, "version": FORMAT_VERSION, "recipe": identity}
        write_file(self.recipe_path, as_line(document, indent=2))


class StageFolder:
    """One stage's folder.

    Attributes:
        path: the folder; it is not there before `begin`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def training_path(self) -> Path:
        return self.path / "training"

    @property
    def model_path(self) -> Path:
        """The tuned model, where a fine-tuning leaves it."""
        return self.training_path / "model"

    @property
    def start_path(self) -> Path:
        return self.path / "start"

    @property
    def records_path(self) -> Path:
        return self.path / "records.jsonl"

    @property
    def answers_path(self) -> Path:
        return self.path / "passkey-answers.jsonl"

    @property
    def done_path(self) -> Path:
        return self.path / "done.json"

    @property
    def inputs_path(self) -> Path:
        return self.path / "inputs.json"

    def journal_path(self, length: int | None = None) -> Path:
        """Of the search, or of readjustment at one length."""
        return self.path / ("journal.jsonl" if length is None else f"journal-{length}.jsonl")

    def factors_path(self, length: int | None = None) -> Path:
        """Of the search, or of readjustment at one length."""
        return self.path / ("factors.json" if length is None else f"factors-{length}.json")

    def begin(self, inputs: Mapping[str, Any]) -> None:
        """Begin the stage, or go on with it; it must have been begun with the same inputs.

        What a killed process left half-written is taken away.

        Raises:
            RunFolderError: with others, or it can't be written.
        """
        as_read = json.loads(json.dumps(inputs))
        without_partials(self.path)
        if self.inputs_path.is_file():
            differences = differing(as_read, self._read_inputs())
            if differences:
                raise RunFolderError(
                    f"{self.path} was begun with other inputs: {'; '.join(differences)} there. Give it those "
                    f"again, or choose another folder for the run."
                )
            return
        make_folder(self.path)
        document = {"format": STAGE_FORMAT, "version": FORMAT_VERSION, "inputs": as_read}
        write_file(self.inputs_path, as_line(document, indent=2))

    def _read_inputs(self) -> Any:
        remedy = f"remove {self.path}, so that the stage is done again"
        return read_document(self.inputs_path, remedy).get("inputs")

    def finish(self, outputs: Iterable[Path], **made: Any) -> None:
        """Note that the stage is complete, and what lies there as its result.

        Args:
            outputs: files within the folder.
            made: what else later stages need, as JSON values.

        Raises:
            RunFolderError: it can't be written.
        """
        files = {str(path.relative_to(self.path)): content_of(path) for path in sorted(outputs)}
        document = {"format": STAGE_FORMAT, "version": FORMAT_VERSION, "outputs": files, "made": made}
        write_file(self.done_path, as_line({**document, "checksum": digest(document)}, indent=2))

    def done(self) -> dict[str, Any] | None:
        """What `finish` was given, if the stage is complete and its outputs are still what they were.

        None where that can't be read either: the stage is then gone through again, from what it left behind.
        """
        found = self._read_done()
        if any(content_of(self.path / name) != content for name, content in found["outputs"].items()):
            return None
        made: dict[str, Any] | None = found["made"]
        return made

    def _read_done(self) -> dict[str, Any]:
        """The outputs and what was made; no outputs and None where the file is missing or damaged."""
        nothing: dict[str, Any] = {"outputs": {}, "made": None}
        try:
            found = read_document(self.done_path)
        except RunFolderError:
            return nothing
        checksum = found.pop("checksum", None)  # stages that were finished by 0.1.0 have none
        is_whole = isinstance(found.get("outputs"), dict) and isinstance(found.get("made"), dict)
        return found if is_whole and checksum in (None, digest(found)) else nothing

    def write(self, path: Path, content: str) -> None:
        """Write a file of the stage whole or not at all.

        Raises:
            RunFolderError: it can't be written.
        """
        write_file(path, content.encode())

    @contextmanager
    def writing_start(self) -> Iterator[Path]:
        """A folder that becomes `start_path` when all is written.

        Raises:
            RunFolderError: it can't be written.
        """
        partial = self.path / f".{self.start_path.name}{PARTIAL}"
        with explained(self.start_path):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            follow_umask(partial)
            partial.rename(self.start_path)

    def write_records(self, records: Iterable[EvalRecord]) -> None:
        """As `RunFolder.write_records`."""
        write_lines(self.records_path, (record.as_json() for record in records))

    def read_records(self) -> list[EvalRecord]:
        """Those that were written; none if there are none, if they can't be read, or if they were changed."""
        finished = self._read_done()["outputs"].get(self.records_path.name)
        if finished is not None and finished != content_of(self.records_path):
            return []
        return read_lines(self.records_path, EvalRecord.from_json)

    def write_answers(self, answers: Iterable[PasskeyAnswer]) -> None:
        """As `write_records`; each of them may have taken minutes."""
        write_lines(self.answers_path, (answer.as_json() for answer in answers))

    def read_answers(self) -> list[PasskeyAnswer]:
        """As `read_records`."""
        return read_lines(self.answers_path, PasskeyAnswer.from_json)
