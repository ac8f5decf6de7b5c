"""Try every causal family of the installed transformers, and write docs/families.md.

    python scripts/list_families.py            # tries all (about a minute), writes docs/families.md
    python scripts/list_families.py llama phi  # tries these, prints their rows

A family is built from its own configuration class, small and with random weights, in float64. It works if
factors put into it do what they should and leave no trace: `try_family` says what is asked of it.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ropewalk.errors import ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.models.rope_config import describe
from ropewalk.models.rotary_calls import find_rotary
from ropewalk.models.rotary_layout import learn_layout
from ropewalk.rope.schemes import scheme_factors
from ropewalk.store import write_atomically

DOCUMENT = Path(__file__).parent.parent / "docs" / "families.md"
NUM_TOKENS = 40
ORIGINAL_LENGTH = 64
TARGET_LENGTH = 256
WIDE_WINDOW, NARROW_WINDOW = 512, 8
# Largest difference over largest logit. The untouched model turns by float32 angles, right to 1e-5 here.
SAME, CHANGED = 1e-4, 1e-3
ROUNDING = 1e-9  # of float64, through a small model

# Sizes by the name of the field, wherever a configuration, or one nested in it, has that field.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 96),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "embedding_size"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size", "intermediate_size_mlp"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), ORIGINAL_LENGTH),
    **dict.fromkeys(("sliding_window", "attention_chunk_size"), WIDE_WINDOW),
    **dict.fromkeys(("head_dim", "kv_channels", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "moe_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_state", "mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
}

# What some families need besides.
INDEXER = {
    **{"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16},
    **{"indexer_budget": 8, "indexer_compress_ratio": 4},
}
HINTS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "dots1": {"n_shared_experts": 1},
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention"],
        "position_embedding_type": "rope",
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "qwen4_exp": INDEXER,
    "qwen4_exp_text": INDEXER,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"], "use_mem_rope": True},
}

Status = Literal["works", "refused", "not buildable", "fails"]


@dataclasses.dataclass(frozen=True)
class FamilyResult:
    """One row of the table: the layout of a family that works, the reason of one that does not."""

    family: str
    status: Status
    detail: str


def families() -> list[str]:
    """Every model type that transformers loads as a causal language model."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(family: str, **changes: Any) -> Any:
    """The family's configuration with small sizes and no scaling, then `changes` in its text part."""
    default = CONFIG_MAPPING[family]()
    return type(default)(**_small(default, {**HINTS.get(family, {}), **changes}))


def build(config: Any) -> nn.Module:
    """A model with random weights large enough for positions to matter, the same for the same shapes."""
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
    return model.to(torch.float64)


def try_family(family: str) -> FamilyResult:
    """What becomes of one family.

    It works if, with factors installed: factors of 1 give the logits of the untouched model; PI by 4 gives
    those of the same weights under transformers' own linear scaling by 4; other factors, start tokens and a
    vector for each layer change them as they should; lifted windows see everything; and if the untouched
    logits are the same bits afterwards.
    """
    try:
        model = _buildable(family)
        if isinstance(model, FamilyResult):
            return model
        with torch.no_grad():
            return FamilyResult(family, "works", _check(family, model))
    except ModelError as refusal:
        return FamilyResult(family, "refused", _reason(refusal))
    except AssertionError as failure:
        return FamilyResult(family, "fails", str(failure))


def _buildable(family: str) -> nn.Module | FamilyResult:
    """A model that runs, or the row that says why there is none."""
    try:
        config = tiny_config(family)
        describe(config, original_length=ORIGINAL_LENGTH, name=family)
        model = build(config)
        with torch.no_grad():
            _logits(model)
        return model
    except ModelError:
        raise
    except Exception as error:  # whatever a family's own code raises is the row's text
        failure = FamilyResult(family, "not buildable", f"{type(error).__name__}: {_last_line(error)}")
    try:
        describe(CONFIG_MAPPING[family](), original_length=ORIGINAL_LENGTH, name=family)
    except ModelError:
        raise  # what its own configuration says is the better reason
    except Exception:
        return failure
    return failure


