"""Ropewalk extends a language model's context window with searched rescale factors for its rotary embedding.

How data flows, one way:

    load_model(name)            -> Model: a transformers model that owns its rotary, and its RopeGeometry
    token_documents(text, ...)  -> DocumentSet: token ids of long documents
    search_factors(model, documents, target_length=...) -> SearchResult, with RescaleFactors
    measure_perplexity, measure_passkey, measure_retrieval    -> EvalRecord
    finetune_model, search_factors again, readjust            -> FactorSet
    load, apply (Python), export_hf, export_gguf (engines)    -> the extended model

The names in `__all__` are public. Each is imported when it is first used: `import ropewalk` loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what editors and type checkers read; a test compares it with _MODULES
    from ropewalk.errors import DataError as DataError
    from ropewalk.errors import EngineError as EngineError
    from ropewalk.errors import EvaluationError as EvaluationError
    from ropewalk.errors import ExportError as ExportError
    from ropewalk.errors import FactorsError as FactorsError
    from ropewalk.errors import FinetuneError as FinetuneError
    from ropewalk.errors import MissingEngineError as MissingEngineError
    from ropewalk.errors import ModelError as ModelError
    from ropewalk.errors import RecipeError as RecipeError
    from ropewalk.errors import RopewalkError as RopewalkError
    from ropewalk.errors import RunFolderError as RunFolderError
    from ropewalk.errors import SettingError as SettingError
    from ropewalk.evaluate.gradient import NllGradient as NllGradient
    from ropewalk.evaluate.gradient import nll_gradient as nll_gradient
    from ropewalk.evaluate.passkey import measure_passkey as measure_passkey
    from ropewalk.evaluate.perplexity import measure_perplexity as measure_perplexity
    from ropewalk.evaluate.records import EvalRecord as EvalRecord
    from ropewalk.evaluate.retrieval import measure_retrieval as measure_retrieval
    from ropewalk.evaluate.settings import RetrievalSettings as RetrievalSettings
    from ropewalk.export.gguf.export import export_gguf as export_gguf
    from ropewalk.export.hf import export_hf as export_hf
    from ropewalk.export.settings import ExportSettings as ExportSettings
    from ropewalk.factors.factor_set import FactorSet as FactorSet
    from ropewalk.factors.geometry import RopeGeometry as RopeGeometry
    from ropewalk.factors.rescale_factors import RescaleFactors as RescaleFactors
    from ropewalk.factors.rescale_factors import load_factors as load_factors
    from ropewalk.finetune.data.mixture import Mixture as Mixture
    from ropewalk.finetune.data.settings import MixtureSettings as MixtureSettings
    from ropewalk.finetune.data.settings import SourceSettings as SourceSettings
    from ropewalk.finetune.data.training_text import DocumentList as DocumentList
    from ropewalk.finetune.data.training_text import TrainingText as TrainingText
    from ropewalk.finetune.settings import FinetuneSettings as FinetuneSettings
    from ropewalk.finetune.settings import LoraSettings as LoraSettings
    from ropewalk.finetune.train import FinetuneResult as FinetuneResult
    from ropewalk.finetune.train import finetune_model as finetune_model
    from ropewalk.models.model import Model as Model
    from ropewalk.models.model import load_model as load_model
    from ropewalk.models.settings import ModelSettings as ModelSettings
    from ropewalk.recipe.reading import load_recipe as load_recipe
    from ropewalk.recipe.run import run_recipe as run_recipe
    from ropewalk.rope.frequencies import cos_sin as cos_sin
    from ropewalk.rope.schemes import scheme_factors as scheme_factors
    from ropewalk.runtime.load import apply as apply
    from ropewalk.runtime.load import load as load
    from ropewalk.runtime.requests import pinned as pinned
    from ropewalk.search.objective import Term as Term
    from ropewalk.search.objective import TermReadings as TermReadings
    from ropewalk.search.plan import SearchPlan as SearchPlan
    from ropewalk.search.plan import plan_search as plan_search
    from ropewalk.search.readjust import readjust as readjust
    from ropewalk.search.result import SearchResult as SearchResult
    from ropewalk.search.search import search_factors as search_factors
    from ropewalk.search.settings import SearchSettings as SearchSettings
    from ropewalk.search.strategies.base import Strategy as Strategy
    from ropewalk.search.trial import Query as Query
    from ropewalk.search.worker_settings import WorkerSettings as WorkerSettings
    from ropewalk.text.readings import Reading as Reading
    from ropewalk.text.settings import TextSplit as TextSplit
    from ropewalk.text.tokens import DocumentSet as DocumentSet
    from ropewalk.text.tokens import token_documents as token_documents
    from ropewalk.text.windows import TokenWindow as TokenWindow
    from ropewalk.verify.export import verify_export as verify_export
    from ropewalk.verify.result import VerificationResult as VerificationResult

_MODULES = {
    "errors": [
        "DataError",
        "EngineError",
        "EvaluationError",
        "ExportError",
        "FactorsError",
        "FinetuneError",
        "MissingEngineError",
        "ModelError",
        "RecipeError",
        "RopewalkError",
        "RunFolderError",
        "SettingError",
    ],
    "evaluate.gradient": ["NllGradient", "nll_gradient"],
    "evaluate.passkey": ["measure_passkey"],
    "evaluate.perplexity": ["measure_perplexity"],
    "evaluate.records": ["EvalRecord"],
    "evaluate.retrieval": ["measure_retrieval"],
    "evaluate.settings": ["RetrievalSettings"],
    "export.gguf.export": ["export_gguf"],
    "export.hf": ["export_hf"],
    "export.settings": ["ExportSettings"],
    "factors.factor_set": ["FactorSet"],
    "factors.geometry": ["RopeGeometry"],
    "factors.rescale_factors": ["RescaleFactors", "load_factors"],
    "finetune.data.mixture": ["Mixture"],
    "finetune.data.settings": ["MixtureSettings", "SourceSettings"],
    "finetune.data.training_text": ["DocumentList", "TrainingText"],
    "finetune.settings": ["FinetuneSettings", "LoraSettings"],
    "finetune.train": ["FinetuneResult", "finetune_model"],
    "models.model": ["Model", "load_model"],
    "models.settings": ["ModelSettings"],
    "recipe.reading": ["load_recipe"],
    "recipe.run": ["run_recipe"],
    "rope.frequencies": ["cos_sin"],
    "rope.schemes": ["scheme_factors"],
    "runtime.load": ["apply", "load"],
    "runtime.requests": ["pinned"],
    "search.objective": ["Term", "TermReadings"],
    "search.plan": ["SearchPlan", "plan_search"],
    "search.readjust": ["readjust"],
    "search.result": ["SearchResult"],
    "search.search": ["search_factors"],
    "search.settings": ["SearchSettings"],
    "search.strategies.base": ["Strategy"],
    "search.trial": ["Query"],
    "search.worker_settings": ["WorkerSettings"],
    "text.readings": ["Reading"],
    "text.settings": ["TextSplit"],
    "text.tokens": ["DocumentSet", "token_documents"],
    "text.windows": ["TokenWindow"],
    "verify.export": ["verify_export"],
    "verify.result": ["VerificationResult"],
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
