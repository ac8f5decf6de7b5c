"""Do the tests notice 30 small changes of behaviour, five each in six parts of the source?

    python benchmarks/mutations.py --out FOLDER [--only NAME ...]

`mutation_table.py` lists the mutations, chosen by hand. Each replaces one piece of text that occurs exactly
once in `src/ropewalk`, in whichever file; a text that is missing or occurs twice is reported as an error.
Source and tests are copied to a temporary folder, so the repository stays as it is. First the tests of each
mutation run on the unchanged copy, where they must pass. Then one mutation at a time is applied, and they run
again: the mutation is killed if a test fails, and survives if all pass.

Prints a markdown table and writes `mutations.md` and `mutations.json` to FOLDER. Exit code 1 if a mutation
could not be tried.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mutation_table import MUTATIONS, PACKAGES, Mutation

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tests")
LONGEST_SECONDS = 300  # of one run of tests; a mutation that takes longer counts as killed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a mutation.

    Attributes:
        outcome: `killed`, `survived`, or `error` where it could not be tried.
        by: the first test that failed, or the error.
        file: where the text was found.
        seconds: of the tests.
    """

    mutation: Mutation
    outcome: str
    by: str = ""
    file: str = ""
    seconds: float = 0.0

    def as_json(self) -> dict[str, object]:
        """JSON values."""
        return {
            **vars(self.mutation),
            **{key: value for key, value in vars(self).items() if key != "mutation"},
        }


class MutationError(Exception):
    """A mutation that can't be tried."""


def find(mutation: Mutation, package: Path) -> Path:
    """The file that has the text of a mutation.

    Raises:
        MutationError: the text does not occur exactly once.
    """
    counts = {path: path.read_text(encoding="utf-8").count(mutation.text) for path in package.rglob("*.py")}
    places = [path for path, count in counts.items() for _ in range(count)]
    if len(places) != 1:
        names = ", ".join(sorted(str(path.relative_to(package)) for path in places))
        raise MutationError(f"the text of {mutation.name} occurs {len(places)} times ({names or 'nowhere'})")
    return places[0]


def find_tests(mutation: Mutation, root: Path) -> list[str]:
    """The paths below `root` that a mutation's patterns of tests match.

    Raises:
        MutationError: none.
    """
    found = sorted({str(path.relative_to(root)) for one in mutation.tests for path in root.glob(one)})
    if not found:
        raise MutationError(f"no test matches {' or '.join(mutation.tests)}")
    return found


@contextmanager
def mutated(mutation: Mutation, root: Path) -> Iterator[Path]:
    """The file of a copy with the mutation in it, as long as the `with` lasts."""
    path = find(mutation, root / "src" / "ropewalk")
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace(mutation.text, mutation.replacement), encoding="utf-8")
    try:
        yield path
    finally:
        path.write_text(before, encoding="utf-8")


def copy_project(root: Path) -> None:
    """Copy source and tests to `root`, and link everything else."""
    for entry in ROOT.iterdir():
        if entry.name in COPIED:
            shutil.copytree(entry, root / entry.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif not entry.name.startswith("."):
            (root / entry.name).symlink_to(entry)


def run_tests(paths: Sequence[str], root: Path) -> str | None:
    """Run tests in a copy up to the first failure; its name, or None if all pass."""
    # Bytecode would be kept from one mutation to the next where size and second of a file are the same.
    variables = {"PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *paths]
    try:
        done = subprocess.run(
            command, cwd=root, env=os.environ | variables, capture_output=True, text=True,
            timeout=LONGEST_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no end within {LONGEST_SECONDS} s"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return lines[0].split(" - ")[0].partition(" ")[2] if lines else done.stdout[-300:] + done.stderr[-300:]


def try_mutations(mutations: Iterable[Mutation], root: Path) -> Iterator[Outcome]:
    """The outcome of each mutation, in turn."""
    unchanged: dict[tuple[str, ...], str | None] = {}
    for mutation in mutations:
        try:
            tests = find_tests(mutation, root)
            if tuple(tests) not in unchanged:
                unchanged[tuple(tests)] = run_tests(tests, root)
            failed = unchanged[tuple(tests)]
            if failed is not None:
                raise MutationError(f"its tests fail on the unchanged source: {failed}")
            started = time.perf_counter()
            with mutated(mutation, root) as path:
                by = run_tests(tests, root)
            yield Outcome(
                mutation=mutation,
                outcome="survived" if by is None else "killed",
                by=by or "",
                file=str(path.relative_to(root)),
                seconds=round(time.perf_counter() - started, 1),
            )
        except MutationError as error:
            yield Outcome(mutation=mutation, outcome="error", by=str(error))


def table(outcomes: Sequence[Outcome]) -> str:
    """All outcomes in markdown, with the kill rate of each package."""
    lines = [
        "| mutation | what it breaks | file | outcome | first failing test |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in outcomes:
        place = one.file.removeprefix("src/ropewalk/")
        lines.append(f"| {one.mutation.name} | {one.mutation.breaks} | {place} | {one.outcome} | {one.by} |")
    lines += ["", "| package | killed | tried |", "| --- | --- | --- |"]
    tried = [one for one in outcomes if one.outcome != "error"]
    for package in (*PACKAGES, "all"):
        of_package = [one for one in tried if package in ("all", one.mutation.package)]
        if of_package:
            num_killed = sum(one.outcome == "killed" for one in of_package)
            lines.append(f"| {package} | {num_killed} | {len(of_package)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Try all mutations, or the named ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for mutations.md and mutations.json")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of mutations, or of packages")
    arguments = parser.parse_args()
    chosen = [one for one in MUTATIONS if not arguments.only or {one.name, one.package} & set(arguments.only)]
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        copy_project(Path(folder))
        for one in try_mutations(chosen, Path(folder)):
            outcomes.append(one)
            print(
                f"{one.outcome}: {one.mutation.name} ({one.seconds:.0f} s) {one.by}",
                file=sys.stderr,
                flush=True,
            )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "mutations.md").write_text(table(outcomes), encoding="utf-8")
    document = [one.as_json() for one in outcomes]
    (arguments.out / "mutations.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(outcomes), end="")
    return 1 if any(one.outcome == "error" for one in outcomes) or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
