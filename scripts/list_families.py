"""Try every causal family of the installed transformers, and write docs/families.md.

    python scripts/list_families.py            # tries all (about a minute), writes docs/families.md
    python scripts/list_families.py llama phi  # tries these, prints their rows

A family is built from its own configuration class, small and with random weights, in float64. It works if
installed factors do what they should, and uninstalling leaves no trace: `try_family` lists the checks.
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
from ropewalk.models.rotary_layout import RotaryLayout
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
    **dict.fromkeys(("adapter_in_dim", "adapter_out_dim", "adapter_input_size"), 64),
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
BOTH = {"layer_types": ["full_attention", "sliding_attention"], "num_hidden_layers": 2}
GEMMA4 = {"global_head_dim": 32, "hidden_size_per_layer_input": 16, "num_kv_shared_layers": 0}
DOTS3 = {
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "swa_head_dim": 16, "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 16, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 32,
    "swa_kv_lora_rank": 32, "index_topk": 64, "index_head_dim": 16, "index_n_heads": 2,
}  # fmt: skip
HINTS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
        },
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v4": {
        "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
        "num_hidden_layers": 3, "mlp_layer_types": ["moe"] * 3, "q_lora_rank": 32, "o_lora_rank": 16,
        "o_groups": 2, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 16, "head_dim": 32,
        "partial_rotary_factor": 0.5,
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
    },
    "dots1": {"n_shared_experts": 1},
    "dots3_note": DOTS3,
    "dots3_note_text": DOTS3,
    "gemma3n": {"num_kv_shared_layers": 0},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4": GEMMA4,
    "gemma4_text": GEMMA4,
    "gemma4_unified": GEMMA4,
    "gemma4_unified_text": GEMMA4,
    "granitemoehybrid": {
        "layer_types": ["linear_attention", "full_attention"],
        "position_embedding_type": "rope",
    },
    "laguna": {**BOTH, "num_attention_heads_per_layer": [4, 4], "mlp_layer_types": ["dense", "sparse"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mellum": BOTH,
    "mimo_v2_flash": {**BOTH, "head_dim": 24, "v_head_dim": 24, "num_key_value_heads": 2},
    "qwen4_exp": INDEXER,
    "qwen4_exp_text": INDEXER,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"], "use_mem_rope": True},
    "zaya": {
        "layer_types": ["hybrid", "hybrid_sliding"], "num_hidden_layers": 2, "num_experts_per_tok": 1,
        "num_key_value_heads": 2,
    },
}  # fmt: skip
# What the configuration class of a family needs, because its own defaults do not fit together.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
        },
    },
}

Status = Literal["works", "refused", "not buildable", "fails"]


@dataclasses.dataclass(frozen=True)
class FamilyResult:
    """One row of the table.

    Attributes:
        detail: the layout of a family that works, the reason of one that does not.
        near_far: of a family that works, `yes` or the reason why not.
    """

    family: str
    status: Status
    detail: str
    near_far: str = ""


def families() -> list[str]:
    """Every model type that transformers loads as a causal language model."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny_config(family: str, **changes: Any) -> Any:
    """The family's configuration with small sizes and no scaling, then `changes` in its text part."""
    default = CONFIG_MAPPING[family](**DEFAULTS.get(family, {}))
    return type(default)(**_small(default, {**HINTS.get(family, {}), **changes}))


