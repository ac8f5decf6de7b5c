"""Does llama.cpp's own converter keep the factors of a Llama checkpoint? Beside `ropewalk export gguf`.

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36      # its source holds the converter
    pip install sentencepiece                                              # which the converter imports
    python benchmarks/gguf_converter.py --llama-cpp SOURCE/vendor/llama.cpp --python VENV/bin/python

The bundled model with closed-form factors in its configuration (transformers' longrope, both forms, both
lists the same) is converted twice, and llama.cpp reads what came out, on held-out documents. The one thing
that is changed about the converter: it knows tokenizers by a hash of what they make of a text, and is told
the name of this one's split; nothing about tokens matters here, since ids are fed.
"""

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from evaluator import processor, publish
from ropewalk.export.gguf.export import export_gguf, write_base_gguf
from ropewalk.export.gguf.file import read_gguf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model, load_model
from ropewalk.models.training_checkpoint import save_pinned
from ropewalk.rope.schemes import scheme_factors
from ropewalk.store import hash_file
from ropewalk.text.tokens import DocumentSet, token_documents
from ropewalk.verify.engines import EngineRequest
from ropewalk.verify.engines.llama_cpp import llama_cpp_engine

TARGET, NUM_DOCUMENTS, SCHEME = 2048, 4, "yarn"
CONVERTER = "convert_hf_to_gguf.py"
NAMED_TOKENIZER = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
sys.path.insert(1, sys.argv[1] + "/gguf-py")
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "smollm"
sys.argv = [sys.argv[1] + "/convert_hf_to_gguf.py", *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def convert(llama_cpp: Path, folder: Path, out: Path) -> list[str]:
    """Run the converter; the lines in which it speaks of the rotary."""
    arguments = [str(folder), "--outtype", "f32", "--outfile", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", NAMED_TOKENIZER, str(llama_cpp), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"The converter failed:\n{done.stderr[-2000:]}")
    return [line for line in (done.stderr + done.stdout).splitlines() if "rope" in line.lower()]


def held(path: Path) -> dict[str, Any]:
    """What a file says of its rotary: keys, and which tensors of factors it has."""
    content = read_gguf(path)
    keys = {key: value.plain for key, value in content.metadata.items() if ".rope." in key}
    tensors = [tensor.name for tensor in content.tensors if tensor.name.startswith("rope_")]
    return {"keys": keys, "tensors": tensors, "context_length": content.get("context_length")}


def read(path: Path, documents: DocumentSet, python: str) -> float:
    """Perplexity in llama.cpp."""
    sequences = tuple(tuple(document.ids.tolist()) for document in documents.documents)
    answer = llama_cpp_engine(python).run(EngineRequest(path=str(path), sequences=sequences, num_last=1))
    return math.exp(torch.cat(answer.nats).mean())


def read_by_us(loaded: Model, factors: RescaleFactors | None, documents: DocumentSet) -> float:
    """The same in transformers, with the factors installed."""
    total, count = 0.0, 0
    with loaded.using(factors), torch.no_grad():
        for document in documents.documents:
            logits = loaded.model(document.ids[None]).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, document.ids[1:], reduction="sum").item()
            count += len(document.ids) - 1
    return math.exp(total / count)


def measure(llama_cpp: Path, python: str, folder: Path) -> dict[str, Any]:
    loaded = load_model("scale-model")
    factors = scheme_factors(SCHEME, loaded.geometry, TARGET)
    documents = token_documents(
        "stdlib:held-out", loaded.tokenizer, length=TARGET, num_documents=NUM_DOCUMENTS
    )
    checkpoint, files = folder / "checkpoint", dict(files_in(folder))
    save_pinned(loaded, factors, checkpoint)
    write_base_gguf("scale-model", files["untouched"])
    said = convert(llama_cpp, checkpoint, files["llama.cpp's converter"])
    export_gguf(checkpoint, FactorSet.of([factors]), files["ropewalk export gguf"])
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("ropewalk", "torch", "transformers", "gguf")},
        "llama-cpp-python": llama_cpp_engine(python).version(),
        "converter": source_hash(llama_cpp),
        "scheme": SCHEME,
        "documents": {
            "source": documents.source,
            "number": len(documents.documents),
            "length": documents.length,
            "sha256": documents.data_sha256,
        },
        "converter_says": said,
        "held": {label: held(path) for label, path in files.items()},
        "perplexity": {label: read(path, documents, python) for label, path in files.items()},
        "perplexity_by_us": {
            "untouched": read_by_us(loaded, None, documents),
            SCHEME: read_by_us(loaded, factors, documents),
        },
    }


def files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    for index, label in enumerate(("untouched", "llama.cpp's converter", "ropewalk export gguf")):
        yield label, folder / f"{index}.gguf"


def source_hash(llama_cpp: Path) -> dict[str, str]:
    """SHA-256 of the converter's files that decide."""
    files = (CONVERTER, "conversion/base.py", "conversion/llama.py")
    return {name: hash_file(llama_cpp / name) for name in files if (llama_cpp / name).is_file()}


def page(result: dict[str, Any]) -> str:
    name = f"llama-cpp-python {result['llama-cpp-python']}"
    return (
        f"# Factors through llama.cpp's converter, {result['date']}\n\n"
        f"`python benchmarks/gguf_converter.py`: the bundled model with {result['scheme']}'s factors at "
        f"{TARGET} tokens in its config.json, converted by the converter in the source archive of {name} and "
        f"by `ropewalk export gguf`, read by {name} on {result['documents']['number']} held-out documents of "
        f"{TARGET} tokens; {result['processor']}, {result['threads']} thread(s).\n\n{table(result)}\n\n"
        f"{verdict(result)}\n\nThe converter says: `{'`, `'.join(result['converter_says'])}`\n"
    )


def table(result: dict[str, Any]) -> str:
    lines = [
        "| file | rope.scaling.type | original context | attn_factor | factor tensors | perplexity |",
        "| --- | --- | ---: | ---: | --- | ---: |",
    ]
    for label, found in result["held"].items():
        keys = {key.split(".rope.")[1]: value for key, value in found["keys"].items()}
        cells = [
            label,
            keys.get("scaling.type", "-"),
            str(keys.get("scaling.original_context_length", "-")),
            f"{keys['scaling.attn_factor']:.4f}" if "scaling.attn_factor" in keys else "-",
            "long and short" if len(found["tensors"]) == 2 else ", ".join(found["tensors"]) or "none",
            f"{result['perplexity'][label]:.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for label, value in result["perplexity_by_us"].items():
        lines.append(f"| transformers with Ropewalk, {label} | | | | | {value:.3f} |")
    return "\n".join(lines)


def verdict(result: dict[str, Any]) -> str:
    perplexity = result["perplexity"]
    converted, untouched = perplexity["llama.cpp's converter"], perplexity["untouched"]
    kept = bool(result["held"]["llama.cpp's converter"]["tensors"])
    if not kept and abs(converted - untouched) < 0.001 * untouched:
        return (
            "The converter drops the factors without an error: what it writes names longrope and reads long "
            "text as the untouched model does."
        )
    return "The converter kept the factors: docs that say it drops them need correcting."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="the folder that holds the converter")
    parser.add_argument("--python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--name", default="gguf-converter", help="of the result files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(args.llama_cpp.resolve(), args.python, Path(folder))
    publish(args.name, result, page(result), table(result))


if __name__ == "__main__":
    main()
