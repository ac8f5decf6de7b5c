"""The bundled model is good enough to show the effects, and has not read what it is judged on."""

import hashlib
import sys
from pathlib import Path

import pytest

from ropewalk.evaluate.nll import score_windows
from ropewalk.evaluate.passkey import measure_passkey
from ropewalk.models.model import load_model
from ropewalk.models.scale_model import scale_model_path
from ropewalk.text.stdlib import stdlib_files
from ropewalk.text.tokens import token_documents
from ropewalk.text.windows import TokenWindow

ROOT = Path(__file__).parents[2]
UNTOUCHED = {"untouched": lambda length: None}


@pytest.fixture(scope="module")
def scale_model():
    return load_model("scale-model")


def test_it_is_the_paper_at_one_to_sixteen(scale_model):
    geometry = scale_model.geometry
    assert geometry.original_length == 4096 / 16
    assert geometry.rope_theta == 10000 / 16
    assert geometry.num_pairs == 32


def test_it_is_one_plain_folder_of_at_most_12_megabytes():
    files = list(scale_model_path().iterdir())
    assert all(file.is_file() for file in files)
    assert sum(file.stat().st_size for file in files) <= 12_000_000
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md"}


def test_every_digit_is_a_token(scale_model):
    ids = scale_model.tokenizer("7302918465", add_special_tokens=False)["input_ids"]
    assert len(set(ids)) == 10


def test_it_finds_the_passkey_inside_its_window(scale_model):
    (record,) = measure_passkey(scale_model, [256], factors=UNTOUCHED, num_trials=100, seed=1)
    assert record.found >= 95


def test_held_out_perplexity_falls_as_context_grows(scale_model):
    """The same last 32 tokens of each document, read with more and more of what is before them."""
    documents = token_documents("stdlib:held-out", scale_model.tokenizer, length=256, num_documents=40)
    perplexities = [
        score_windows(
            scale_model.model,
            [TokenWindow(ids=document.ids[-length:], num_scored=32) for document in documents.documents],
        ).perplexity
        for length in (40, 64, 128, 256)
    ]
    assert perplexities == sorted(perplexities, reverse=True)
    assert perplexities[-1] < 0.8 * perplexities[0]


def test_nothing_it_is_judged_on_was_in_its_training_text():
    read = set((ROOT / "scripts" / "scale_model_texts.sha256").read_text().split())
    assert len(read) > 1000
    judged = [file for split in ("search", "held_out") for file in stdlib_files(split)]
    assert len(judged) > 100
    for file in judged:
        text = file.read_text(encoding="utf-8", errors="ignore")
        # Files of a line or two are alike everywhere, and the recipe leaves them out.
        if len(text) >= 200:
            assert hashlib.sha256(text.encode()).hexdigest()[:16] not in read, file


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the recipe read the library of Python 3.11")
def test_the_hashes_are_those_of_what_was_read():
    read = set((ROOT / "scripts" / "scale_model_texts.sha256").read_text().split())
    texts = [file.read_text(encoding="utf-8", errors="ignore") for file in stdlib_files("train")]
    known = [hashlib.sha256(text.encode()).hexdigest()[:16] in read for text in texts]
    assert sum(known) > len(known) / 2
