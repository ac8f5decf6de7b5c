"""What is mutated, and what reads it: the command line where a verb reads such a file, else the function."""

import contextlib
import gzip
import json
import platform
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import gguf
import httpx2  # noqa: F401 (what is imported here takes no seconds of a case's)
import matplotlib.font_manager  # noqa: F401
import numpy as np

import ropewalk.report.comparison
import ropewalk.report.figures  # noqa: F401
from fuzzing.mutations import RAW, VALUES, mutate_bytes, mutate_json, mutate_text
from fuzzing.watching import by_command
from ropewalk.export.gguf.compatibility import gguf_geometry, require_architecture
from ropewalk.export.gguf.file import read_gguf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.recipe.reading import FOLDER as RECIPES
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.budget import strategy_budget
from ropewalk.search.journal import Journal, read_trials
from ropewalk.search.loop import SearchLoop
from ropewalk.search.strategies import Task, make_strategy
from ropewalk.testing import QuadraticObjective, spaces
from ropewalk.text.documents import DocumentKind
from ropewalk.text.sources import read_documents
from ropewalk.verify.completions import CompletionsClient, Prompt

# Writes a mutated input into its folder and has it read: `value` or `refused`, or the error that comes of it.
Attempt = Callable[[Random], str]

LENGTHS = ("8x", "8x", "8x", "32k", "1", "0", "-8x", "1e9", "99999999999", "9" * 400, "0.0001x", "x", "")
WRONG_URLS = (
    "http://[::1",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:x",
    "127.0.0.1",
    "ftp://127.0.0.1",
    "",
)
GEOMETRY = RopeGeometry(head_dim=64, rotary_dim=64, rope_theta=625.0, original_length=256, num_layers=4)
PLAIN = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 96,
    "head_dim": 16, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "tie_word_embeddings": True, "dtype": "float32",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
