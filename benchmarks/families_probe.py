"""The logits of many folders by this environment's transformers, in one process; needs nothing of Ropewalk.

    python families_probe.py FOLDER

Each folder below FOLDER that has a `tokens.json` (a list of texts) is a checkpoint; `answer.safetensors` with
`logits.0`, `logits.1`, ... or `error.txt` is written beside it.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    for request in sorted(Path(sys.argv[1]).rglob("tokens.json")):
        folder = request.parent
        try:
            model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
            with torch.no_grad():
                logits = [model(torch.tensor([text])).logits[0] for text in json.loads(request.read_text())]
        except Exception as error:  # whatever a family's own code raises is the answer
            text = " ".join(str(error).split())
            (folder / "error.txt").write_text(f"{type(error).__name__}: {text[:100]}")
        else:
            named = {f"logits.{index}": tensor.contiguous() for index, tensor in enumerate(logits)}
            save_file(named, folder / "answer.safetensors")


if __name__ == "__main__":
    main()
