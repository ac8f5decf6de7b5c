"""Train the bundled scale model: the paper at 1:16, on two cores in about an hour and a half.

A Llama with a window of 256 tokens and rope_theta 625 (10000 / 16), so that 256 -> 2048 -> 16384 -> 131072
here is 4k -> 32k -> 256k -> 2048k in LongRoPE, ratio for ratio. It reads

- the standard library: the modules of the `train` split, and the test suite;
- the Python source of pinned packages (torch, transformers, ...), each once, sampled by file;
- generated retrieval: passkey prompts, and constants that are asserted again later. After the first
  1050 steps their digits weigh more than other tokens: without that, retrieval had not appeared by then.

Files that share lines with the `search` or `held_out` split are left out (some packages vendor copies).

    pip install -e . -c constraints.txt
    OMP_NUM_THREADS=2 python scripts/train_scale_model.py --out /tmp/scale-model --steps 4000

With `--shape today` it trains the second model of `benchmarks/search_race.py` instead, which has the geometry
of today's models: norms on queries and keys, and rope_theta 10000 at the same window, so that its slowest
pair spans 184 windows (the bundled model's: 12.5). It takes the bundled model's tokenizer.

    OMP_NUM_THREADS=1 python scripts/train_scale_model.py --shape today --out /tmp/today-model --steps 1600

Killed, it goes on from its last checkpoint when started again with the same arguments.
"""

import argparse
import hashlib
import json
import math
import random
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ropewalk.models.scale_model import scale_model_path
from ropewalk.text.passkey_prompt import ANSWER, FILLER, NEEDLE, QUESTION, TASK
from ropewalk.text.stdlib import TEST_FOLDERS, stdlib_files, stdlib_folder

WINDOW = 256
VOCABULARY = 2048
NUM_KEY_DIGITS = 5
NUM_PLAIN_STEPS = 1050
BOS, EOS = "<s>", "</s>"

# Each package with the bytes of source it gives; files are drawn by the seed until they are reached.
PACKAGES = {
    "torch": 12_000_000,
    "transformers": 8_000_000,
    "sympy": 6_000_000,
    "numpy": 5_000_000,
    "networkx": 3_000_000,
    "pip": 3_000_000,
    "huggingface_hub": 2_000_000,
    "pydantic": 2_000_000,
    "setuptools": 2_000_000,
    "rich": 1_000_000,
}
LIBRARY_BYTES = 16_000_000
LARGEST_FILE = 300_000
MANIFEST = "scale_model_texts.sha256"


# ---------------------------------------------------------------- text


def read_sources(files: list[Path], num_bytes: int, rng: random.Random, forbidden: set[str]) -> list[str]:
    """Whole files in random order until `num_bytes` are reached, copies of evaluation text left out."""
    texts, total = [], 0
    for file in rng.sample(files, len(files)):
        if total >= num_bytes:
            break
        if not 200 <= file.stat().st_size <= LARGEST_FILE:
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if not text.isascii() or share_of_known_lines(text, forbidden) > 0.1:
            continue
        texts.append(text)
        total += len(text)
    return texts


def telling_lines(text: str) -> set[str]:
    """Lines long enough that sharing many of them means a copy."""
    return {line.strip() for line in text.splitlines() if len(line.strip()) >= 30}


def share_of_known_lines(text: str, known: set[str]) -> float:
    lines = telling_lines(text)
    return len(lines & known) / len(lines) if lines else 0.0


def training_texts(rng: random.Random) -> tuple[list[str], list[str]]:
    """(standard library, packages): every text that the model reads apart from generated retrieval."""
    forbidden: set[str] = set()
    for split in ("search", "held_out"):
        for file in stdlib_files(split):
            forbidden |= telling_lines(file.read_text(encoding="utf-8", errors="ignore"))
    folder = stdlib_folder()
    tests = [
        file
        for file in sorted(folder.rglob("*.py"))
        if "site-packages" not in file.parts
        and not TEST_FOLDERS.isdisjoint(file.relative_to(folder).parts[:-1])
    ]
    train_files = stdlib_files("train")
    library = read_sources(train_files, LIBRARY_BYTES, rng, set())
    library += read_sources(tests, LIBRARY_BYTES - sum(map(len, library)), rng, forbidden)
    packages = []
    for name, num_bytes in PACKAGES.items():
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise SystemExit(f"The recipe reads the source of {name}, which is not installed.")
        files = sorted(Path(spec.origin).parent.rglob("*.py"))
        packages += read_sources(files, num_bytes, rng, forbidden)
    return library, packages


