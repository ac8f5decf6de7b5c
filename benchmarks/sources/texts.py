"""Two corpora that the bundled model and the second one were not trained on, as folders of text files.

packages    Python files of packages that no training reads. The trainings read the files of
            `scripts/train_scale_model.py`; a file that shares lines with any of these is left out.
pages       English manual pages of Debian's packages `manpages` and `manpages-dev`, rendered by `man`. The
            trainings read no manual page.

Files of both are long enough for 4096 tokens, and none consists mostly of numbers. Texts are not in the
repository; a result has their versions and hashes.
"""

import gzip
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from ropewalk.errors import DataError
from ropewalk.store import atomic_folder, hash_files, hash_json, read_object, write_document
from ropewalk.text.stdlib import is_test, stdlib_folder
from train_scale_model import LARGEST_FILE, share_of_known_lines, telling_lines
from train_scale_model import PACKAGES as TRAINING_PACKAGES

CORPORA = ("packages", "pages")
PACKAGES = {  # the module and its distribution, all in constraints.txt
    "_pytest": "pytest",
    "hypothesis": "hypothesis",
    "matplotlib": "matplotlib",
    "mypy": "mypy",
    "pandas": "pandas",
    "scipy": "scipy",
}
FILES_PER_PACKAGE = 40  # so that the largest packages are not most of the corpus
FEWEST_CHARACTERS = 14_000
MOST_KNOWN_LINES, MOST_DIGITS = 0.1, 0.1  # shares of a file's lines and characters
RENDER = ("man", "--no-hyphenation", "--no-justification", "--encoding=ascii", "--local-file")
MANIFEST = "texts.json"
Texts = dict[str, str]  # by file name


def write_texts(folder: Path, pages: Path) -> None:
    """Writes both corpora and `texts.json`.

    Args:
        folder: is created, or replaced.
        pages: where both Debian packages were extracted.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    corpora = {"packages": package_texts(), "pages": page_texts(pages)}
    about = {"packages": {name: version(name) for name in PACKAGES.values()}, "pages": page_versions(pages)}
    with atomic_folder(folder, replace=True) as partial:
        described: dict[str, Any] = {}
        for name, texts in corpora.items():
            (partial / name).mkdir()
            for file, text in texts.items():
                (partial / name / file).write_text(text, encoding="utf-8")
            sha256 = hash_json(hash_files(partial / name))
            described[name] = {"files": len(texts), "sha256": sha256, "versions": about[name]}
        write_document(partial / MANIFEST, described)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `write_texts` says about its corpora.

    Raises:
        SystemExit: there is none.
    """
    try:
        return read_object(folder / MANIFEST, DataError, remedy="run `many_sources.py texts` first")
    except DataError as error:
        raise SystemExit(str(error)) from None


def package_texts() -> Texts:
    """At most `FILES_PER_PACKAGE` files of each package, drawn with a fixed seed."""
    read = {f"{name}.{place}": text for name in PACKAGES for place, text in _source_files(name)}
    lines = set[str]().union(*map(telling_lines, read.values()))
    known = set[str]().union(*(telling_lines(text) & lines for text in _training_texts()))
    kept = [file for file, text in read.items() if share_of_known_lines(text, known) <= MOST_KNOWN_LINES]
    drawn: list[str] = []
    for name in PACKAGES:
        of_package = [file for file in kept if file.startswith(f"{name}.")]
        drawn += random.Random(0).sample(of_package, min(FILES_PER_PACKAGE, len(of_package)))
    return {file: read[file] for file in sorted(drawn)}


def page_texts(folder: Path) -> Texts:
    """Every long page below `folder`, rendered; not the links by which other names lead to it."""
    files = sorted(file for file in folder.glob("usr/share/man/man?/*.gz") if not file.is_symlink())
    if not files:
        raise SystemExit(f"{folder} has no usr/share/man/man1/*.gz: see `many_sources.py --help`.")
    long = [file for file in files if len(gzip.decompress(file.read_bytes())) >= FEWEST_CHARACTERS]
    texts: Texts = {}
    for number, file in enumerate(long, start=1):
        print(f"page {number} of {len(long)}: {file.stem}", file=sys.stderr)
        text = _rendered(file)
        if is_prose_or_code(text) and text not in texts.values():
            texts[f"{file.stem}.txt"] = text
    return texts


def page_versions(folder: Path) -> dict[str, str]:
    """Of the packages that have the pages, and of the programs that render them."""
    found = {}
    for package in ("manpages", "manpages-dev"):
        changes = gzip.decompress((folder / f"usr/share/doc/{package}/changelog.Debian.gz").read_bytes())
        found[package] = changes.decode().partition("(")[2].partition(")")[0]
    for program in ("man", "groff"):
        command = [program, "--version"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[program] = output.splitlines()[0].split()[-1]
    return found


def is_prose_or_code(text: str) -> bool:
    """Whether a text is long enough and does not consist of tables of numbers."""
    long_enough = FEWEST_CHARACTERS <= len(text) <= LARGEST_FILE
    return long_enough and sum(map(str.isdigit, text)) <= MOST_DIGITS * len(text)


def _source_files(name: str) -> Iterator[tuple[str, str]]:
    """The files of a package without its tests: path with dots, and text."""
    root = _package_folder(name)
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        text = file.read_text(encoding="utf-8")
        if not is_test(place) and is_prose_or_code(text):
            yield ".".join(place.parts), text


def _training_texts() -> Iterable[str]:
    """Every file that a training may have read."""
    for root in (stdlib_folder(), *map(_package_folder, TRAINING_PACKAGES)):
        for file in root.rglob("*.py"):
            if "site-packages" not in file.relative_to(root).parts:
                yield file.read_text(encoding="utf-8", errors="ignore")


def _package_folder(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name} is not installed: install '.[dev]' with constraints.txt.")
    return Path(spec.origin).parent


def _rendered(page: Path) -> str:
    """A page as `man` prints it, 80 columns wide."""
    environment = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C", "MANPAGER": "cat"}
    command = [*RENDER, str(page)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
