"""Tokens that a server names by their texts."""

import pytest
from tiny import make_tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast
from verified_servers import LENGTHS, failed, verified_server

from ropewalk.export import Served
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.verify.completions import make_prompt
from ropewalk.verify.endpoint import LIMIT


@pytest.fixture
def spaced(tmp_path):
    """A model whose tokenizer drops the space of a word that opens a text, as SentencePiece does."""
    letters = "abcdefghij"
    pieces = ["<s>", "</s>", *letters, "▁", *(f"▁{letter}" for letter in letters)]
    tokenizer = Tokenizer(
        tokenizer_models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=[("▁", letter) for letter in letters],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    make_tiny_model(fast).save_pretrained(tmp_path / "spaced")
    fast.save_pretrained(tmp_path / "spaced")
    return load_model(tmp_path / "spaced")


@pytest.mark.parametrize("form", ["texts", "pieces"])
def test_texts_that_stand_for_two_tokens(spaced, form):
    """`a` is the token of ` a`, shown alone, and that of `a` within a word."""
    assert spaced.tokenizer.decode([13]) == spaced.tokenizer.decode([2]) == "a"
    long = scheme_factors("yarn", spaced.geometry, 256).replace(attention_factor=1.1)
    served = Served.of(FactorSet.of([long]), "pinned")
    ids = spaced.tokenizer("a bc def ghij abcdefghij ab cd " * 20).input_ids
    prompts = [make_prompt(spaced.tokenizer, ids, length) for length in LENGTHS]
    right = verified_server(spaced, served, prompts, long, form=form)
    assert failed(right) == []
    assert max(check.found for check in right.checks if check.length) < 1e-4
    # By name nearly the same as by id: a letter within a word may also be taken for one that opens a word.
    wrong = [
        [check.found for check in found.checks if check.what == "log-probabilities"]
        for found in (
            verified_server(spaced, served, prompts, long, "goes wrong after its first token", form=how)
            for how in (form, "ids")
        )
    ]
    assert wrong[0] == pytest.approx(wrong[1], rel=0.1 if form == "pieces" else 0.5)
    assert min(wrong[0]) > LIMIT