def build(config: Any) -> nn.Module:
    """A model with random weights large enough for positions to matter, the same for the same shapes."""
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(config, experts_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
            elif name.endswith(".temp"):  # of Zaya's keys, initialized with 0
                parameter.fill_(1.0)
    return model.to(torch.float64)


def try_family(family: str) -> FamilyResult:
    """What becomes of one family.

    It works if, with factors installed: factors of 1 give the logits of the untouched model; PI by 4 gives
    those of the same weights under transformers' own linear scaling by 4; other factors, start tokens and a
    vector for each layer change them as they should; lifted windows see everything; and if the untouched
    logits are the same bits afterwards. Near-far factors are tried too.
    """
    try:
        model = _buildable(family)
        if isinstance(model, FamilyResult):
            return model
        with torch.no_grad():
            return FamilyResult(family, "works", _check(family, model), _check_near_far(model))
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
        default = CONFIG_MAPPING[family](**DEFAULTS.get(family, {}))
        describe(default, original_length=ORIGINAL_LENGTH, name=family)
    except ModelError:
        raise  # what its own configuration says is the better reason
    except Exception:
        return failure
    return failure


def table(results: list[FamilyResult]) -> str:
    """docs/families.md."""
    num = {status: sum(result.status == status for result in results) for status in ("works", "refused")}
    num_near_far = sum(result.near_far == "yes" for result in results)
    rows = "\n".join(row(result) for result in results)
    return f"""# Model families

Every causal family of transformers {transformers.__version__}, tried by `python scripts/list_families.py`,
which writes this page: {num["works"]} of {len(results)} work, {num["refused"]} are refused with their reason.

*Works* means, on a small random model of that family in float64: factors of 1 give the logits of the
base model, PI gives those of transformers' own linear scaling (if the family reads it; of a family with
parameters per layer type, of that layer type alone), start tokens and a vector for each layer take effect,
sliding windows stay or are lifted as specified, and uninstalling restores the same bits. The detail is the
layout of cos and sin; the layer type that factors are for, if others keep a rotation of their own; and how
many layers of the small model factors change, if others have no positions (NoPE) or no attention.

*Near-far* states whether a family reads with near-far factors, or why not: {num_near_far} do. They need
attention to all earlier tokens by `sdpa`, without sinks or caps on logits, and keys that rotate pair by pair
before they are cached. *Yes* means: the hidden states are right with all keys far, and a text is read with a
cache as it is without. Layers with a sliding window have no far part, so these factors change nothing in
models in which only such layers rotate.

| family | result | detail | near-far |
| --- | --- | --- | --- |
{rows}
"""


def row(result: FamilyResult) -> str:
    """One line of the table."""
    return f"| {result.family} | {result.status} | {result.detail} | {result.near_far} |"


def _small(config: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Arguments that build `config` again, small; configurations nested in it become dictionaries."""
    names = {field.name for field in dataclasses.fields(config)}
    arguments = {name: size for name, size in SIZES.items() if name in names}
    text = config.get_text_config(decoder=True)
    for name in names:
        part = vars(config).get(name)  # `getattr` refuses sizes that differ between layers
        if isinstance(part, PreTrainedConfig):
            small = _small(part, changes if part is text else {})
            if part is not text and part.is_heterogeneous:
                small["per_layer_config"] = None  # of more layers than are left
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
    notes = [_layout_in_words(Model.wrap(model).hook.layout)]
    num_layers, num_rotary = geometry.num_layers, description.num_rotary_layers
    if linear is None:
        notes.append("reads no linear scaling")
    plain_row, pi_row = (factors(scheme).rescale_factors for scheme in ("none", "pi"))
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
        num_changed = sum(change > ROUNDING for change in changes)
        _require(num_changed == num_rotary, f"factors change {num_changed} layers")
    if geometry.layer_type is not None:
        notes.append(f"factors for {geometry.layer_type}, {num_rotary} of {num_layers} layers")
    elif num_rotary < num_layers:
        notes.append(f"{num_rotary} of {num_layers} layers rotate")
    if description.sliding_window is not None:
        _check_windows(family, factors("none"), model)
        notes.append("sliding windows")
    _require(torch.equal(untouched, _logits(model)), "taking the factors out leaves a trace")
    return ", ".join(notes)


def _check_near_far(model: Any) -> str:
    """`yes`, or why the model refuses near-far factors."""
    owner, untouched = Model.wrap(model, original_length=ORIGINAL_LENGTH), _logits(model)
    try:
        with owner.using(scheme_factors("near-far", owner.geometry, TARGET_LENGTH)):
            whole, rest = _logits(model), _logits_of_rest(model)
    except ModelError as refusal:
        _require(torch.equal(untouched, _logits(model)), "refused near-far factors leave a trace")
        reason = str(refusal).partition(" can't read with near-far factors: ")[2] or str(refusal)
        return reason.removesuffix("; use factors without a near window.")
    _require(_difference(untouched, whole) > CHANGED, "near-far factors do not change the logits")
    _require(_difference(whole[:, -rest.shape[1] :], rest) < SAME, "near-far factors mix with a cache")
    _require(torch.equal(untouched, _logits(model)), "near-far factors leave a trace")
    return "yes"


def _check_windows(family: str, ones: RescaleFactors, wide_model: Any) -> None:
    """The same weights with narrow windows: refused, or lifted on request, and narrow again afterwards."""
    text = tiny_config(family).get_text_config(decoder=True)
    limits = [name for name in ("sliding_window", "attention_chunk_size") if getattr(text, name, None)]
    narrow = build(tiny_config(family, **dict.fromkeys(limits, NARROW_WINDOW)))
    read = _logits
    if _difference(_logits(wide_model), _logits(narrow)) <= CHANGED:
        read = _logits_of_rest  # Moshi's window is that of its cache alone
    wide, before = read(wide_model), read(narrow)
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
        _require(_difference(wide, read(narrow)) < SAME, "lifted windows still limit")
    _require(torch.equal(before, read(narrow)), "lifting windows leaves a trace")


def _layout_in_words(layout: RotaryLayout) -> str:
    num_pairs = layout.num_pairs
    pairs = [column % num_pairs for column in layout.leaves[0].columns if column < 2 * num_pairs]
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
    linear = {"rope_type": "linear", "factor": TARGET_LENGTH / ORIGINAL_LENGTH}
    layer_type = describe(model.config, original_length=ORIGINAL_LENGTH).layer_type
    own = text.rope_parameters if layer_type is None else text.rope_parameters[layer_type]
    if own.get("rope_type") == "proportional":
        linear["rope_type"] = "proportional"
    scaled = {**own, **linear}
    if layer_type is not None:
        scaled = {**text.rope_parameters, layer_type: scaled}
    try:
        other = build(tiny_config(family, rope_parameters=scaled))
        return _logits(other)
    except Exception:
        return None


def _logits(model: Any) -> Tensor:
    logits: Tensor = model(input_ids=_ids()).logits
    return logits


def _logits_of_rest(model: Any) -> Tensor:
    """Those of the second half of the text, read with the cache of the first."""
    first, rest = _ids().chunk(2, dim=1)
    cache = model(input_ids=first, use_cache=True).past_key_values
    logits: Tensor = model(input_ids=rest, past_key_values=cache, use_cache=True).logits
    return logits


def _ids() -> Tensor:
    return torch.randint(1, 96, (2, NUM_TOKENS), generator=torch.Generator().manual_seed(0))


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
