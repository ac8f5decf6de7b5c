"""A model small enough to search in a second, in a folder as a user has one, and texts to go with it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ropewalk.cli.main import run
from ropewalk.text.passkey_prompt import FILLER, NEEDLE, QUESTION, TASK

WINDOW = 128
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def err_lines(self) -> list[str]:
        """What a user reads; a weight loader's progress bar is not ours."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return [line for line in lines if "Loading weights" not in line]


Ropewalk = Callable[..., Ended]


@pytest.fixture
def ropewalk(capfd: pytest.CaptureFixture[str]) -> Ropewalk:
    """Run a command line in this process, as `ropewalk.cli.main.run` does for the installed program."""

    def in_process(*arguments: object) -> Ended:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return Ended(code, *capfd.readouterr())

    return in_process


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a command line as a process of its own, in an empty folder; none outlives the test."""
    processes: list[subprocess.Popen[str]] = []

    def started(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "ropewalk", *map(str, arguments)],
            cwd=tmp_path, env={**os.environ, **QUIET}, text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": heed_ctrl_c, **options},
        )  # fmt: skip
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        with process:  # closes its pipes, waits
            pass


def heed_ctrl_c() -> None:
    """A job that a shell starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a window of 128; its tokenizer makes the passkey prompt short enough for it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([TASK, FILLER, NEEDLE.format(key=123), QUESTION] * 50, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=WINDOW, rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        initializer_range=0.3, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def books(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four texts, one of them too short."""
    folder = tmp_path_factory.mktemp("books")
    for number in range(3):
        words = " ".join(
            f"chapter {number} line {line}: the rope is {line * 7 % 11} long." for line in range(200)
        )
        (folder / f"book-{number}.txt").write_text(words)
    (folder / "short.txt").write_text("too short")
    return folder


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of twelve texts, enough for the three sets of a small search."""
    file = tmp_path_factory.mktemp("shelf") / "texts.jsonl"
    texts = [
        " ".join(f"volume {number} line {line}: {line * number % 13} ropes." for line in range(200))
        for number in range(12)
    ]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file
