"""Fetch vLLM's own source archives from the package index that pip uses, for the tests of Ropewalk's plugin.

    python scripts/fetch_vllm_source.py 0.33.0 --into ../vllm-source

`make vllm` does so, and installs what they import.

pip itself would build the archive's metadata, which takes CUDA's compiler; nothing is built or run here. The
archive is checked against the index's SHA-256, and only Python files and package metadata are unpacked.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from pip._internal.models.index import PyPI

JSON = "application/vnd.pypi.simple.v1+json"
UNPACKED = re.compile(r"[^/]+/(vllm/.*\.(py|json)|PKG-INFO|LICENSE|pyproject\.toml|requirements/.*\.txt)")
SECONDS = 120


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="+")
    parser.add_argument("--into", type=Path, required=True, help="a folder outside this repository")
    arguments = parser.parse_args()
    index = find_index()
    files = list_files(index)
    for version in arguments.versions:
        name = f"vllm-{version}.tar.gz"
        if name not in files:
            print(f"{index} has no {name}: choose a version that has a source archive.", file=sys.stderr)
            return 2
        folder = arguments.into / f"vllm-{version}"
        if not folder.is_dir():
            arguments.into.mkdir(parents=True, exist_ok=True)
            fetch(urljoin(f"{index}/vllm/", files[name]["url"]), files[name]["hashes"]["sha256"], folder)
        print(folder)
    return 0


def find_index() -> str:
    """The package index that pip would ask."""
    return (os.environ.get("PIP_INDEX_URL") or _ask_pip("global.index-url") or PyPI.simple_url).rstrip("/")


def list_files(index: str) -> dict[str, Any]:
    """Name to entry of all files of the project (PEP 691)."""
    request = urllib.request.Request(f"{index}/vllm/", headers={"Accept": JSON})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return {entry["filename"]: entry for entry in json.load(answer)["files"]}


def fetch(url: str, sha256: str, folder: Path) -> None:
    """Download, check and unpack, whole or not at all."""
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise SystemExit(f"{url} is not what the index promised (SHA-256): try again.")
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
        archive = Path(partial) / "archive.tar.gz"
        archive.write_bytes(content)
        with tarfile.open(archive) as tar:
            members = [member for member in tar.getmembers() if UNPACKED.fullmatch(member.name)]
            tar.extractall(partial, members=members, filter="data")
        (Path(partial) / folder.name).rename(folder)


def _ask_pip(key: str) -> str:
    command = [sys.executable, "-m", "pip", "config", "get", key]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())