def table(results: list[FamilyResult]) -> str:
    """docs/families.md."""
    num = {status: sum(result.status == status for result in results) for status in ("works", "refused")}
    rows = "\n".join(row(result) for result in results)
    return f"""# Model families

Every causal family of transformers {transformers.__version__}, tried by `python scripts/list_families.py`,
which writes this page: {num["works"]} of {len(results)} work, {num["refused"]} are refused with their reason.

*Works* means, on a small random model of that family in float64: factors of 1 give the logits of the
untouched model, PI gives those of transformers' own linear scaling (where the family reads it), start tokens
and a vector for each layer take effect, sliding windows are lifted on request, and taking the factors out
leaves the same bits. Its detail is the layout in which its layers get cos and sin, and how many of the small
model's layers rotate, where others have no positions (NoPE) or no attention.

| family | result | detail |
| --- | --- | --- |
{rows}
"""


def row(result: FamilyResult) -> str:
    """One line of the table."""
    return f"| {result.family} | {result.status} | {result.detail} |"


def _small(config: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Arguments that build `config` again, small; configurations nested in it become dictionaries."""
    names = {field.name for field in dataclasses.fields(config)}
    arguments = {name: size for name, size in SIZES.items() if name in names}
    text = config.get_text_config(decoder=True)
    for name in names:
        part = getattr(config, name, None)
        if isinstance(part, PreTrainedConfig):
            small = _small(part, changes if part is text else {})
            arguments[name] = {"model_type": part.model_type, **small}
    return {
        **arguments,
        **_layers(config, names),
        **_plain_rope(config, names),
        **(changes if config is text else {}),
    }


def _layers(config: Any, names: set[str]) -> dict[str, Any]:
    """One layer of each kind that the family mixes."""
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or ()))
    if "layer_types" not in names or not kinds:
        return {}
    kinds = kinds if len(kinds) > 1 else 2 * kinds
    return {"layer_types": kinds, "num_hidden_layers": len(kinds)}


def _plain_rope(config: Any, names: set[str]) -> dict[str, Any]:
    """The family's rotary without the scaling that its default configuration may carry."""
    given = getattr(config, "rope_parameters", None) or {}
    if "rope_parameters" not in names or "rope_theta" not in given:
        return {}
    return {"rope_parameters": {**given, "rope_type": "default"}}


def _check(family: str, model: Any) -> str:
    """Raise AssertionError at the first thing that is wrong; the family's layout, in words, otherwise."""
    description = describe(model.config, original_length=ORIGINAL_LENGTH)
    geometry = description.geometry

    def factors(scheme: str, **changes: Any) -> RescaleFactors:
        return scheme_factors(scheme, geometry, TARGET_LENGTH).replace(**changes)

    def under(these: RescaleFactors) -> Tensor:
        with Model.wrap(model, original_length=ORIGINAL_LENGTH).using(these):
            return _logits(model)

    untouched, ones, pi = _logits(model), under(factors("none")), under(factors("pi"))
    _require(_difference(untouched, ones) < SAME, "factors of 1 change the logits")
    _require(_difference(untouched, pi) > CHANGED, "factors do not change the logits")
    linear = _linear(family, model)
    _require(linear is None or _difference(linear, pi) < SAME, "PI differs from its own linear scaling")
    late = under(factors("pi", num_start_tokens=NUM_TOKENS))
    _require(_difference(ones, late) < SAME, "start tokens do not keep their rotation")
    _require(_difference(pi, under(factors("pi", num_start_tokens=5))) > CHANGED, "start tokens do nothing")
    notes = [_layout_in_words(find_rotary(model, family).rotary, geometry.num_pairs)]
    if linear is None:
        notes.append("reads no linear scaling")
    plain_row, pi_row = (factors(scheme).rescale_factors for scheme in ("none", "pi"))
    num_layers = geometry.num_layers
    try:
        each = under(factors("pi", rescale_factors=pi_row * num_layers))
    except ModelError:
        notes.append("one vector for all layers")
    else:
        _require(_difference(pi, each) < SAME, "equal vectors for each layer differ from one for all")
        rows = [
            plain_row * index + pi_row + plain_row * (num_layers - index - 1) for index in range(num_layers)
        ]
        changes = [_difference(ones, under(factors("none", rescale_factors=row))) for row in rows]
        _require(max(changes) > CHANGED, "a vector of one layer does nothing")
        num_rotary = sum(change > ROUNDING for change in changes)
        _require(num_rotary == description.num_rotary_layers, f"{num_rotary} layers rotate")
    if description.num_rotary_layers < num_layers:
        notes.append(f"{description.num_rotary_layers} of {num_layers} layers rotate")
    if description.sliding_window is not None:
        _check_windows(family, factors("none"), wide=untouched)
        notes.append("sliding windows")
    _require(torch.equal(untouched, _logits(model)), "taking the factors out leaves a trace")
    return ", ".join(notes)


def _check_windows(family: str, ones: RescaleFactors, *, wide: Tensor) -> None:
    """The same weights with narrow windows: refused, or lifted on request, and narrow again afterwards."""
    text = tiny_config(family).get_text_config(decoder=True)
    limits = [name for name in ("sliding_window", "attention_chunk_size") if getattr(text, name, None)]
    narrow = build(tiny_config(family, **dict.fromkeys(limits, NARROW_WINDOW)))
    before = _logits(narrow)
    _require(_difference(wide, before) > CHANGED, "windows limit nothing")
    description = describe(narrow.config, original_length=ORIGINAL_LENGTH)
    all_slide = description.num_sliding_layers == description.num_attention_layers
    try:
        Model.wrap(narrow, original_length=ORIGINAL_LENGTH).install(ones)
    except ModelError:
        _require(all_slide, "windows are refused though some layer sees beyond them")
    else:
        _require(not all_slide, "windows shorter than the target are accepted")
    with Model.wrap(narrow, original_length=ORIGINAL_LENGTH, full_attention=True).using(ones):
        _require(_difference(wide, _logits(narrow)) < SAME, "lifted windows still limit")
    _require(torch.equal(before, _logits(narrow)), "lifting windows leaves a trace")


def _layout_in_words(rotary: nn.Module, num_pairs: int) -> str:
    layout = learn_layout(rotary, num_pairs, "")
    pairs = [column % num_pairs for column in layout.leaves[0].columns]
    if layout.leaves[0].is_complex:
        return "complex"
    return {
        tuple(range(num_pairs)) * 2: "halves",
        tuple(pair for pair in range(num_pairs) for _ in "ab"): "neighbours",
        tuple(range(num_pairs)): "not repeated",
    }[tuple(pairs)]


def _linear(family: str, model: Any) -> Tensor | None:
    """The logits of the same weights under transformers' linear scaling, where the family reads it."""
    text = model.config.get_text_config(decoder=True)
    scaled = {**text.rope_parameters, "rope_type": "linear", "factor": TARGET_LENGTH / ORIGINAL_LENGTH}
    try:
        other = build(tiny_config(family, rope_parameters=scaled))
        return _logits(other)
    except Exception:
        return None


def _logits(model: Any) -> Tensor:
    ids = torch.randint(1, 96, (2, NUM_TOKENS), generator=torch.Generator().manual_seed(0))
    logits: Tensor = model(input_ids=ids).logits
    return logits


def _difference(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().max() / expected.abs().max())


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _reason(refusal: ModelError) -> str:
    return str(refusal).rpartition(" can't be extended: ")[2]


def _last_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[-1].strip()


def main() -> None:
    chosen = sys.argv[1:]
    results = []
    for family in chosen or families():
        results.append(try_family(family))
        print(row(results[-1]), flush=True)
    if not chosen:
        write_atomically(DOCUMENT, table(results).encode())


if __name__ == "__main__":
    main()
