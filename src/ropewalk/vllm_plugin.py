"""Plugin of vLLM: its LongRoPE rotary uses the factor set in the checkpoint's folder, start tokens included.

vLLM computes cos and sin of its LongRoPE rotary once, in a table with one row per position, and chooses the
short or the long half when it starts. It has no start tokens (n-hat), computes its attention factor from the
ratio of two lengths, and computes angles in float32. If the checkpoint's folder has a `factors.json`, this
plugin fills the table with `rope.frequencies` and the entry for `max_model_len`. Start tokens are exact,
because each position has a row. For any other checkpoint, vLLM's own table is used.

vLLM calls `register` in each of its processes (entry point `vllm.general_plugins`). This module runs in
vLLM's environment, with vLLM's versions of its dependencies. It needs torch, numpy, pydantic and
huggingface_hub, no other dependency of Ropewalk, and imports them only when it computes a table.
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

FACTORS_NAME = "factors.json"  # in the checkpoint's folder, as for `ropewalk.load`
MARK = b'"ropewalk.factor'  # both formats' names begin with it; other programs' factors.json do not have it

# From the first release that chooses short or long at its start, to the newest that was tested. The patched
# class's file is the same in 0.11.1, 0.12.0, 0.20.0 and 0.33.0; another file is refused.
OLDEST, NEWEST = (0, 11, 1), (0, 33)
CLASS_FILE_SHA256 = "013f3d8660460a6194b57d61a32e1a80a65f61d1ddf7c7899c4d5f1a5ce44150"
ROTARY_MODULE = "vllm.model_executor.layers.rotary_embedding.phi3_long_rope_scaled_rope"

TOLERANCE = 1e-6  # relative, of a factor: a configuration may have been written in float32
POSITIONS_AT_ONCE = 65536

logger = logging.getLogger("vllm.ropewalk")  # a child of vLLM's logger, so that it has its format


def register() -> None:
    """Patch vLLM's LongRoPE rotary, or log in one line why not. A second call does nothing."""
    import vllm

    if not is_known(vllm.__version__):
        _warn_not_patched(f"vLLM {vllm.__version__} was not tested")
        return
    try:
        module = importlib.import_module(ROTARY_MODULE)
        content = Path(str(module.__file__)).read_bytes()
    except (ImportError, OSError) as error:
        _warn_not_patched(f"vLLM's LongRoPE rotary can't be read ({error})")
        return
    if hashlib.sha256(content).hexdigest() != CLASS_FILE_SHA256:
        _warn_not_patched(f"the LongRoPE rotary of this vLLM {vllm.__version__} differs from its release")
        return
    patch(module.Phi3LongRoPEScaledRotaryEmbedding, module.get_current_vllm_config)


def is_known(version: str) -> bool:
    """Whether this version of vLLM was tested, or is between two that were."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if numbers is None:
        return False
    release = tuple(int(number or 0) for number in numbers.groups())
    return release >= OLDEST and release[:2] <= NEWEST


def patch(rotary_class: Any, get_current_vllm_config: Callable[[], Any]) -> None:
    """Replace the method of vLLM's class that computes the table, once."""
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
        # vLLM computes both halves, short and long, and reads one of them. Here both are the same.
        return cos_sin_table(factors, max_position_embeddings)

    rotary_class._compute_cos_sin_cache = compute_cos_sin_cache


def factors_for(rotary: Any, vllm_config: Any) -> "RescaleFactors | None":
    """The factors of a rotary of vLLM; None if the checkpoint's folder has no factor set.

    Raises:
        FactorsError: the set is invalid, does not belong to the checkpoint's configuration, or is only for
            shorter sequences than vLLM was started for. vLLM then does not start.
    """
    from ropewalk.factors.factor_set import FactorSet

    model_config = vllm_config.model_config
    path = find_factors(str(model_config.model), model_config.revision)
    if path is None:
        return None
    factor_set = FactorSet.load(path)
    differences = _differences(rotary, factor_set)
    if differences and getattr(vllm_config, "speculative_config", None) is not None:
        logger.warning("Ropewalk does not change a rotary of the draft model (%s).", "; ".join(differences))
        return None
    if differences:
        raise FactorsError(
            f"{path} does not belong to the checkpoint in its folder ({'; '.join(differences)}): export the "
            f"model again, or remove the file."
        )
    factors = factor_set.for_length(model_config.max_model_len)
    factors.require_plain("vLLM")
    if factors.per_layer:
        raise FactorsError(
            f"{path} has one vector per layer, but vLLM has one table for all layers: search one vector."
        )
    _log_factors(path, factors.target_length, factors.num_start_tokens, factors.attention_factor)
    return factors


def find_factors(model: str, revision: str | None) -> Path | None:
    """The factor set of a checkpoint, in its folder or its repository on the hub; None if it has none."""
    folder = Path(model)
    if folder.exists():
        found = folder / FACTORS_NAME
        path = found if found.is_file() else None
    else:
        path = _find_on_hub(model, revision)
    if path is None or MARK not in path.read_bytes():
        return None
    return path


def cos_sin_table(factors: "RescaleFactors", num_positions: int) -> "Tensor":
    """The table of cos and sin, times the attention factor.

    Angles are computed in float64 on the CPU, so that the table is the same on every device.

    Returns:
        cos of all pairs, then sin of all pairs: float32, shape (num_positions, rotary_dim), on torch's
        default device.
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
    """How vLLM's rotary, as the checkpoint's configuration states it, differs from the factor set."""
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
    except Exception as error:  # of many classes; a checkpoint without factors must still be served
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    logger.warning(
        "Ropewalk could not look for %s of %s (%s), so vLLM's own table is used: if Ropewalk exported this "
        "checkpoint, download its folder and serve that.",
        FACTORS_NAME,
        model,
        reason,
    )
    return None


@functools.lru_cache(maxsize=4)
def _log_factors(path: Path, target_length: int, num_start_tokens: int, attention_factor: float) -> None:
    logger.info(
        "Ropewalk: rotary of %s, entry for up to %d tokens, %d start tokens, attention factor %g.",
        path,
        target_length,
        num_start_tokens,
        attention_factor,
    )


def _warn_not_patched(reason: str) -> None:
    oldest, newest = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
    logger.warning(
        "Ropewalk's plugin does nothing: %s. Start tokens and attention factors of Ropewalk's checkpoints "
        "are ignored: use vLLM %s to %s, or a newer Ropewalk.",
        reason,
        oldest,
        newest,
    )
