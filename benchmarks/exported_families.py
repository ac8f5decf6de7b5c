"""Does an exported folder compute what Ropewalk computes, for every family that works, with its own scaling?

    python benchmarks/exported_families.py [--transformers4 PYTHON] [FAMILY ...]

A small random model of each family, without scaling and with the rotary dictionaries of real checkpoints, is
exported with `export hf`, loaded by plain transformers, and compared with the same factors installed in the
model. Without names it tries every family, writes a dated result, and the entries of transformers in
src/ropewalk/export/known_engines.json.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from evaluator import processor, publish
from list_families import DOCUMENT, ORIGINAL_LENGTH, build, tiny_config
from ropewalk.errors import RopewalkError
from ropewalk.export import Served
from ropewalk.export.hf import export_hf
from ropewalk.export.manifest import read_kept
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.longrope_config import foreign_keys, of_layer_type
from ropewalk.models.model import Model
from ropewalk.models.rope_config import describe
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.rope.schemes import scheme_factors
from ropewalk.verify.engines.transformers import transformers_4_engine

PROBE = Path(__file__).with_name("families_probe.py")
KNOWN_ENGINES = Path(__file__).parents[1] / "src" / "ropewalk" / "export" / "known_engines.json"
TARGET_LENGTH = 256
LENGTHS = (40, 150)  # within the window, and beyond
ORIGINAL = "original_max_position_embeddings"
SAME, CHANGED = 1e-4, 1e-2  # of the largest logit; float32

YARN = {
    "rope_type": "yarn",
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": ORIGINAL_LENGTH,
}
LLAMA3 = {
    "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL_LENGTH,
}  # fmt: skip
SPREAD = [1.0 + 0.5 * index for index in range(8)]  # a head of 16 dimensions
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": SPREAD,
    "original_max_position_embeddings": ORIGINAL_LENGTH,
}  # fmt: skip

SOFTMAX_SCALED = {**YARN, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0}

# The rotary dictionaries of published checkpoints, with the window of the small models.
REAL: dict[str, tuple[dict[str, Any], ...]] = {
    "apertus": ({**LLAMA3, "factor": 8.0},),
    "arcee": ({**YARN, "factor": 20.0, "mscale": 1.0},),
    "axk1": ({**YARN, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0},),
    "cohere_compass_text": ({"rope_type": "default", "mrope_section": [4, 2, 2]},),
    "cwm": ({**LLAMA3, "factor": 16.0},),
    "deepseek_v2": ({**YARN, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707},),
    "deepseek_v3": ({**YARN, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0},),
    "deepseek_v4": ({**YARN, "factor": 16.0, "attention_factor": 1.0},),
    "deepseek_v32": ({**YARN, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0},),
    "exaone4": ({**LLAMA3, "factor": 16.0},),
    "gemma3_text": ({"rope_type": "linear", "factor": 8.0},),
    "gpt_oss": ({**YARN, "factor": 32.0, "truncate": False},),
    "internlm3": ({"rope_type": "dynamic", "factor": 6.0},),
    "llama": ({**LLAMA3, "factor": 8.0}, {"rope_type": "linear", "factor": 4.0}, {**YARN, "factor": 16.0}),
    "longcat_flash": ({**YARN, "factor": 10.0, "mscale": 1.0, "mscale_all_dim": 1.0},),
    "minicpm3": (LONGROPE,),
    "ministral3": (
        {
            **YARN, "factor": 16.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
            "max_position_embeddings": 16 * ORIGINAL_LENGTH,
        },
    ),
    "olmo3": ({**YARN, "factor": 8.0, "attention_factor": 1.2},),
    "phi3": (LONGROPE,),
    "phi4_multimodal": (LONGROPE,),
    "phimoe": ({**LONGROPE, "short_mscale": 1.2, "long_mscale": 1.2},),
    "qwen2": ({**YARN, "factor": 4.0},),
    "qwen3": ({**YARN, "factor": 4.0},),
    "qwen3_moe": ({**YARN, "factor": 4.0},),
    "seed_oss": ({"rope_type": "default"},),
    "smollm3": ({**YARN, "factor": 2.0},),
    "youtu": ({**YARN, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0},),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model and its export on the disk, and what both should give.

    Attributes:
        base, out: the folders.
        served: the factors of the export.
        wanted, untouched: the logits with the factors installed and without, one of each length.
    """

    base: Path
    out: Path
    served: Served
    wanted: list[Tensor]
    untouched: list[Tensor]


@dataclass(frozen=True)
class Outcome:
    """What became of one family in one engine; without a difference, the reason why it is not known.

    `scaling` is its type, and the keys that are not the rotation's.
    """

    family: str
    scaling: str
    difference: float | None
    reason: str = ""

    @property
    def keys(self) -> list[str]:
        """Of the dictionary, those that other parts of the model may read."""
        return self.scaling.split(", ")[1:]

    def as_json(self) -> dict[str, Any]:
        """JSON has no infinity: a model that stops has a reason and no difference, and is not right."""
        finite = self.difference is not None and math.isfinite(self.difference)
        return {**vars(self), "difference": self.difference if finite else None, "is_right": self.is_right}

    @property
    def is_right(self) -> bool:
        return self.difference is not None and self.difference < SAME


