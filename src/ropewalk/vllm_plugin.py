"""vLLM's plugin: its LongRoPE rotary turns by a factor set beside the checkpoint, n-hat included.

vLLM computes the cos and sin of its LongRoPE rotary once, in a table that is indexed by position, and picks
the short or the long half of it when it starts. It knows no n-hat, takes its attention factor from the ratio
of two lengths, and computes angles in float32. Where `factors.json` lies beside a checkpoint, the table is
filled from the one formula (`rope.frequencies`) with the entry for `max_model_len` instead; since it is
indexed by position, n-hat is exact. Every other checkpoint keeps vLLM's own table.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`). This module runs in
vLLM's environment, whose versions are vLLM's choice: it needs torch, numpy, pydantic and huggingface_hub,
nothing else of what Ropewalk depends on, and imports none of them before a table is computed.
"""

import functools
import hashlib
import importlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.errors import FactorsError

if TYPE_CHECKING:
    from torch import Tensor

    from ropewalk.factors.factor_set import FactorSet
    from ropewalk.factors.rescale_factors import RescaleFactors

FACTORS_NAME = "factors.json"  # beside the checkpoint, as `ropewalk.load` reads it
MARK = b'"ropewalk.factor'  # begins the format of both kinds of file; other people's factors.json has none

# From the first release that picks short or long when it starts to the newest that was tried. Those looked at
# (0.11.1, 0.12.0, 0.20.0, 0.33.0) have the very same file of the class that is patched; another is refused.
OLDEST, NEWEST = (0, 11, 1), (0, 33)
CLASS_FILE_SHA256 = "013f3d8660460a6194b57d61a32e1a80a65f61d1ddf7c7899c4d5f1a5ce44150"
ROTARY_MODULE = "vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope"

TOLERANCE = 1e-6  # of a factor: a configuration may have gone through float32
POSITIONS_AT_ONCE = 65536

logger = logging.getLogger("vllm.ropewalk")  # a child of vLLM's own, and so in its format


def register() -> None:
    """Patch vLLM's LongRoPE rotary, or say in one line why not; called again, do nothing."""
    import vllm

    if not is_known(vllm.__version__):
        _warn_not_patched(f"vLLM {vllm.__version__} is not one of those known here")
        return
    try:
        module = importlib.import_module(ROTARY_MODULE)
        content = Path(str(module.__file__)).read_bytes()
    except (ImportError, OSError) as error:
        _warn_not_patched(f"vLLM's LongRoPE rotary can't be read ({error})")
        return
    if hashlib.sha256(content).hexdigest() != CLASS_FILE_SHA256:
        _warn_not_patched(f"this vLLM {vllm.__version__} has another LongRoPE rotary than its releases")
        return
    patch(module.Phi3LongRoPEScaledRotaryEmbedding, module.get_current_vllm_config)


def is_known(version: str) -> bool:
    """Whether this version of vLLM was tried, or stands between two that were."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if numbers is None:
        return False
    release = tuple(int(number or 0) for number in numbers.groups())
    return release >= OLDEST and release[:2] <= NEWEST


def patch(rotary_class: Any, get_current_vllm_config: Callable[[], Any]) -> None:
    """Replace the method that computes the table of vLLM's class, once."""
    original = rotary_class._compute_cos_sin_cache
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def compute_cos_sin_cache(
        self: Any, max_position_embeddings: int, rescale_factors: list[float], mscale: float
    ) -> "Tensor":
        factors = factors_for(self, get_current_vllm_config())
        if factors is None:
            cache: Tensor = original(self, max_position_embeddings, rescale_factors, mscale)
            return cache
        # vLLM asks for both halves, short and long, and will read one of them: they are the same here.
        return cos_sin_table(factors, max_position_embeddings)

    rotary_class._compute_cos_sin_cache = compute_cos_sin_cache


