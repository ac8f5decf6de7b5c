"""The page of the paper's claims again from its stored cells, with intervals as they are computed today.

    cd benchmarks/results
    python ../restated.py 2026-11-25-claims.json --run scale-model-512x

Nothing is measured: the JSON holds the nats and tokens of each document, so the folder that `claims.py`
reports from can be made again. Page and figures are written in the place of the old ones; date and machine
stay those of the measurement.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import claims
from miniature.bench import Bench
from miniature.cells import Cell, CellStore
from miniature.extended import ExtensionRun
from miniature.settings import Settings
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import Provenance, RescaleFactors
from ropewalk.finetune.training_folder import MODEL, RESULT
from ropewalk.recipe.stage_folder import StageFolder

SEARCHES = {
    "searched": "searched",
    "lambda": "lambda",
    "lambda and n-hat": "lambda-and-n-hat",
    "searched straight, untuned": "straight",
}
MEASURED = ("inputs", "result", "seconds", "made")
BASE, STEPS = "base", "-steps-"


def cells_of(document: dict[str, Any]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each measured cell, and the content of its file."""
    for entries in document["tables"].values():
        for entry in entries:
            if "inputs" not in entry:
                continue  # a record of the run, which is read from there
            number = entry["inputs"]["factors"]
            factors = None if number is None else document["factors"][number]
            inputs = {**entry["inputs"], "factors": factors}
            about = {key: value for key, value in entry.items() if key not in MEASURED}
            made = {**document["made"][entry["made"]], "seconds": entry["seconds"]}
            content = {"about": about, "inputs": inputs, "result": entry["result"], "made": made}
            yield Cell(inputs=inputs, about=about, work=0.0), content


def restore(document: dict[str, Any], out: Path) -> None:
    """The folder of `claims.py run`: cells, and of searches and trainings what a report reads."""
    settings = Settings.choose(out, document["settings"])
    settings.save(out)
    bench = Bench(settings, out)
    cells = CellStore(out / "cells")
    for cell, content in cells_of(document):
        cells.measure(cell, dict)  # makes the folder
        (out / "cells" / f"{cell.name}.json").write_text(json.dumps(content))
        label, model, values = content["about"]["factors"], content["about"]["model"], cell.inputs["factors"]
        if values is None:
            continue
        weights = cell.inputs["weights"]
        if model == BASE and label in SEARCHES:
            length = cell.inputs["length"]
            path = out / "searches" / _search_title(settings, label, length)
            path.mkdir(parents=True, exist_ok=True)
            (path / "run.json").write_text("{}")
            _factors(values, bench.geometry, length, weights).save(path / "factors.json")
        elif STEPS in model:
            path = out / "trainings" / model
            (path / MODEL).mkdir(parents=True, exist_ok=True)
            (path / RESULT).write_text("{}")
            length = int(model.partition("-")[0])
            _factors(values, bench.geometry, length, weights).save(path / MODEL / "factors.json")


def _search_title(settings: Settings, label: str, length: int) -> str:
    """As `Bench.search` calls its folder."""
    is_straight = SEARCHES[label] == "straight"
    budget = settings.straight_budget if is_straight else settings.budget
    documents = settings.straight_documents if is_straight else settings.search_documents
    stop = 0 if is_straight else settings.stop_documents
    return f"{length}-{SEARCHES[label]}-cost-{budget}-documents-{documents}-{stop}"


def _factors(values: dict[str, Any], geometry: RopeGeometry, length: int, weights: str) -> RescaleFactors:
    rows = tuple(tuple(row) for row in values["rescale_factors"])
    return RescaleFactors(
        **{**values, "rescale_factors": rows},
        geometry=geometry,
        target_length=length,
        provenance=Provenance(weights_sha256=weights),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("document", type=Path, help="the JSON of `claims.py report`")
    parser.add_argument("--run", type=Path, required=True, help="as for `claims.py`")
    given = parser.parse_args()
    document = json.loads(given.document.read_bytes())
    page = given.document.with_suffix(".md").read_text()
    machine = re.search(r"; ([^;]*), x86_64, ", page)
    assert machine is not None, "the page says where it was measured"
    measured, _, name = given.document.stem.rpartition("-")
    with (
        tempfile.TemporaryDirectory() as out,
        patch.object(StageFolder, "done", StageFolder.made),
        patch.object(claims, "processor", lambda: machine[1]),
    ):
        restore(document, Path(out))
        bench = Bench(Settings.choose(Path(out), {}), Path(out), ExtensionRun(given.run))
        print(claims.report(bench, name, given.document.parent, measured))


if __name__ == "__main__":
    main()
