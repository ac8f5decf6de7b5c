"""The paper's claims in miniature: each of its tables on the bundled model, with intervals, as they come out.

    python benchmarks/claims.py run --out FOLDER [--table untuned,start-tokens] [--run RUN]
    python benchmarks/claims.py report --out FOLDER [--run RUN]
    python benchmarks/claims.py list --out FOLDER [--run RUN]

`run` measures what FOLDER does not hold yet, each cell once; a killed script goes on, and redoes only the
cell it was in; searches and trainings go on from their own journals and checkpoints. RUN is a finished (or
unfinished) run of `ropewalk extend scale-model-512x`, which is only read; without it the tables of the tuned
model are missing. `report` writes what there is, says what is missing, and measures nothing. `list` counts.
Sizes that were said to `run` are noted in FOLDER, and hold until others are said; more documents later
measure only those that are new. A perplexity that RUN measured on the same documents is taken from its
records. `--schemes` and `--on-top` name the closed forms; each of the second interpolation reads every long
document.
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import torch

from evaluator import processor
from miniature import long, tuned, untuned
from miniature.bench import Bench
from miniature.cells import PACKAGES
from miniature.extended import ExtensionRun
from miniature.page import Claim, Page, write_claim
from miniature.settings import Settings
from ropewalk.cli.output import clock, say
from ropewalk.errors import RopewalkError

RESULTS = Path(__file__).parent / "results"
_ALL = {claim.name: claim for claim in (*untuned.CLAIMS, *tuned.CLAIMS, *long.CLAIMS)}
# In the paper's order, what it never showed last.
ORDER = (
    "untuned", "start-tokens", "tuned", "second-interpolation", "readjustment", "passkeys", "by-length",
    "straight-tuning", "attention", "straight-search",
)  # fmt: skip
CLAIMS: dict[str, Claim] = {name: _ALL[name] for name in ORDER}


# ---------------------------------------------------------------- running


def run(bench: Bench, names: Sequence[str]) -> None:
    """Everything that the tables need and that is not there yet."""
    count(bench, names)
    for name in names:
        claim = CLAIMS[name]
        if claim.needs_run and bench.run is None:
            say(f"{name} needs --run, a folder of `ropewalk extend`: passed over")
            continue
        bench.begin("run", name)
        claim.make(bench)
        waits = f", but {bench.num_missing} of what it shows wait for the run" if bench.num_missing else ""
        say(f"{name} is done{waits}")


def count(bench: Bench, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """How many cells of each table are there, and how many are not, as far as can be known."""
    counted = {}
    for name in names:
        if CLAIMS[name].needs_run and bench.run is None:
            counted[name] = (0, 0)
            continue
        bench.begin("count", name)
        CLAIMS[name].make(bench)
        counted[name] = (len(bench.used[name]), bench.num_missing)
    return counted


# ---------------------------------------------------------------- the report


def report(bench: Bench, name: str, results: Path, day: str | None = None) -> str:
    """Write the page, the figures and the raw cells, dated today or `day`; the page comes back."""
    day = day or date.today().isoformat()
    stem = results / f"{day}-{name}"
    parts: list[str] = []
    missing = []
    for number, (title, claim) in enumerate(CLAIMS.items(), start=1):
        bench.begin("show", title)
        page: Page | None = None
        if not claim.needs_run or bench.run is not None:
            page = claim.make(bench)
        written = write_claim(number, claim, page, len(bench.used[title]), bench.num_missing)
        if page is None or not bench.used[title]:
            missing.append(title)
        if written.figure is not None:
            path = Path(f"{stem}-{title}.png")
            results.mkdir(parents=True, exist_ok=True)
            path.write_bytes(written.figure)
            written.lines += [f"![{claim.title}]({path.name})", ""]
        parts += written.lines
    said = f"Missing: {', '.join(missing)}." if missing else "No table is missing."
    head = [f"# The paper's claims in miniature, {day}", "", about(bench), "", said, ""]
    text = "\n".join([*head, *parts])
    results.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    stem.with_suffix(".json").write_text(json.dumps(raw(bench), separators=(",", ":")) + "\n")
    return text


def raw(bench: Bench) -> dict[str, Any]:
    """Every cell that a table shows, with factors and versions told once."""
    factors: list[Any] = []
    made: list[Any] = []
    tables: dict[str, list[dict[str, Any]]] = {}
    for table, cells in bench.used.items():
        tables[table] = [_short(content, factors, made) for content in cells.values()]
    return {"settings": bench.settings.as_dict(), "factors": factors, "made": made, "tables": tables}


def _short(content: dict[str, Any], factors: list[Any], made: list[Any]) -> dict[str, Any]:
    if "inputs" not in content:
        return content  # a record of the run
    inputs = {**content["inputs"], "factors": _number(content["inputs"]["factors"], factors)}
    how = {key: content["made"][key] for key in ("date", "threads", "machine", "python", "versions")}
    return {
        **content["about"],
        "inputs": inputs,
        "result": content["result"],
        "seconds": content["made"]["seconds"],
        "made": _number(how, made),
    }


def _number(value: Any, known: list[Any]) -> int | None:
    if value is None:
        return None
    if value not in known:
        known.append(value)
    return known.index(value)


def about(bench: Bench) -> str:
    made = [
        content["made"] for cells in bench.used.values() for content in cells.values() if "made" in content
    ]
    dates = sorted({one["date"] for one in made})
    versions = sorted({", ".join(f"{key} {one['versions'][key]}" for key in PACKAGES) for one in made})
    threads = sorted({str(one["threads"]) for one in made})
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "never"
    geometry = bench.geometry
    return (
        f"`python benchmarks/claims.py run --out FOLDER{' --run RUN' if bench.run else ''}`, then `report`; "
        f"measured {when} with {'; '.join(versions) or 'nothing'}; {processor()}, {platform.machine()}, "
        f"{' and '.join(threads) or 'no'} thread(s), Python {platform.python_version()}. Model: "
        f"{bench.settings.model}, a window of {geometry.original_length} tokens. Text: the Python library's "
        f"source, searched on `{bench.settings.search_text}`, measured on `{bench.settings.report_text}`. "
        f"Perplexities are of whole documents, each read in one pass. Intervals are 95%: of perplexities and "
        f"paired differences Student's over documents (none below 3), of passkeys Wilson's. A claim "
        f"holds where the whole interval lies on its side, does not where it lies on the other, and is "
        f"undecided else; many intervals stand here, so some miss by chance."
    )


# ---------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    names = list(CLAIMS) if given.table == "all" else given.table.split(",")
    unknown = [name for name in names if name not in CLAIMS]
    if unknown:
        raise SystemExit(f"There is no table {unknown[0]}: give some of {', '.join(CLAIMS)}.")
    changes = {field.name: getattr(given, field.name) for field in fields(Settings)}
    settings = Settings.choose(given.out, changes)
    try:
        bench = Bench(settings, given.out, ExtensionRun(given.run) if given.run else None)
        if given.what == "run":
            settings.save(given.out)
            run(bench, names)
        elif given.what == "list":
            for name, (there, left) in count(bench, names).items():
                print(f"{name}: {there} cells are measured, {left} are not")
            seconds = bench.seconds_left
            print("time left not known yet" if seconds is None else f"about {clock(seconds)} left in all")
        else:
            print(report(bench, given.name, given.results))
    except RopewalkError as error:
        raise SystemExit(f"claims: {error}") from error
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the same command goes on.")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "report", "list"])
    parser.add_argument(
        "--out", type=Path, required=True, help="cells, searches and trainings, not in the repository"
    )
    parser.add_argument("--run", type=Path, help="a run of `ropewalk extend`, only read")
    parser.add_argument("--table", default="all", help=f"of {', '.join(CLAIMS)}; comma-separated")
    parser.add_argument("--threads", type=int, default=0, help="of torch; its own choice otherwise")
    parser.add_argument("--name", default="claims", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where a report goes")
    for entry in fields(Settings):
        kind = _many if isinstance(entry.default, tuple) else type(entry.default)
        option = f"--{entry.name.replace('_', '-')}"
        parser.add_argument(option, dest=entry.name, type=kind, help=f"{entry.default} at first")
    return parser.parse_args(arguments)


def _many(text: str) -> tuple[int | str, ...]:
    """Numbers, or names of schemes."""
    return tuple(int(part) if part.isdecimal() else part for part in text.split(","))


if __name__ == "__main__":
    main()