def write_manifest(folder: Path, texts: list[str]) -> None:
    """The hash of every text that was read, so that anyone can check a file against them."""
    digests = sorted(hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts)
    (folder / MANIFEST).write_text("\n".join(digests) + "\n")


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE in which every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def make_tokenizer(shape: str, library: list[str], packages: list[str], rng: random.Random) -> Tokenizer:
    """A new one for the bundled model; the second model takes that."""
    if shape != "scale":
        return Tokenizer.from_file(str(scale_model_path() / "tokenizer.json"))
    passkey_text = "\n".join([TASK, FILLER, NEEDLE, QUESTION])
    sample = (
        rng.sample(library, len(library) // 3)
        + rng.sample(packages, len(packages) // 10)
        + [passkey_text] * 200
    )
    return train_tokenizer(sample)


class Encoder:
    """Text to token ids without special tokens, and the two special ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.bos, self.eos = 0, 1  # in the order in which the trainer is given them

    def __call__(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


def token_stream(texts: list[str], encode: Encoder) -> np.ndarray:
    """All texts as one array of ids, each bookended with BOS and EOS."""
    ids: list[int] = []
    for encoding in encode.tokenizer.encode_batch(texts, add_special_tokens=False):
        ids += [encode.bos, *encoding.ids, encode.eos]
    return np.array(ids, dtype=np.int32)


# ---------------------------------------------------------------- rows of one window


def passkey_document(length: int, encode: Encoder, rng: random.Random) -> list[int]:
    """A passkey prompt and its answer in exactly `length` tokens, the needle at a random depth."""
    key = rng.randrange(10 ** (NUM_KEY_DIGITS - 1), 10**NUM_KEY_DIGITS)
    head = [encode.bos, *encode(TASK)]
    needle = encode("\n" + NEEDLE.format(key=key))
    tail = [*encode("\n" + QUESTION), *encode(ANSWER.format(key=key)), encode.eos]
    sentence = encode("\n" + FILLER)
    room = length - len(head) - len(needle) - len(tail)
    filler = (sentence * (room // len(sentence) + 1))[:room]
    before = rng.randrange(room + 1)
    return [*head, *filler[:before], *needle, *filler[before:], *tail]


def recall_document(length: int, encode: Encoder, code: np.ndarray, rng: random.Random) -> list[int]:
    """Constants, a stretch of code, then the same constants asserted in another order."""
    names = [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 6)))
        for _ in range(rng.randint(1, 5))
    ]
    values = {name: rng.randrange(10 ** rng.randint(2, 5), 10**6) for name in names}
    head = [encode.bos, *encode("".join(f"{n.upper()} = {v}\n" for n, v in values.items()))]
    shuffled = rng.sample(sorted(values), len(values))
    tail = [*encode("\n" + "".join(f"assert {n.upper()} == {values[n]}\n" for n in shuffled)), encode.eos]
    room = max(0, length - len(head) - len(tail))
    start = rng.randrange(len(code) - room)
    return [*head, *code[start : start + room].tolist(), *tail][:length]


class Rows:
    """Endless training rows of `WINDOW` tokens, reproducible from the seed and the step."""

    def __init__(self, streams: dict[str, np.ndarray], encode: Encoder, seed: int) -> None:
        self.streams, self.encode, self.seed = streams, encode, seed
        self.is_digit = torch.zeros(VOCABULARY, dtype=torch.bool)
        self.is_digit[[encode(str(digit))[0] for digit in range(10)]] = True

    def batch(self, step: int, num_rows: int) -> torch.Tensor:
        """Shape (num_rows, WINDOW): of 8 rows, 1 passkeys, 1 recall, 3 of the library, 3 of packages."""
        rng = random.Random(f"{self.seed}-{step}")
        rows = []
        for index in range(num_rows):
            kind = index % 8
            if kind == 0:
                rows.append(self._packed(rng))
            elif kind == 4:
                rows.append(recall_document(WINDOW, self.encode, self.streams["library"], rng))
            else:
                rows.append(self._code("library" if kind in (1, 3, 5) else "packages", rng))
        return torch.tensor([row + [self.encode.eos] * (WINDOW - len(row)) for row in rows])

    def weights(self, rows: torch.Tensor) -> torch.Tensor:
        """What each token of a batch weighs in the loss: retrieval counts, its filler hardly does."""
        weights = torch.ones(rows.shape)
        is_digit = self.is_digit[rows]
        passkeys, recall = slice(0, None, 8), slice(4, None, 8)
        weights[passkeys] = torch.where(is_digit[passkeys], 8.0, 0.05)
        # A key's first mention can't be known.
        first_mention = is_digit[passkeys] & (is_digit[passkeys].cumsum(-1) <= NUM_KEY_DIGITS)
        weights[passkeys] = weights[passkeys].masked_fill(first_mention, 0.0)
        weights[recall] = torch.where(is_digit[recall], 2.0, 1.0)
        return weights

    def _packed(self, rng: random.Random) -> list[int]:
        """One passkey document of a whole window, or two shorter ones."""
        if rng.random() < 0.6:
            return passkey_document(WINDOW, self.encode, rng)
        first = rng.randrange(110, 147)
        return passkey_document(first, self.encode, rng) + passkey_document(WINDOW - first, self.encode, rng)

    def _code(self, name: str, rng: random.Random) -> list[int]:
        """A random crop; three in four open with BOS, so that both ways of reading are in distribution."""
        stream = self.streams[name]
        start = rng.randrange(len(stream) - WINDOW)
        row: list[int] = stream[start : start + WINDOW].tolist()
        if rng.random() < 0.75:
            row = [self.encode.bos, *row[:-1]]
        return row


# ---------------------------------------------------------------- optimisation


def orthogonalise(matrices: torch.Tensor, num_iterations: int = 5) -> torch.Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix; shape (rows, columns), float32."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = x.mT if tall else x
    return result


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for weight matrices (torch's own runs in bfloat16, slow on a CPU)."""

    def __init__(self, params: list[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                buffer = self.state[param].setdefault("momentum_buffer", torch.zeros_like(param))
                buffer.lerp_(param.grad, 1 - group["momentum"])
                update = orthogonalise(param.grad.lerp(buffer, group["momentum"]))
                scale = math.sqrt(max(1.0, param.size(0) / param.size(1)))
                param.mul_(1 - group["lr"] * 0.02).add_(update, alpha=-group["lr"] * scale)


def build_model(shape: str, encode: Encoder) -> PreTrainedModel:
    """The bundled model (`scale`), or the race's second one (`today`)."""
    common = {
        "vocab_size": VOCABULARY,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "max_position_embeddings": WINDOW,
        "tie_word_embeddings": True,
        "bos_token_id": encode.bos,
        "eos_token_id": encode.eos,
        "attn_implementation": "sdpa",
    }
    rope = {"rope_type": "default", "rope_theta": 625.0 if shape == "scale" else 10_000.0}
    if shape == "scale":
        llama = LlamaConfig(hidden_size=256, intermediate_size=640, rope_parameters=rope, **common)
        return LlamaForCausalLM(llama)
    qwen3 = Qwen3Config(hidden_size=192, intermediate_size=512, rope_parameters=rope, **common)
    return Qwen3ForCausalLM(qwen3)


def next_token_loss(
    model: PreTrainedModel, rows: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean nats a token, or the mean weighted by `weights`, shape of `rows`."""
    hidden = model.model(rows, use_cache=False).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden.reshape(-1, hidden.size(-1)))
    nll = torch.nn.functional.cross_entropy(logits, rows[:, 1:].reshape(-1), reduction="none")
    if weights is None:
        return nll.mean()
    weight = weights[:, 1:].reshape(-1)
    return (nll * weight).sum() / weight.sum()


def learning_rate(step: int, num_steps: int) -> float:
    """Share of the peak: 60 steps of warm-up, flat for a tenth, then linear to zero."""
    warm, flat = 60, num_steps // 10
    return min(1.0, (step + 1) / warm, (num_steps - step) / (num_steps - flat))


# ---------------------------------------------------------------- checkpoints


def save_state(
    folder: Path, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], step: int
) -> None:
    """Weights, optimizer tensors and the step in one safetensors file, replaced atomically."""
    tensors = {f"model.{name}": value for name, value in model.named_parameters()}
    for index, optimizer in enumerate(optimizers):
        for key, entry in optimizer.state_dict()["state"].items():
            for name, value in entry.items():
                tensors[f"optimizer.{index}.{key}.{name}"] = torch.as_tensor(value)
    partial = folder / "state.partial"
    save_file(
        {name: value.detach().contiguous() for name, value in tensors.items()}, partial, {"step": str(step)}
    )
    partial.replace(folder / "state.safetensors")
    (folder / "step.json").write_text(json.dumps({"step": step}))


def load_state(folder: Path, model: PreTrainedModel, optimizers: list[torch.optim.Optimizer]) -> int:
    """The step to go on from; 0 where there is no checkpoint."""
    file = folder / "state.safetensors"
    if not file.exists():
        return 0
    tensors = load_file(file)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for index, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer" and rest.startswith(f"{index}."):
                _, key, entry = rest.split(".", 2)
                state.setdefault(int(key), {})[entry] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(json.loads((folder / "step.json").read_text())["step"])


# ---------------------------------------------------------------- the run


@torch.no_grad()
def validate(model: PreTrainedModel, rows: torch.Tensor, passkeys: torch.Tensor) -> dict[str, float]:
    """Nats a token on code that the model has not read, and on the digits of passkeys."""
    nll = next_token_loss(model, rows).item()
    logits = model(passkeys).logits[:, -8:-3]
    digits = passkeys[:, -7:-2]
    nll_digits = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.size(-1)), digits.reshape(-1)
    ).item()
    found = (logits.argmax(-1) == digits).all(-1).float().mean().item()
    return {"nll_code": nll, "nll_passkey_digits": nll_digits, "passkey_found": found}


def finish(folder: Path, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
    """The folder that `from_pretrained` reads."""
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    ).save_pretrained(folder)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    folder: Path = args.out
    folder.mkdir(parents=True, exist_ok=True)
    library, packages = training_texts(rng)
    write_manifest(folder, library + packages)
    tokenizer = make_tokenizer(args.shape, library, packages, rng)
    encode = Encoder(tokenizer)
    streams = {"library": token_stream(library, encode), "packages": token_stream(packages, encode)}
    unread = token_stream(
        [f.read_text(encoding="utf-8", errors="ignore") for f in stdlib_files("search")], encode
    )
    for name, stream in {**streams, "validation": unread}.items():
        print(f"{name}: {len(stream):,} tokens", file=sys.stderr)

    model = build_model(args.shape, encode)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", file=sys.stderr)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=args.muon_lr),
        torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    peaks = [args.muon_lr, args.adam_lr]
    rows = Rows(streams, encode, args.seed)
    starts = range(0, len(unread) - WINDOW, (len(unread) - WINDOW) // 64)
    held = torch.tensor(
        np.stack([np.r_[encode.bos, unread[s : s + WINDOW - 1]] for s in starts]), dtype=torch.long
    )
    passkeys = torch.tensor(
        [passkey_document(WINDOW, encode, random.Random(f"held-{i}")) for i in range(100)]
    )

    first = load_state(folder, model, optimizers)
    started = time.monotonic()
    mean_loss = 0.0
    for step in range(first, args.steps):
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * learning_rate(step, args.steps)
        batch = rows.batch(step, args.rows)
        weights = rows.weights(batch) if step >= NUM_PLAIN_STEPS else None
        loss = next_token_loss(model, batch, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        mean_loss = loss.item() if step == first else 0.95 * mean_loss + 0.05 * loss.item()
        done = step + 1
        if done % args.every == 0 or done == args.steps:
            record = {
                "step": done,
                "tokens": done * args.rows * WINDOW,
                "seconds": round(time.monotonic() - started, 1),
                "loss": round(mean_loss, 4),
                **{k: round(v, 4) for k, v in validate(model, held, passkeys).items()},
            }
            with (folder / "curve.jsonl").open("a") as curve:
                curve.write(json.dumps(record) + "\n")
            print(json.dumps(record), file=sys.stderr, flush=True)
            save_state(folder, model, optimizers, done)
    finish(folder, model, tokenizer)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the model, its curve and checkpoints"
    )
    parser.add_argument("--shape", choices=["scale", "today"], default="scale", help="which model")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=24, help="rows of 256 tokens a step")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.004)
    parser.add_argument("--every", type=int, default=50, help="steps between validation and checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    train(arguments())