HALF = [1.0 + 0.5 * pair for pair in range(8)]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "rope_theta": 1e6}
# Keys of real families; a value of None takes a key away.
FAMILIES: tuple[Mapping[str, Any], ...] = (
    {},
    {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 10000.0},
    {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 1024}},
    {"rope_parameters": None, "rope_theta": 10000.0, "original_max_position_embeddings": 1024,
     "rope_scaling": {"type": "longrope", "rope_type": "longrope", "short_factor": [1.0] * 8,
                      "long_factor": HALF, "factor": 4.0}},
    {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "factor": 4.0,
                         "long_factor": HALF, "original_max_position_embeddings": 1024,
                         "attention_factor": 1.1}, "original_max_position_embeddings": 1024},
    {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rope_parameters": YARN,
     "use_sliding_window": False, "sliding_window": 1024, "max_window_layers": 2},
    {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "original_max_position_embeddings": 1024,
     "rope_parameters": None, "rope_theta": 10000.0, "pad_token_id": 0, "partial_rotary_factor": 1.0,
     "rope_scaling": {"type": "su", "short_factor": [1.0] * 8, "long_factor": HALF}},
    {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "sliding_window": 512,
     "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16,
     "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                         "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}},
    {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "num_local_experts": 2,
     "num_experts_per_tok": 1, "sliding_window": 128, "rope_parameters": {**YARN, "truncate": False},
     "layer_types": ["sliding_attention", "full_attention"]},
    {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "qk_rope_head_dim": 16,
     "qk_nope_head_dim": 16, "v_head_dim": 16, "kv_lora_rank": 16, "q_lora_rank": 16, "n_routed_experts": 4,
     "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, "n_group": 1, "topk_group": 1},
    {"model_type": "hunyuan_v1_dense", "architectures": ["HunYuanDenseV1ForCausalLM"],
     "rope_parameters": {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 1e4}},
    {"model_type": "granitemoehybrid", "architectures": ["GraniteMoeHybridForCausalLM"],
     "position_embedding_type": "nope", "layer_types": ["attention", "attention"]},
    {"model_type": "stablelm", "architectures": ["StableLmForCausalLM"], "partial_rotary_factor": 0.25},
    {"model_type": "kimi_k2", "architectures": ["KimiK2ForCausalLM"], "qk_rope_head_dim": 16,
     "rope_parameters": None, "rope_theta": 5e4,
     "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
)  # fmt: skip


def configs(folder: Path) -> Attempt:
    """`config.json` of a folder without weights."""
    samples = [
        {key: value for key, value in {**PLAIN, **family}.items() if value is not None} for family in FAMILIES
    ]

    def attempt(random: Random) -> str:
        path = folder / "config.json"
        path.write_bytes(mutate_json(random, random.choice(samples)))
        return by_command(
            *random.choice(
                (
                    ("inspect", folder, "--target-length", random.choice(LENGTHS)),
                    ("inspect", folder, "--json"),
                    ("factors", "convert", path),
                    ("factors", "convert", path, "--out", folder / f"{random.randrange(10**9)}.json"),
                )
            )
        )

    return attempt


def factors(folder: Path) -> Attempt:
    """Factors files, factor sets and bare columns of numbers."""
    long = scheme_factors("yarn", GEOMETRY, 2048)
    both = FactorSet.of([scheme_factors("ntk:factor=1.5", GEOMETRY, 256), long.replace(num_start_tokens=4)])
    samples = [json.loads(long.to_json()), json.loads(both.to_json())]
    column = "\n".join(map(str, long.array()[0]))
    geometry = ("--rope-theta", "625", "--rotary-dim", "64", "--num-layers", "4", "--original-length", "256")

    def attempt(random: Random) -> str:
        if random.random() < 0.15:
            path = folder / "column.csv"
            path.write_bytes(mutate_text(random, column))
            return by_command(
                "factors", "convert", path, *geometry, "--target-length", random.choice(LENGTHS)
            )
        path = folder / "factors.json"
        path.write_bytes(mutate_json(random, random.choice(samples)))
        return by_command(
            *random.choice(
                (
                    ("factors", "show", path),
                    ("factors", "show", path, "--json"),
                    ("factors", "check", path),
                    ("factors", "check", path, "--model", "scale-model"),
                )
            )
        )

    return attempt


def journals(folder: Path) -> Attempt:
    """Journals of searches without a model, read for a report and resumed."""
    space, budget = spaces()["spline, monotone, all searched"], 24.0
    path = folder / "journal.jsonl"

    def search(name: str) -> None:
        objective = QuadraticObjective(space)
        task = Task(
            space=space,
            seed=0,
            budget=strategy_budget(budget, objective, space),
            num_documents=objective.num_documents,
            gradient_cost=objective.gradient_cost,
        )
        with Journal(path) as journal:
            journal.begin({"strategy": name, "space": space.as_dict()}, {"python": "3"})
            SearchLoop(make_strategy(name, task), objective, journal, budget=budget).run()

    samples = {}
    for name in ("evolution", "gradient", "hybrid"):
        path.unlink(missing_ok=True)
        search(name)
        samples[name] = path.read_bytes().splitlines(keepends=True)

    def attempt(random: Random) -> str:
        name = random.choice(list(samples))
        lines = list(samples[name])
        index = random.choice((0, random.randrange(len(lines)), random.randrange(len(lines))))
        if random.random() < 0.7:
            lines[index] = mutate_json(random, json.loads(lines[index])).replace(b"\n", b"") + b"\n"
        else:
            lines = random.choice((lines[:index], lines + lines[index:], lines[index:], lines[::-1]))
        content = b"".join(lines)
        path.write_bytes(mutate_bytes(random, content) if random.random() < 0.3 and content else content)
        if random.random() < 0.3:
            read_trials(path)
        else:
            search(name)
        return "value"

    return attempt


def recipes(folder: Path) -> Attempt:
    """Recipes for the bundled model, as `recipe check` and `--set` take them."""
    samples = [path.read_text(encoding="utf-8") for path in sorted(RECIPES.glob("scale-model-*.yaml"))]
    changes = (
        "search.budget",
        "stages.0.length",
        "model.name",
        "text.num_documents",
        "accept.passkey",
        "stages",
        "a..b",
    )

    def attempt(random: Random) -> str:
        path = folder / "recipe.yaml"
        path.write_bytes(mutate_text(random, random.choice(samples)))
        changed: tuple[str, ...] = ()
        if random.random() < 0.3:
            value = str(random.choice(VALUES))
            value = RAW.get(value, value)[:10_000]
            changed = ("--set", f"{random.choice(changes)}={value}")
        return by_command("recipe", "check", path, *changed)

    return attempt


def gguf_headers(folder: Path) -> Attempt:
    """A small Llama's GGUF file, of which the header is mutated."""
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_feed_forward_length(64)
    writer.add_rope_freq_base(625.0)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{index}" for index in range(32)])
    writer.add_token_merges(["t 1", "t 2"])
    writer.add_tensor("token_embd.weight", np.zeros((32, 64), np.float32))
    writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    sample = path.read_bytes()
    header = sample.find(b"output_norm.weight") + 64

    def attempt(random: Random) -> str:
        path.write_bytes(mutate_bytes(random, sample, within=header))
        if random.random() < 0.5:
            return by_command("inspect", path)
        content = read_gguf(path)
        require_architecture(content)
        gguf_geometry(content)
        return "value"

    return attempt


def texts(folder: Path) -> Attempt:
    """Rows of `.jsonl`, plain and chat, and text files."""
    rows = [
        {"text": f"line {number} of the rope, and more of it. " * 20, "topic": "rope"} for number in range(4)
    ]
    chats = [
        {
            "messages": [
                {"role": "user", "content": "how long?"},
                {"role": "assistant", "content": str(number)},
            ]
        }
        for number in range(4)
    ]

    def attempt(random: Random) -> str:
        kind: DocumentKind = random.choice(("text", "text", "chat"))
        lines = [json.dumps(row).encode() for row in (chats if kind == "chat" else rows)]
        index = random.randrange(len(lines))
        lines[index] = mutate_json(random, json.loads(lines[index]))
        path = folder / random.choice(("rows.jsonl", "rows.jsonl", "rows.jsonl", "rows.txt"))
        content = b"\n".join(lines)
        path.write_bytes(mutate_bytes(random, content) if random.random() < 0.3 else content)
        if random.random() < 0.3:
            for document in read_documents(str(path), kind=kind):
                list(document.stretches())
            return "value"
        join = random.choice(("none", "topic", "folder")) if kind == "text" else "none"
        return by_command("text", "describe", path, "--kind", kind, "--join", join)

    return attempt


def replies(folder: Path) -> Attempt:
    """Replies of a server on this machine, to the list of its models and to a prompt."""
    models = {"object": "list", "data": [{"id": "mine", "object": "model", "created": 1, "owned_by": "me"}]}
    places = [
        {"id": 318, "token": " is", "logprob": -0.5, "top_logprobs": [{"id": 318, "logprob": -0.5}]}
    ] * 8
    usage = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
    forms: tuple[dict[str, Any], ...] = (
        {"tokens": ["token_id:318"] * 8, "top_logprobs": [{"token_id:318": -0.5, "token_id:7": -2.0}] * 8},
        {"tokens": [" is"] * 8, "top_logprobs": [{" is": -0.5, " was": -2.0}] * 8},
        {"content": places},
    )
    server = _Server()
    platform.processor()  # what the client asks a program of the system for, once

    def attempt(random: Random) -> str:
        choice = {"index": 0, "text": " is" * 8, "finish_reason": "length", "logprobs": random.choice(forms)}
        completion = {"id": "c", "object": "text_completion", "created": 1, "model": "mine",
                      "choices": [choice], "usage": usage}  # fmt: skip
        good = {"GET": json.dumps(models).encode(), "POST": json.dumps(completion).encode()}
        server.answers = {method: (200, body, "") for method, body in good.items()}
        method = random.choice(("GET", "POST", "POST"))
        server.answers[method] = (
            random.choice((200,) * 12 + (204, 301, 400, 401, 404, 422, 429, 500, 503)),
            mutate_json(random, models if method == "GET" else completion),
            random.choice(("",) * 40 + ("short", "long", "gzip", "no gzip", "drip", "flood")),
        )
        url = random.choice((server.url,) * 20 + WRONG_URLS)
        CompletionsClient(url, timeout_s=1.0).complete(Prompt(ids=(1, 2, 3), text="a b c"), 8)
        return "value"

    return attempt


class _Server:
    """A server on this machine.

    Attributes:
        answers: method to status, body, and how the answer misbehaves.
    """

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes, str]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self, *outer.answers["GET"])

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer(self, *outer.answers["POST"])

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"


def answer(request: BaseHTTPRequestHandler, status: int, body: bytes, manner: str) -> None:
    """Answer a request; a client that goes away is within its rights."""
    if manner == "gzip":
        body = gzip.compress(b"[" + b"0," * 50_000_000, 1)
    length = len(body) + {"short": 100, "long": -len(body) // 2}.get(manner, 0)
    with contextlib.suppress(OSError):
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        if "gzip" in manner:
            request.send_header("Content-Encoding", "gzip")
        if manner not in ("drip", "flood"):
            request.send_header("Content-Length", str(length))
        request.end_headers()
        request.wfile.write(body)
        end = time.monotonic() + (60 if manner in ("drip", "flood") else 0)
        while time.monotonic() < end:
            request.wfile.write(b" " * (1 if manner == "drip" else 2**20))
            time.sleep(0.2 if manner == "drip" else 0)


# The cases of each kind in a whole run.
KINDS: Mapping[str, tuple[Callable[[Path], Attempt], int]] = {
    "configs": (configs, 6000),
    "factors": (factors, 4000),
    "journals": (journals, 3500),
    "recipes": (recipes, 2500),
    "gguf": (gguf_headers, 1500),
    "texts": (texts, 1500),
    "replies": (replies, 1000),
}