def factors_for(rotary: Any, vllm_config: Any) -> "RescaleFactors | None":
    """What this rotary of vLLM's is to turn by; None where there is no factor set beside the checkpoint.

    Raises:
        FactorsError: the set is broken, is not the one of the checkpoint's configuration, or serves shorter
            sequences only than vLLM was started for. vLLM then does not start.
    """
    from ropewalk.factors.factor_set import FactorSet

    model_config = vllm_config.model_config
    path = find_factors(str(model_config.model), model_config.revision)
    if path is None:
        return None
    factor_set = FactorSet.load(path)
    differences = _differences(rotary, factor_set)
    if differences and getattr(vllm_config, "speculative_config", None) is not None:
        logger.warning("Ropewalk leaves a rotary of the draft model as it is (%s).", "; ".join(differences))
        return None
    if differences:
        raise FactorsError(
            f"{path} is not for the checkpoint beside it ({'; '.join(differences)}): export it again, or "
            f"take the file away."
        )
    factors = factor_set.for_length(model_config.max_model_len)
    if factors.per_layer:
        raise FactorsError(
            f"{path} has a vector for each layer, but vLLM has one table for all: search one vector."
        )
    _tell(path, factors.target_length, factors.num_start_tokens, factors.attention_factor)
    return factors


def find_factors(model: str, revision: str | None) -> Path | None:
    """The factor set beside a checkpoint: in its folder, or in its repository on the hub."""
    place = Path(model)
    if place.exists():
        found = place / FACTORS_NAME
        path = found if found.is_file() else None
    else:
        path = _find_on_hub(model, revision)
    if path is None or MARK not in path.read_bytes():
        return None
    return path


def cos_sin_table(factors: "RescaleFactors", num_positions: int) -> "Tensor":
    """cos of all pairs, then sin, times the attention factor: float32, (num_positions, rotary_dim).

    Angles are float64, on the processor, so that the table is the same wherever it is made; it is put where
    vLLM makes new tensors.
    """
    import torch

    from ropewalk.rope.frequencies import cos_sin

    table = torch.empty((num_positions, factors.geometry.rotary_dim), dtype=torch.float32, device="cpu")
    for start in range(0, num_positions, POSITIONS_AT_ONCE):
        part = table[start : start + POSITIONS_AT_ONCE]
        positions = torch.arange(start, start + len(part), device="cpu")
        part.copy_(torch.cat(cos_sin(factors, positions), dim=-1))
    return table.to(torch.empty(0).device)


def _differences(rotary: Any, factor_set: "FactorSet") -> list[str]:
    """What vLLM read in the checkpoint's configuration that is not as in the set."""
    geometry = factor_set.geometry
    numbers = {
        "head_dim": (geometry.head_dim, rotary.head_size),
        "rotary_dim": (geometry.rotary_dim, rotary.rotary_dim),
        "rope_theta": (geometry.rope_theta, rotary.base),
        "original_length": (geometry.original_length, rotary.original_max_position_embeddings),
        "num_pairs": (geometry.num_pairs, len(rotary.long_factor)),
    }
    found = [
        f"{name} is {ours:.10g}, not {theirs:.10g}"
        for name, (ours, theirs) in numbers.items()
        if ours != theirs
    ]
    if found:
        return found
    rows = zip(factor_set.longest.rescale_factors[0], rotary.long_factor, strict=True)
    for pair, (ours, theirs) in enumerate(rows):
        if abs(ours - theirs) > TOLERANCE * ours:
            return [f"the longest factor of pair {pair} is {ours:g}, not {theirs:g}"]
    return []


def _find_on_hub(model: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, FACTORS_NAME, revision=revision))
    except LocalEntryNotFoundError:
        reason = "the hub can't be reached"
    except EntryNotFoundError:
        return None
    except Exception as error:  # the hub's client raises many kinds; a checkpoint of others must not fail
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    logger.warning(
        "Ropewalk could not look for %s beside %s (%s), so vLLM's own table is used: if Ropewalk exported "
        "this checkpoint, download its folder and serve that.",
        FACTORS_NAME,
        model,
        reason,
    )
    return None


@functools.lru_cache(maxsize=4)
def _tell(path: Path, target_length: int, num_start_tokens: int, attention_factor: float) -> None:
    logger.info(
        "Ropewalk: rotary of %s, entry for up to %d tokens, n-hat %d, attention factor %g.",
        path,
        target_length,
        num_start_tokens,
        attention_factor,
    )


def _warn_not_patched(reason: str) -> None:
    oldest, newest = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
    logger.warning(
        "Ropewalk's plugin does nothing: %s. n-hat and attention factors of Ropewalk's checkpoints would be "
        "ignored: use vLLM %s to %s, or a Ropewalk that knows this one.",
        reason,
        oldest,
        newest,
    )
