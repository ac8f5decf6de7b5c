"""Long English texts that anyone can fetch: manuals from Debian packages, as plain text files.

    python benchmarks/debian_texts.py --out ~/.cache/ropewalk/debian-texts

`apt-get download` fetches 14 packages (20 MB), and `dpkg-deb` reads one file of each; nothing is installed. A
text begins a quarter into its file, after tables of contents and lists of entries. `sources.json` names the
package, version, file and hash of each text. The folder is a source for `--text` of any command.
"""

import argparse
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ropewalk.store import write_atomically

SKIPPED_SHARE = 1 / 4
MOST_CHARACTERS = 200_000  # more than 16384 tokens of any tokenizer
SOURCES = "sources.json"


@dataclass(frozen=True)
class DebianText:
    """A text file of a Debian package; `path` is without the leading slash."""

    package: str
    path: str


@dataclass(frozen=True, kw_only=True)
class FetchedText:
    """A text in a folder.

    Attributes:
        file: its name in the folder.
        sha256: of its content.
    """

    package: str
    version: str
    path: str
    file: str
    sha256: str


# No two are of one package.
TEXTS = (
    DebianText("debian-policy", "usr/share/doc/debian-policy/policy.txt.gz"),
    DebianText("jargon-text", "usr/share/doc/jargon-text/jargon.txt.gz"),
    DebianText("bash-doc", "usr/share/info/bash.info.gz"),
    DebianText("developers-reference", "usr/share/developers-reference/developers-reference.txt.gz"),
    DebianText("git-doc", "usr/share/doc/git-doc/user-manual.txt"),
    DebianText("xterm", "usr/share/doc/xterm/xterm.faq.gz"),
    DebianText("debian-reference-en", "usr/share/debian-reference/debian-reference.en.txt.gz"),
    DebianText("maint-guide", "usr/share/doc/maint-guide/maint-guide.en.txt.gz"),
    DebianText("debmake-doc", "usr/share/doc/debmake-doc/debmake-doc.en.txt.gz"),
    DebianText("nethack-common", "usr/share/doc/nethack-common/Guidebook.txt.gz"),
    DebianText("lsof", "usr/share/doc/lsof/00FAQ.gz"),
    DebianText("crawl-common", "usr/share/crawl/docs/crawl_manual.txt"),
    DebianText("mutt", "usr/share/doc/mutt/manual.txt.gz"),
    DebianText("exim4-base", "usr/share/doc/exim4-base/spec.txt.gz"),
)


def fetch(folder: Path, texts: Sequence[DebianText] = TEXTS) -> list[FetchedText]:
    """Writes each text into the folder, in their order, and returns where they are from.

    Texts that the folder already has are not fetched again.
    """
    if (folder / SOURCES).exists():
        known = [FetchedText(**values) for values in json.loads((folder / SOURCES).read_bytes())]
        if _are_whole(folder, known, texts):
            return known
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, text in enumerate(texts):
        version, content = _download(text)
        file = f"{number:02}-{text.package}.txt"
        write_atomically(folder / file, content)
        sha256 = hashlib.sha256(content).hexdigest()
        found.append(
            FetchedText(package=text.package, version=version, path=text.path, file=file, sha256=sha256)
        )
    values = [asdict(one) for one in found]
    write_atomically(folder / SOURCES, (json.dumps(values, indent=1) + "\n").encode())
    return found


def _are_whole(folder: Path, known: Sequence[FetchedText], texts: Sequence[DebianText]) -> bool:
    """Whether the folder has these texts, unchanged."""
    return [(one.package, one.path) for one in known] == [
        (text.package, text.path) for text in texts
    ] and all(
        (folder / one.file).exists()
        and hashlib.sha256((folder / one.file).read_bytes()).hexdigest() == one.sha256
        for one in known
    )


def _download(text: DebianText) -> tuple[str, bytes]:
    """The version of the package, and the text."""
    with tempfile.TemporaryDirectory() as folder:
        _run(["apt-get", "download", text.package], Path(folder))
        (package,) = Path(folder).glob("*.deb")
        version = _run(["dpkg-deb", "--field", str(package), "Version"], Path(folder)).decode().strip()
        archive = io.BytesIO(_run(["dpkg-deb", "--fsys-tarfile", str(package)], Path(folder)))
    with tarfile.open(fileobj=archive) as files:
        member = files.extractfile(f"./{text.path}")
        assert member is not None, text
        content = member.read()
    return version, _cut(gzip.decompress(content) if text.path.endswith(".gz") else content)


def _cut(content: bytes) -> bytes:
    """From the first whole line after a quarter of the text."""
    text = content.decode("utf-8")
    start = text.index("\n", int(SKIPPED_SHARE * len(text))) + 1
    return text[start : start + MOST_CHARACTERS].encode()


def _run(command: list[str], folder: Path) -> bytes:
    try:
        return subprocess.run(command, check=True, cwd=folder, capture_output=True).stdout
    except FileNotFoundError:
        raise SystemExit(f"There is no {command[0]} here: run this on Debian.") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()
        raise SystemExit(f"{' '.join(command[:3])} failed: {(reason or ['no reason'])[-1]}") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder of the texts")
    for text in fetch(parser.parse_args().out.expanduser()):
        print(f"{text.file}: {text.package} {text.version}, {text.path}, sha256 {text.sha256[:16]}")


if __name__ == "__main__":
    main()