def working_families() -> list[str]:
    """Those of docs/families.md into which factors can be installed."""
    rows = (line.split(" | ") for line in DOCUMENT.read_text(encoding="utf-8").splitlines())
    return [row[0].removeprefix("| ") for row in rows if len(row) > 1 and row[1] == "works"]


def export_family(family: str, scaling: dict[str, Any], folder: Path) -> Exported:
    """A small model of the family with this scaling, and its export.

    Raises:
        RopewalkError: it is refused.
        Exception: whatever transformers raises for a model that can't be built.
    """
    base, out = folder / "base", folder / "out"
    small: Any = build(_config(family, scaling))
    small.to(torch.float32).save_pretrained(base)
    model = _load(base)
    factors = _factors(model, family)
    served = export_hf(str(base), FactorSet.of([factors]), out).served
    with Model.wrap(model).using(factors):
        wanted = [read(model, length) for length in LENGTHS]
    untouched = [read(model, length) for length in LENGTHS]
    return Exported(base=base, out=out, served=served, wanted=wanted, untouched=untouched)


def read_export(exported: Exported) -> list[Tensor]:
    """The logits of plain transformers."""
    model = _load(exported.out)
    return [read(model, length) for length in LENGTHS]


def difference(given: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest, as a share of the largest logit."""
    pairs = zip(given, wanted, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def read(model: Any, length: int) -> Tensor:
    """The logits of one random text, shape (length, vocabulary)."""
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.tensor([_tokens(length)])).logits
    return logits[0]


def _tokens(length: int) -> list[int]:
    return torch.randint(1, 96, (length,), generator=torch.Generator().manual_seed(0)).tolist()


def _config(family: str, scaling: dict[str, Any]) -> Any:
    config = tiny_config(family)
    if not scaling:
        return config
    text = config.get_text_config(decoder=True)
    layer_type = describe(config, original_length=ORIGINAL_LENGTH, name=family).layer_type
    every = getattr(text, "rope_parameters", None) or {}
    given = of_layer_type(every, layer_type)
    kept = {key: value for key, value in given.items() if key in ("rope_theta", "partial_rotary_factor")}
    scaled = {**kept, **scaling}
    if layer_type is not None:
        scaled = {**every, layer_type: scaled}
    changes: dict[str, Any] = {"rope_parameters": scaled}
    if hasattr(text, ORIGINAL):  # Phi-3's own, which goes before that of the dictionary
        changes[ORIGINAL] = ORIGINAL_LENGTH
    return tiny_config(family, **changes)


def _load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager").eval()


def _factors(model: Any, family: str) -> RescaleFactors:
    geometry = describe(model.config, name=family).geometry
    computed = longrope_attention_factor(TARGET_LENGTH / geometry.original_length, geometry.original_length)
    return scheme_factors("yarn", geometry, TARGET_LENGTH).replace(attention_factor=computed)


# ---------------------------------------------------------------- the whole table


@dataclass(frozen=True)
class Tried:
    """A family with a scaling: its export, or why there is none."""

    family: str
    scaling: str
    exported: Exported | None
    reason: str = ""

    def in_5(self) -> Outcome:
        """Plain transformers, as it is installed here."""
        if self.exported is None:
            return Outcome(self.family, self.scaling, None, self.reason)
        changed = difference(self.exported.untouched, self.exported.wanted)
        assert changed > CHANGED, f"{self.family}: factors change nothing"
        found = difference(read_export(self.exported), self.exported.wanted)
        return Outcome(self.family, self.scaling, found)

    def in_4(self) -> Outcome:
        """What `answer` left; a family whose own logits differ between the versions is not known."""
        if self.exported is None:
            return Outcome(self.family, self.scaling, None, self.reason)
        given, error = _answer(self.exported.out)
        found = float("inf") if given is None else difference(given, self.exported.wanted)
        if found < SAME:
            return Outcome(self.family, self.scaling, found)
        own, own_error = _answer(self.exported.base)
        if own is None:
            return Outcome(self.family, self.scaling, None, own_error)
        if difference(own, self.exported.untouched) >= SAME:
            return Outcome(self.family, self.scaling, None, "its own logits differ from version 5's")
        return Outcome(self.family, self.scaling, found, error)


def try_family(family: str, scaling: dict[str, Any], folder: Path) -> Tried:
    """Export it."""
    label = ", ".join([scaling.get("rope_type", "none"), *foreign_keys(scaling)])
    folder.mkdir(parents=True)
    try:
        exported = export_family(family, scaling, folder)
    except RopewalkError as refusal:
        return Tried(family, label, None, f"refused: {refusal}".replace(f"{folder}/", ""))
    except Exception as error:  # whatever a family's own code raises is the row's text
        return Tried(family, label, None, f"{type(error).__name__}: {' '.join(str(error).split())[:100]}")
    kept = of_layer_type(read_kept(exported.out), exported.served.geometry.layer_type)
    label = ", ".join([scaling.get("rope_type", "none"), *foreign_keys(kept)])
    for place in (exported.base, exported.out):
        (place / "tokens.json").write_text(json.dumps([_tokens(length) for length in LENGTHS]))
    return Tried(family, label, exported)


def _answer(folder: Path) -> tuple[list[Tensor] | None, str]:
    if not (folder / "answer.safetensors").is_file():
        return None, (folder / "error.txt").read_text()
    tensors = load_file(folder / "answer.safetensors")
    return [tensors[f"logits.{index}"] for index in range(len(LENGTHS))], ""


def known(outcomes: list[Outcome], engine_version: str) -> dict[str, Any]:
    """An entry of known_engines.json.

    A family is right if it is in every scaling that could be tried. Those with keys that other parts of a
    model read are listed for each such key.
    """
    tried: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.difference is not None:
            tried.setdefault(outcome.family, []).append(outcome)
    plain = {name: [one for one in all_ if not one.keys] or all_ for name, all_ in tried.items()}
    keys = {key for outcome in outcomes for key in outcome.keys}
    with_key = {
        key: {name: [one for one in all_ if key in one.keys] for name, all_ in tried.items()} for key in keys
    }
    wrong: dict[str, list[str]] = {}
    for name, all_ in plain.items():
        if not all(one.is_right for one in all_):
            error = next((one.reason.partition(":")[0] for one in all_ if one.reason), "")
            reason = f"it stops with a {error}" if error else "its logits differ"
            wrong.setdefault(reason, []).append(name)
    return {
        "version": engine_version,
        "date": f"{date.today():%Y-%m-%d}",
        "how": "run",
        "right": sorted(plain.keys() - {name for names in wrong.values() for name in names}),
        "wrong": wrong,
        "with": {
            key: sorted(name for name, all_ in of_key.items() if all_ and all(one.is_right for one in all_))
            for key, of_key in sorted(with_key.items())
        },
    }


def page(outcomes: dict[str, list[Outcome]], about: dict[str, Any]) -> str:
    """The dated result."""
    parts = []
    for engine, all_ in outcomes.items():
        num_right = sum(one.is_right for one in all_)
        rows = "\n".join(
            f"| {one.family} | {one.scaling} | {'' if one.difference is None else f'{one.difference:.1e}'} "
            f"| {'right' if one.is_right else one.reason or 'WRONG'} |"
            for one in all_
        )
        parts.append(
            f"## {engine} {about['engines'][engine]}\n\n{num_right} of {len(all_)} are right.\n\n"
            f"| family | scaling | difference | |\n| --- | --- | ---: | --- |\n{rows}\n"
        )
    return (
        f"# Exported families, {about['date']}\n\n`{about['command']}`, {about['processor']}, Python "
        f"{about['python']}, torch {about['torch']}. Small random models in float32; the largest difference "
        f"of logits to the same factors installed, as a share of the largest logit, at {LENGTHS[0]} and "
        f"{LENGTHS[1]} tokens (window {ORIGINAL_LENGTH}, target {TARGET_LENGTH}). Without a difference: such "
        f"a model could not be made or loaded, or differs without factors already, as its row says.\n\n"
        + "\n".join(parts)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--transformers4", metavar="PYTHON", help="of an environment with version 4")
    parser.add_argument("families", nargs="*")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            (family, scaling)
            for family in args.families or working_families()
            for scaling in ({}, SOFTMAX_SCALED, *REAL.get(family, ()))
        ]
        tried = [
            try_family(family, scaling, Path(folder) / str(index))
            for index, (family, scaling) in enumerate(cases)
        ]
        outcomes = {"transformers": [one.in_5() for one in tried]}
        versions = {"transformers": transformers.__version__}
        if args.transformers4:
            subprocess.run([args.transformers4, str(PROBE), folder], check=True)
            outcomes["transformers4"] = [one.in_4() for one in tried]
            versions["transformers4"] = transformers_4_engine(args.transformers4).version()
    about = {
        "date": f"{date.today():%Y-%m-%d}",
        "command": "python benchmarks/exported_families.py --transformers4 PYTHON",
        "engines": versions,
        "processor": processor(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }
    text = page(outcomes, about)
    if args.families:
        print(text)
        return
    rows = {name: [one.as_json() for one in all_] for name, all_ in outcomes.items()}
    result = {**about, "outcomes": rows}
    publish("exported-families", result, text, text)
    document = json.loads(KNOWN_ENGINES.read_text(encoding="utf-8"))
    document.update({name: known(all_, versions[name]) for name, all_ in outcomes.items()})
    KNOWN_ENGINES.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
