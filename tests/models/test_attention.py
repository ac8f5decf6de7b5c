from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import TINY_SHAPE
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ropewalk.evaluate.lm_head import Reader, evaluating
from ropewalk.models import attention
from ropewalk.models.attention import NAME, piecewise_attention

SHAPE = {
    **TINY_SHAPE, "vocab_size": 64, "max_position_embeddings": 128, "pad_token_id": 0,
    "attn_implementation": "sdpa",
}  # fmt: skip
WINDOWS: dict[str, Any] = {"sliding_window": 8}
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("qwen3", {}),
    ("cohere", {}),
    ("phi3", {}),
    ("gpt_neox", {}),
    ("mistral", WINDOWS),
    ("gemma3_text", WINDOWS),
]
LENGTH = 60


def make(family: str, more: dict[str, Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**{**SHAPE, **more})).eval()


@pytest.mark.parametrize(("family", "more"), FAMILIES, ids=[family for family, _ in FAMILIES])
@pytest.mark.parametrize("num_rows", [1, 3])
def test_pieces_read_as_the_whole_does(family: str, more: dict[str, Any], num_rows: int) -> None:
    model = make(family, more)
    ids = torch.randint(1, 64, (num_rows, LENGTH), generator=torch.Generator().manual_seed(1))
    with evaluating(model):
        whole = model(ids, use_cache=False).logits
        reader = Reader(model)
        pieces = [hidden for _, hidden in reader.pieces(ids, 17, keep=True)]
        logits = torch.cat([reader.logits(hidden) for hidden in pieces], dim=1)

    assert torch.allclose(logits, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
    assert model.config._attn_implementation != NAME


def test_no_mask_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("a mask was made")

    model = make("llama", {})
    ids = torch.arange(1, 41).unsqueeze(0)
    monkeypatch.setattr(attention, "sdpa_mask", forbidden)
    monkeypatch.setattr(attention, "sdpa_attention_forward", forbidden)
    with evaluating(model):
        reader = Reader(model)
        reader.read(ids[:, :20], keep=True)
        assert reader.read(ids[:, 20:], keep=True).isfinite().all()


def test_padded_rows_keep_their_mask() -> None:
    model = make("llama", {})
    ids = torch.randint(1, 64, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0

    def last_logits(way: Callable[[], Any]) -> torch.Tensor:
        with torch.no_grad(), way():
            first = model(ids[:, :8], attention_mask=mask[:, :8], use_cache=True)
            later = model(ids[:, 8:], attention_mask=mask, past_key_values=first.past_key_values)
            return later.logits  # type: ignore[no-any-return]

    ours = last_logits(lambda: piecewise_attention(model))
    theirs = last_logits(torch.no_grad)
    assert torch.equal(ours, theirs)


def test_a_reader_goes_back() -> None:
    model = make("llama", {})
    ids = torch.randint(1, 64, (1, 40), generator=torch.Generator().manual_seed(1))
    with evaluating(model):
        reader = Reader(model)
        reader.read(ids[:, :30], keep=True)
        known = reader.go_back_to(12)
        again = reader.read(ids[:, 12:], keep=True)
        whole = Reader(model).read(ids, keep=True)

    assert known == 12
    assert torch.allclose(again, whole[:, 12:], rtol=0, atol=1e-5 * float(whole.abs().max()))


def test_what_can_not_go_back_begins_anew() -> None:
    ids = torch.arange(1, 31).unsqueeze(0)
    for model, wanted in ((make("mistral", WINDOWS), 12), (make("llama", {}), 0), (make("llama", {}), 31)):
        with evaluating(model):
            reader = Reader(model)
            assert reader.go_back_to(5) == 0
            reader.read(ids, keep=True)
            assert reader.go_back_to(wanted) == 0
            again, whole = reader.read(ids, keep=True), Reader(model).read(ids, keep=True)
            assert torch.equal(again, whole)
