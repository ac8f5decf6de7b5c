"""What users complain of, happening in plain transformers and not here.

A bundled model with transformers' own longrope: short factors of 1, long factors of YaRN at 8x.
"""

import copy
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM

import ropewalk
from ropewalk.models.longrope_config import longrope_keys
from ropewalk.models.model import load_model
from ropewalk.models.rope_config import describe
from ropewalk.models.scale_model import scale_model_path
from ropewalk.text.tokens import token_documents

WINDOW, TARGET = 256, 2048
NUM_READ, NUM_DECODED = 240, 80


@pytest.fixture(scope="module")
def plain():
    """transformers' own switching model."""
    bundled = load_model("scale-model")
    long = ropewalk.scheme_factors("yarn", bundled.geometry, TARGET)
    keys = longrope_keys(long, long)
    keys["rope_parameters"]["short_factor"] = [1.0] * bundled.geometry.num_pairs
    config = copy.deepcopy(bundled.model.config)
    config.rope_parameters, config.max_position_embeddings = keys["rope_parameters"], TARGET
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(
            scale_model_path(), config=config, dtype=torch.float32
        ).eval()


@pytest.fixture(scope="module")
def followed(plain):
    """The same two sets, here."""
    own = describe(plain.config)
    return ropewalk.apply(copy.deepcopy(plain), ropewalk.FactorSet.of([own.own_short, own.own]))


@pytest.fixture(scope="module")
def text(plain):
    (document,) = token_documents(
        "stdlib:search", load_model("scale-model").tokenizer, length=NUM_READ + NUM_DECODED, num_documents=1
    ).documents
    return document.ids.unsqueeze(0)


@torch.no_grad()
def nats(logits, ids):
    """Mean over the tokens, each from the logits before it."""
    return float(torch.nn.functional.cross_entropy(logits, ids))


@torch.no_grad()
def decode(model, text):
    """Logits after each token from NUM_READ on, the text read with a cache, token by token."""
    output = model(input_ids=text[:, :NUM_READ])
    rows = [output.logits[0, -1]]
    for token in text[:, NUM_READ:-1].split(1, dim=1):
        output = model(input_ids=token, past_key_values=output.past_key_values)
        rows.append(output.logits[0, -1])
    return torch.stack(rows)


class TeacherForced:
    """Makes `generate` write a given text, and keeps the logits that it was written under."""

    def __init__(self, text):
        self.text, self.logits = text, []

    def __call__(self, input_ids, scores):
        self.logits.append(scores[0].clone())
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.text[0, input_ids.shape[1]]] = 0
        return forced


@torch.no_grad()
def test_garbage_when_a_generation_crosses_from_short_to_long_factors(plain, followed, text):
    """Keys of the short factors are read by queries of the long ones."""
    after = slice(WINDOW - NUM_READ + 1, None)
    expected = text[0, NUM_READ:]
    fresh = plain(input_ids=text).logits[0, NUM_READ - 1 : -1]
    right = nats(fresh[after], expected[after])
    mixed = nats(decode(plain, text)[after], expected[after])
    assert mixed > right + 1.0, "transformers does not mix any more: say so in the docs"
    for policy in ("pin", "recompute"):
        forced = TeacherForced(text)
        followed.generate(text[:, :NUM_READ], max_new_tokens=NUM_DECODED, do_sample=False, rope_policy=policy,
                          logits_processor=[forced])  # fmt: skip
        ours = torch.stack(forced.logits)
        assert nats(ours[after], expected[after]) == pytest.approx(right, abs=1e-4)


@torch.no_grad()
def test_output_that_depends_on_batch_mates(plain, followed, text):
    short = text[:, :100]
    together = {
        "input_ids": torch.cat((torch.nn.functional.pad(short, (text.shape[1] - 100, 0)), text)),
        "attention_mask": torch.ones(2, text.shape[1], dtype=torch.long),
    }
    together["attention_mask"][0, :-100] = 0

    def change(model):
        alone = model(input_ids=short).logits[0]
        beside = model(**together).logits[0, -100:]
        return float((alone - beside).abs().max() / alone.abs().max())

    assert change(plain) > 0.05, "transformers chooses by row now: say so in the docs"
    assert change(followed) < 1e-5
