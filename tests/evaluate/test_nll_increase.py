import json
import time

import pytest
import torch

from ropewalk.errors import EvaluationError
from ropewalk.evaluate.nll import NllSum
from ropewalk.evaluate.nll_increase import document_sums, increase_record
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.tokens import token_documents


def sums(*nats, num_tokens=100):
    return [NllSum(nll_sum_nats=value, num_tokens=num_tokens) for value in nats]


def test_the_same_model_loses_nothing_and_interpolation_loses(tiny_model_folder, tmp_path):
    loaded = load_model(tiny_model_folder)
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text(f"{name}: some line of text, and more of it. " * 10)
    documents = token_documents(str(tmp_path / "*.txt"), loaded.tokenizer, length=128)
    ids = documents.documents[0].ids[None]
    with torch.no_grad():
        logits = loaded.model(input_ids=ids).logits
    before = document_sums(loaded, documents, 64, None)
    same = document_sums(loaded, documents, 64, scheme_factors("none", loaded.geometry, 64))
    other = document_sums(loaded, documents, 64, scheme_factors("pi", loaded.geometry, 512))
    given = {"loaded": loaded, "documents": documents, "length": 64, "label": "extended"}
    record = increase_record(before, same, started=time.perf_counter(), **given)
    assert record.value == pytest.approx(0, abs=1e-6)
    assert record.num_tokens == 4 * 63
    changed = increase_record(before, other, started=time.perf_counter(), **given)
    mean = sum(s.nll_sum_nats for s in other) / (4 * 63) - sum(s.nll_sum_nats for s in before) / (4 * 63)
    assert changed.value == pytest.approx(mean)
    assert changed.low <= changed.value <= changed.high
    assert (changed.by_document, changed.base_by_document) == (tuple(other), tuple(before))
    assert type(changed).from_json(json.loads(json.dumps(changed.as_json()))) == changed
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, logits)
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        increase_record(before, sums(*[float("nan")] * 4, num_tokens=63), started=0.0, **given)
