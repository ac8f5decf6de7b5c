import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY_SHAPE
from token_nll import token_nll
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaForCausalLM

from ropewalk.errors import EvaluationError
from ropewalk.evaluate.nll import NllSum, score_windows, window_nlls
from ropewalk.models.model import Model
from ropewalk.models.rope_config import describe
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.tokens import TokenDocument
from ropewalk.text.windows import TokenWindow, sliding, truncate


def tokens(length: int, seed: int = 0, vocabulary: int = 258) -> torch.Tensor:
    return torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(seed))


def window(length: int, num_scored: int | None = None, seed: int = 0, vocabulary: int = 258) -> TokenWindow:
    return TokenWindow(ids=tokens(length, seed, vocabulary), num_scored=num_scored or length - 1)


@torch.no_grad()
def from_logits(model: Any, read: TokenWindow) -> torch.Tensor:
    """What the model's own logits say, all made at once."""
    logits = model(read.ids.unsqueeze(0)).logits[0].float()
    return cross_entropy(logits[:-1], read.ids[1:], reduction="none")[-read.num_scored :]


def test_it_is_the_loss_of_transformers(tiny_model: LlamaForCausalLM) -> None:
    read = window(200)
    total = score_windows(tiny_model, [read])
    with torch.no_grad():
        loss = float(tiny_model(read.ids.unsqueeze(0), labels=read.ids.unsqueeze(0)).loss)

    assert total.num_tokens == 199
    assert total.mean_nats == pytest.approx(loss, rel=1e-5)
    assert total.perplexity == pytest.approx(math.exp(loss), rel=1e-5)


@pytest.mark.parametrize("num_scored", [1, 7, 63, 99])
def test_only_the_last_tokens_are_scored(tiny_model: LlamaForCausalLM, num_scored: int) -> None:
    read = window(100, num_scored)

    torch.testing.assert_close(token_nll(tiny_model, read), from_logits(tiny_model, read), rtol=0, atol=1e-5)


@pytest.mark.parametrize("read_chunk", [1, 7, 64, 99, 100, 1000])
@pytest.mark.parametrize("score_chunk", [1, 13, 64, 1000])
def test_chunks_change_nothing(tiny_model: LlamaForCausalLM, read_chunk: int, score_chunk: int) -> None:
    for num_scored in (99, 40):
        read = window(100, num_scored)
        nll = token_nll(tiny_model, read, read_chunk=read_chunk, score_chunk=score_chunk)

        torch.testing.assert_close(nll, from_logits(tiny_model, read), rtol=0, atol=1e-5)


def test_chunks_change_nothing_while_factors_are_installed(tiny_model: LlamaForCausalLM) -> None:
    geometry = describe(tiny_model.config).geometry
    factors = scheme_factors("yarn", geometry, 256).replace(num_start_tokens=16)
    read = window(200)
    untouched = token_nll(tiny_model, read)
    with Model.wrap(tiny_model).using(factors):
        whole = token_nll(tiny_model, read)
        chunked = token_nll(tiny_model, read, read_chunk=30)

    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-5)
    assert (whole - untouched).abs().max() > 0.01
    assert torch.equal(token_nll(tiny_model, read), untouched)


@pytest.mark.parametrize("scaling", ["dynamic", "longrope"])
def test_a_model_that_turns_by_length_is_read_whole(tiny_model: LlamaForCausalLM, scaling: str) -> None:
    config = tiny_model.config.to_dict()
    config["rope_parameters"] = {"rope_type": scaling, "rope_theta": 100.0, "factor": 4.0}
    if scaling == "longrope":
        config["rope_parameters"] |= {
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 64,
        }
    model = LlamaForCausalLM(type(tiny_model.config)(**config)).eval()
    model.load_state_dict(tiny_model.state_dict())
    read = window(200)

    expected = from_logits(model, read)
    torch.testing.assert_close(token_nll(model, read, read_chunk=30), expected, rtol=0, atol=1e-5)
    assert (expected - from_logits(tiny_model, read)).abs().max() > 0.01


FAMILIES: dict[str, dict[str, Any]] = {
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.25},
    "gemma2": {"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "llama4_text": {"num_local_experts": 2, "intermediate_size_mlp": 48},
    "gpt_neox": {},
    "qwen2": {},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_logits_are_its_own(family: str) -> None:
    own = {"vocab_size": 97, "max_position_embeddings": 256, "initializer_range": 0.5, "pad_token_id": 0}
    shape = TINY_SHAPE | own
    config = CONFIG_MAPPING[family](**shape | FAMILIES[family])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config).eval()
    read = window(60, vocabulary=97)
    nll = token_nll(model, read, score_chunk=9)

    torch.testing.assert_close(nll, from_logits(model, read), rtol=1e-5, atol=1e-5)


