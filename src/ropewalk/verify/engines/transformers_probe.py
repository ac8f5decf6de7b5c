"""Probe of transformers 4 and 5: `probes.py` runs it with the Python of an environment that has it.

It imports nothing of Ropewalk, and returns what transformers computes, not what the configuration states.
"""

# ruff: noqa: PLC0415 (transformers is imported only if needed, and may be missing)
import importlib.metadata
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

# Python searches a script's folder first, and the `transformers.py` in this folder is not the package.
sys.path = [entry for entry in sys.path if entry != str(Path(__file__).parent)]

MISSING_CODE = 3
CHUNK_TOKENS = 256  # positions whose logits are computed at once
STILL = 1e-16  # frequencies below it belong to pairs that do not rotate


def main(arguments: list[str]) -> int:
    """Run the command line that `probes.py` describes."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    try:
        if arguments == ["--version"]:  # the version needs no import, which takes seconds
            importlib.metadata.version("torch")
            print(importlib.metadata.version("transformers"))
            return 0
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        print(error, file=sys.stderr)
        return MISSING_CODE
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    with torch.no_grad():
        write_output(request, Path(arguments[1]))
    return 0


def write_output(request: dict[str, Any], folder: Path) -> None:
    """Read every sequence and write the output."""
    import torch
    import transformers
    from safetensors.torch import save_file

    model = load_checkpoint(request["path"], getattr(torch, request["dtype"]))
    tensors: dict[str, Any] = {}
    attention_factors: list[float | None] = []
    for index, sequence in enumerate(request["sequences"]):
        logits, nats = read(model, torch.tensor([sequence]), request["num_last"])
        tensors[f"logits.{index}"] = logits.contiguous()
        tensors[f"nats.{index}"] = nats
        # The frequencies of the last forward: longrope writes them into the module each time.
        frequencies, attention_factor = shown_rotation(model)
        if frequencies is not None:
            tensors[f"inv_freq.{index}"] = frequencies
        attention_factors.append(attention_factor)
    save_file(tensors, folder / "output.safetensors")
    document = {
        "engine": "transformers",
        "version": transformers.__version__,
        "attention_factors": attention_factors,
    }
    (folder / "output.json").write_text(json.dumps(document), encoding="utf-8")


def load_checkpoint(path: str, dtype: Any) -> Any:
    """Load a folder with transformers' own attention; a configuration may name a kernel on the hub."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(path)
    for part in (config.get_text_config(decoder=True), config):
        for key in ("_attn_implementation", "_experts_implementation"):
            if hasattr(part, key):
                setattr(part, key, None)
    load_with = partial(
        transformers.AutoModelForCausalLM.from_pretrained,
        path, config=config, dtype=dtype, use_safetensors=True,
    )  # fmt: skip
    try:
        return load_with(attn_implementation="sdpa").eval()
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        return load_with(attn_implementation="eager").eval()  # gpt-oss has no other


def read(model: Any, ids: Any, num_last: int) -> tuple[Any, Any]:
    """Run one forward over the whole sequence, and the output layer over a few positions at a time.

    Returns:
        The logits of the last positions, and the NLL of each predicted token in nats.
    """
    import torch

    seen: dict[str, Any] = {}
    head = model.get_output_embeddings()

    def keep_hidden(_module: Any, inputs: tuple[Any, ...]) -> Any:
        seen["hidden"] = inputs[0]
        return (inputs[0][:, -1:],)

    handle = head.register_forward_pre_hook(keep_hidden)
    try:
        last = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    hidden, targets = seen["hidden"], ids[0, 1:]
    finish = finisher(model, head, hidden, last)
    nats, kept = [], []
    for start in range(0, hidden.shape[1], CHUNK_TOKENS):
        logits = finish(hidden[:, start : start + CHUNK_TOKENS])[0].float()
        scored = targets[start : start + CHUNK_TOKENS]
        chosen = logits[: len(scored)].to(torch.float64).log_softmax(dim=-1)
        nats.append(-chosen.gather(1, scored.unsqueeze(1)).squeeze(1))
        kept.append(logits[max(0, hidden.shape[1] - num_last - start) :])
    return torch.cat(kept)[-num_last:], torch.cat(nats)


def finisher(model: Any, head: Any, hidden: Any, last: Any) -> Any:
    """The function from hidden states to logits. Some families scale or cap logits after the output layer."""
    scaling = 1.0
    plain = head(hidden[:, -1:])
    if not close(plain, last):
        largest = int(plain.abs().argmax())
        scaling = float(last.flatten()[largest] / plain.flatten()[largest])
    cap = getattr(model.config, "final_logit_softcapping", None)

    def finish(states: Any) -> Any:
        logits = head(states)
        return (logits / cap).tanh() * cap if cap else logits * scaling

    if not close(finish(hidden[:, -1:]), last):
        raise SystemExit(f"{type(model).__name__} changes its logits in a way that this probe does not know.")
    return finish


def close(given: Any, expected: Any) -> bool:
    """Whether two tensors are equal up to rounding."""
    import torch

    return torch.allclose(given.float(), expected.float(), rtol=0, atol=1e-5 * float(expected.abs().max()))


def shown_rotation(model: Any) -> tuple[Any, float | None]:
    """Frequencies and attention factor of the model's rotary outside its layers; None if they are not found.

    If a model has a rotary per layer type, or one with buffers per layer type, those that longrope scales are
    returned.
    """
    import torch

    shown = [rotation for module in _shared_rotaries(model) for rotation in _rotations(module)]
    scaled = [rotation for rotation in shown if rotation[0] == "longrope"] or shown[:1]
    if not scaled:
        return None, None
    _, inv_freq, attention_factor = scaled[-1]
    frequencies = inv_freq.detach().to(torch.float64)
    return frequencies[frequencies > STILL].clone(), float(attention_factor)


def _shared_rotaries(model: Any) -> Any:
    for name, module in model.named_modules():
        in_layer = any(part.isdigit() for part in name.split(".")[:-1])
        if "rotary" in type(module).__name__.lower() and not in_layer:
            yield module


def _rotations(module: Any) -> Any:
    """(type, frequencies, attention factor) of each layer type of a rotary, or of all layers."""
    kinds = getattr(module, "rope_type", None)
    for layer_type, kind in (kinds if isinstance(kinds, dict) else {"": kinds}).items():
        prefix = f"{layer_type}_" if layer_type else ""
        inv_freq = getattr(module, f"{prefix}inv_freq", None)
        attention_factor = getattr(module, f"{prefix}attention_scaling", None)
        if inv_freq is not None and attention_factor is not None:
            yield kind, inv_freq, attention_factor


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
