"""Ropewalk extends a language model's context window with searched rescale factors, without training.

How data runs through it, one way:

    model name ── models.load_model ──> a model and its RopeGeometry
    text ──────── text.token_documents ──> token documents
    search.search_factors: a strategy asks for a candidate, it is installed, the documents are scored
        (evaluate.nll), the strategy is told; the best one becomes RescaleFactors
    RescaleFactors.save ──> factors.json: which model, which lengths, how it was found
    Model.using(factors) ──> the same model, reading further; measure_perplexity shows how far
    runtime.load, runtime.apply ──> transformers' own model, each row of a batch by the factors for its length

The names below are the public ones. They are imported when first used: `import ropewalk` loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ropewalk.errors import RopewalkError
    from ropewalk.evaluate.passkey import measure_passkey
    from ropewalk.evaluate.perplexity import measure_perplexity
    from ropewalk.evaluate.records import EvalRecord
    from ropewalk.factors.factor_set import FactorSet
    from ropewalk.factors.geometry import RopeGeometry
    from ropewalk.factors.rescale_factors import RescaleFactors, load_factors
    from ropewalk.models.model import Model, load_model
    from ropewalk.rope.schemes import scheme_factors
    from ropewalk.runtime.load import apply, load
    from ropewalk.runtime.requests import pinned
    from ropewalk.search.search import search_factors
    from ropewalk.text.tokens import token_documents

_HOMES = {
    "EvalRecord": "ropewalk.evaluate.records",
    "FactorSet": "ropewalk.factors.factor_set",
    "Model": "ropewalk.models.model",
    "RescaleFactors": "ropewalk.factors.rescale_factors",
    "RopeGeometry": "ropewalk.factors.geometry",
    "RopewalkError": "ropewalk.errors",
    "apply": "ropewalk.runtime.load",
    "load": "ropewalk.runtime.load",
    "load_factors": "ropewalk.factors.rescale_factors",
    "load_model": "ropewalk.models.model",
    "measure_passkey": "ropewalk.evaluate.passkey",
    "measure_perplexity": "ropewalk.evaluate.perplexity",
    "pinned": "ropewalk.runtime.requests",
    "scheme_factors": "ropewalk.rope.schemes",
    "search_factors": "ropewalk.search.search",
    "token_documents": "ropewalk.text.tokens",
}

__all__ = [
    "EvalRecord",
    "FactorSet",
    "Model",
    "RescaleFactors",
    "RopeGeometry",
    "RopewalkError",
    "apply",
    "load",
    "load_factors",
    "load_model",
    "measure_passkey",
    "measure_perplexity",
    "pinned",
    "scheme_factors",
    "search_factors",
    "token_documents",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