def test_a_model_that_makes_logits_otherwise_is_refused(tiny_model: LlamaForCausalLM) -> None:
    original = tiny_model.forward

    def shifted(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        output = original(input_ids=input_ids, **kwargs)
        output.logits = output.logits + input_ids.unsqueeze(-1)
        return output

    tiny_model.forward = shifted  # type: ignore[method-assign]
    with pytest.raises(EvaluationError, match="LlamaForCausalLM"):
        token_nll(tiny_model, window(10))


def test_short_windows_are_read_together(
    tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ropewalk.evaluate.nll.TOKENS_PER_BATCH", 300)
    windows = sliding(TokenDocument(name="", ids=tokens(500)), 500, 64, 24)
    shapes = []
    tiny_model.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    together = list(window_nlls(tiny_model, windows))

    assert (4, 64) in shapes
    assert len(together) == len(windows)
    for read, nll in zip(windows, together, strict=True):
        torch.testing.assert_close(nll, from_logits(tiny_model, read), rtol=0, atol=1e-5)


def test_logits_exist_for_a_chunk_of_scored_tokens_only(tiny_model: LlamaForCausalLM) -> None:
    model = tiny_model.to(torch.bfloat16)
    score_windows(model, [window(10)])
    rows = []
    model.lm_head.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    score_windows(model, [window(200, 50)], score_chunk=20)

    assert rows == [20, 20, 10]


@pytest.fixture(params=[1, 7, 64, 129, 257])
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Fewer columns than the vocabulary's 258."""
    columns: int = request.param
    monkeypatch.setattr("ropewalk.evaluate.nll.TILE_COLUMNS", columns)
    monkeypatch.setattr("ropewalk.evaluate.nll.TILE_ROWS", 16)
    return columns


def test_tiles_of_the_vocabulary_change_nothing(
    tiny_model: LlamaForCausalLM, small_tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    original = torch.mm

    def watched(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        sizes.append(out.numel())
        return original(a, b, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    read = window(100)

    torch.testing.assert_close(token_nll(tiny_model, read), from_logits(tiny_model, read), rtol=0, atol=1e-5)
    assert max(sizes) == 16 * small_tiles


@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e6])
def test_logits_of_any_size_are_summed(tiny_model: LlamaForCausalLM, small_tiles: int, scale: float) -> None:
    with torch.no_grad():
        tiny_model.lm_head.weight.mul_(scale)
    read = window(100)

    torch.testing.assert_close(
        token_nll(tiny_model, read), from_logits(tiny_model, read), rtol=1e-5, atol=1e-5 * max(1, scale)
    )


def test_a_head_with_a_bias_or_a_forward_of_its_own_is_asked(
    tiny_model: LlamaForCausalLM, small_tiles: int
) -> None:
    read = window(100)
    tiny_model.lm_head.bias = torch.nn.Parameter(torch.linspace(-1, 1, 258))
    torch.testing.assert_close(token_nll(tiny_model, read), from_logits(tiny_model, read), rtol=0, atol=1e-5)

    tiny_model.lm_head.bias = None
    original = tiny_model.lm_head.forward
    tiny_model.lm_head.forward = lambda x: original(x) * 0.5  # type: ignore[method-assign]
    torch.testing.assert_close(token_nll(tiny_model, read), from_logits(tiny_model, read), rtol=0, atol=1e-5)


def test_windows_of_any_size_add_up(tiny_model: LlamaForCausalLM) -> None:
    windows = [window(20, 5, seed=1), window(30, 29, seed=2), window(20, 5, seed=3), window(20, 19, seed=4)]
    total = score_windows(tiny_model, iter(windows))

    expected = sum(float(from_logits(tiny_model, read).double().sum()) for read in windows)
    assert total.num_tokens == 5 + 29 + 5 + 19
    assert total.nll_sum_nats == pytest.approx(expected, rel=1e-6)


def test_the_model_is_left_as_it_was(tiny_model: LlamaForCausalLM) -> None:
    for training in (True, False):
        tiny_model.train(training)
        nll = token_nll(tiny_model, window(20))
        assert tiny_model.training is training
        assert not nll.requires_grad
    assert torch.is_grad_enabled()


def test_no_window_is_an_error(tiny_model: LlamaForCausalLM) -> None:
    with pytest.raises(EvaluationError, match="token"):
        score_windows(tiny_model, [])


def test_nan_is_reported_not_hidden(tiny_model: LlamaForCausalLM) -> None:
    torch.nn.init.constant_(tiny_model.model.norm.weight, math.nan)

    assert math.isnan(
        score_windows(tiny_model, truncate(TokenDocument(name="", ids=tokens(9)), 9)).nll_sum_nats
    )


def test_half_precision_is_scored_in_single(tiny_model: LlamaForCausalLM) -> None:
    model = tiny_model.to(torch.bfloat16)
    read = window(50)
    nll = token_nll(model, read)

    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll, from_logits(model, read), rtol=0, atol=1e-5)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 10**9)), min_size=1, max_size=5))
def test_sums_weigh_tokens_alike(parts: list[tuple[float, int]]) -> None:
    total = sum(
        (NllSum(nll_sum_nats=n, num_tokens=t) for n, t in parts), NllSum(nll_sum_nats=0, num_tokens=0)
    )

    assert total.num_tokens == sum(t for _, t in parts)
    assert total.mean_nats == pytest.approx(sum(n for n, _ in parts) / total.num_tokens)


def test_sums_are_added_in_float64() -> None:
    nll = torch.cat([torch.tensor([1e8]), torch.ones(1000)])

    assert NllSum.of(nll) == NllSum(nll_sum_nats=1e8 + 1000, num_tokens=1001)


def test_a_perplexity_beyond_floats_is_infinite() -> None:
    assert NllSum(nll_sum_nats=1e6, num_tokens=1).perplexity == math.inf
