"""The bundled model on real text: exact, and the same tokens for a row in any batch."""

import pytest
import torch
from small_models import Fresh, difference, padded

import ropewalk
from ropewalk.models.model import load_model
from ropewalk.text.tokens import token_documents

# 4k and 8k of the paper, at 1:16 and shorter; rows stay, cross one boundary or both, or begin on one.
ENDS = (48, 96, 2048)
LENGTHS = (12, 40, 48, 95, 130)
NUM_NEW = 50
NEAR = 1e-5  # two best logits nearer than that, of the largest, may change places


@pytest.fixture(scope="module")
def bundled():
    return load_model("scale-model")


@pytest.fixture(scope="module")
def entries(bundled):
    schemes = [ropewalk.scheme_factors(name, bundled.geometry, end) for name, end in zip(
        ("none", "ntk", "yarn"), ENDS, strict=True)]  # fmt: skip
    return ropewalk.FactorSet.of([*schemes[:2], schemes[2].replace(num_start_tokens=4)])


@pytest.mark.parametrize("policy", ["pin", "recompute"])
def test_a_row_gets_the_same_tokens_alone_and_in_any_batch(bundled, entries, policy):
    fresh = Fresh(bundled.model, entries)
    documents = token_documents("stdlib:search", bundled.tokenizer, length=200, num_documents=len(LENGTHS))
    prompts = [
        document.ids[None, :length] for document, length in zip(documents.documents, LENGTHS, strict=True)
    ]
    model = ropewalk.apply(bundled.model, entries)
    how = {"max_new_tokens": NUM_NEW, "min_new_tokens": NUM_NEW, "do_sample": False, "rope_policy": policy}
    try:
        alone = [
            model.generate(prompt, **how, return_dict_in_generate=True, output_logits=True)
            for prompt in prompts
        ]
        batches = [(4, 0), range(len(LENGTHS))]
        beside = [
            model.generate(**padded([prompts[row] for row in batch]), **how, pad_token_id=0)
            for batch in batches
        ]
    finally:
        ropewalk.Model.wrap(model).uninstall()
    for output, length in zip(alone, LENGTHS, strict=True):
        logits = torch.stack(output.logits, 1)[0]
        assert difference(fresh.steps(output.sequences, length, policy), logits) < 1e-5
    num_excepted = 0
    for batch, sequences in zip(batches, beside, strict=True):
        for row, sequence in zip(batch, sequences, strict=True):
            ours, theirs = alone[row].sequences[0, -NUM_NEW:], sequence[-NUM_NEW:]
            if torch.equal(ours, theirs):
                continue
            first = int((ours != theirs).nonzero()[0])
            best, second = alone[row].logits[first][0].topk(2).values
            assert float(best - second) < NEAR * float(alone[row].logits[first].abs().max())
            num_excepted += 1
    assert num_excepted <= 1
