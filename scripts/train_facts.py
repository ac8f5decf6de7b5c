"""Teach a bundled-size model to answer questions about facts, and train it further on code.

`train_scale_model.py` gives a model that knows code and one memorised passkey prompt. This script continues
from its folder. Of 16 rows, 5 are plain code (2 of them the beginnings of documents), 1 is a passkey prompt,
and the others hide facts in code: half of them 1 to 6 facts of which up to 5 are asked for, half as many
facts, all asked for, as fit. One wording in four is one of `ropewalk.text.wordings.WORDINGS`; the others are
drawn from the frames, attributes and questions below, or consist of random words of the training texts. Many
questions repeat words of the statement in another order, so that the model learns to follow the key rather
than the words before the value. No row has a wording of `HELD_OUT_WORDINGS`, and the random words and
attributes are none of theirs.

Answers have a weight of 8 in the loss, questions and statements 0.05.

    OMP_NUM_THREADS=1 python scripts/train_facts.py --model FOLDER --out /tmp/scale-model

Killed, it continues from its last checkpoint when started again with the same arguments.
"""

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ropewalk.text.facts import Fact, draw_facts, fact_text
from ropewalk.text.stdlib import stdlib_files
from ropewalk.text.wordings import HELD_OUT_WORDINGS, NAMES, SURNAMES, WORDINGS, WORDS, Wording
from train_scale_model import (
    WINDOW,
    Encoder,
    Muon,
    Rows,
    finish,
    load_state,
    next_token_loss,
    passkey_document,
    save_state,
    token_stream,
    training_texts,
    validate,
    write_manifest,
)

ANSWER_WEIGHT, FRAME_WEIGHT = 8.0, 0.05
CODE_ROWS = (0, 6, 12)  # of 16
BEGINNING_ROWS = (3, 9)
MOST_FACTS = 10
FEWEST_TEXT_TOKENS = 4

# fmt: off
ATTRIBUTES = (
    "number", "name", "sign", "key", "port", "level", "score", "price", "rank", "total", "index",
    "offset", "default", "width", "height", "version", "phrase", "colour", "limit", "address", "answer",
    "weight", "seed", "channel", "room", "ticket", "code", "value", "tag", "token", "id", "title",
    "alias", "state", "mode", "result", "count", "date", "target", "symbol", "word", "figure",
    "reference", "pin", "licence", "flag", "shelf", "seat",
)
OBJECTS = (
    "box", "desk", "gate", "house", "letter", "locker", "car", "bag", "page", "file", "room", "ship",
    "card", "book", "machine", "server", "folder", "form", "shelf", "lamp", "tool", "phone", "sheet",
    "cell", "plan", "lock",
)
FRAMES = (
    ("The {a} of {key} is {value}.", "The {a} of {key} is"),
    ("The {a} of {key} is {value}.", "What is the {a} of {key}? It is"),
    ("The {a} of {key} is {value}.", "Question: what is the {a} of {key}?\nAnswer:"),
    ("{key} has the {a} {value}.", "{key} has the {a}"),
    ("{key} has the {a} {value}.", "Which {a} does {key} have? It has"),
    ("{key} has {value} as its {a}.", "The {a} of {key} is"),
    ("{value} is the {a} of {key}.", "The {a} of {key} is"),
    ("{value} is the {a} of {key}.", "{key} has the {a}"),
    ("{value} is what {key} uses as {a}.", "As {a}, {key} uses"),
    ("{value}, said {key}, is the {a}.", "Which {a} did {key} say? It was"),
    ("For {key}, the {a} was set to {value}.", "The {a} was set for {key}. It is"),
    ("For {key} we use the {a} {value}.", "Which {a} do we use for {key}? We use"),
    ("Use {value} for the {a} of {key}.", "For the {a} of {key}, use"),
    ("# {a} of {key}: {value}", "# the {a} of {key} is"),
    ("# {key}: {a} {value}", "# {key} has the {a}"),
    ("# NOTE: {key} needs the {a} {value}", "# {key} needs the {a}"),
    ("{key}.{a} = {value}", "print({key}.{a})  #"),
    ("{a}[\"{key}\"] = {value}", "assert {a}[\"{key}\"] =="),
    ("{key}: {value}", "{key}:"),
    ("{key} -> {value}", "{key} ->"),
    ("- {key}: {value}", "In the list, {key} has"),
    ("{key}, {value}", "After {key} comes"),
    ("<{key}>{value}</{key}>", "The element {key} contains"),
    ("The {o} of {key} carries the {a} {value}.", "The {a} on the {o} of {key} is"),
    ("The {o} of {key} carries the {a} {value}.", "Which {a} does the {o} of {key} carry? It carries"),
    ("On the {o} of {key} you can read {value}.", "What can you read on the {o} of {key}? You can read"),
    ("{key} wrote {value} on the {o}.", "What did {key} write on the {o}? It was"),
    ("{key} wrote {value} on the {o}.", "On the {o}, {key} wrote"),
    ("We found {value} in the {o} of {key}.", "In the {o} of {key} we found"),
    ("In the {o} of {key} lies {value}.", "What lies in the {o} of {key}? There lies"),
    ("Give {value} to {key} at the {o}.", "What should be given to {key}? Give"),
    ("When you see {key}, say {value}.", "When you see {key}, say"),
    ("{key} likes {value} most.", "What does {key} like most? It likes"),
    ("{key} was replaced by {value}.", "By what was {key} replaced? By"),
    ("{key} belongs to {value}.", "To what does {key} belong? To"),
    ("Next to {key} is {value}.", "What is next to {key}? It is"),
    ("From {key} we got the {a} {value}.", "The {a} that we got from {key} was"),
    ("The {a} that {key} gave us was {value}.", "The {a} that {key} gave us was"),
    ("The {o}, number {value}, is for {key}.", "The number of the {o} for {key} is"),
    ("If {key} asks, the {a} is {value}.", "What is the {a} if {key} asks? It is"),
)
FILLERS = (
    "the", "a", "of", "to", "in", "is", "for", "and", "was", "has", "with", "on", "by", "as", "that",
    "it", "at", "from", "this", "our", "their", "new", "old", "first", "last", "then", "now", "only",
    "always", "gets", "takes", "shows", "reads", "keeps", "holds", "means", "says", "stores", "returns",
    "chose", "called", "wrote", "used",
)
# fmt: on
LEADS = (
    "It is",
    "The answer is",
    "Answer:",
    "Here it is:",
    "That is",
    "This is",
    "It was",
    "We have",
    "One finds",
    "You get",
    "It says",
    "They say",
    "It shows",
    "namely",
    "It gives",
    "The result:",
    "We know it:",
    "It has",
    "There is",
    "It must be",
    "I think it is",
    "Of course",
    "Well,",
    "They took",
    "It got",
    "He said",
    "She wrote",
    "It returned",
    "We chose",
    "It holds",
    "It keeps",
    "They want",
    "I read",
    "We saw",
    "It became",
    "It equals",
)
SUBJECTS = (
    "It",
    "They",
    "We",
    "He",
    "She",
    "One",
    "You",
    "There",
    "In it",
    "On it",
    "With it",
    "After it",
    "Near it",
    "Under it",
    "Here",
    "Then they",
    "So we",
    "And it",
    "This",
    "That one",
    "The answer",
    "The result",
)
ASKING = (
    "What about {key}?",
    "And {key}?",
    "What do you know of {key}?",
    "Tell me about {key}.",
    "Look up {key}.",
    "Which {a} goes with {key}?",
    "What was said about {key}?",
    "For {key}:",
    "Now {key}.",
    "Do you remember {key}?",
    "What does {key} have?",
    "Which one is for {key}?",
    "What is it for {key}?",
    "Find the {a} of {key}.",
    "Look at the {o} of {key}.",
    "What is in the {o} of {key}?",
    "Where {key} is concerned:",
    "{key}, please.",
)
WORD = re.compile(r"\b[a-z]{2,9}\b")
SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "zo", "ran", "lim")


class Words:
    """Words of the training texts, for sentences that no list contains."""

    pool: tuple[str, ...] = FILLERS

    @classmethod
    def read(cls, texts: list[str]) -> None:
        counts = Counter(word for text in texts for word in WORD.findall(text))
        held_out = {word for wording in HELD_OUT_WORDINGS for word in WORD.findall(wording.statement)}
        held_out |= {word for wording in HELD_OUT_WORDINGS for word in WORD.findall(wording.question)}
        known = [word for word, count in counts.items() if count >= 30 and word not in held_out]
        cls.pool = tuple(sorted(known))

    @classmethod
    def some(cls, fewest: int, most: int, rng: random.Random) -> list[str]:
        """Half of them frequent words of sentences."""
        return [
            rng.choice(FILLERS if rng.random() < 0.4 else cls.pool) for _ in range(rng.randint(fewest, most))
        ]


def framed_wording(rng: random.Random) -> Wording:
    """A frame with its attribute and object filled in; half of them with another question."""
    statement, question = rng.choice(FRAMES)
    thing = rng.choice(OBJECTS if rng.random() < 0.5 else Words.pool)
    attribute = rng.choice(ATTRIBUTES if rng.random() < 0.5 else Words.pool)
    fill = {"a": attribute, "o": thing, "key": "{key}", "value": "{value}"}
    kind = rng.random()
    if kind < 0.2:
        question = rng.choice(FRAMES)[1]
    elif kind < 0.5:
        own = WORD.findall(statement.format(**{**fill, "key": "", "value": ""}))
        question = f"{rng.choice(ASKING)} {lead(own, rng)}"
    return Wording(name="frame", statement=statement.format(**fill), question=question.format(**fill))


def lead(own: list[str], rng: random.Random) -> str:
    """What an answer begins with: a phrase, random words, or words of the statement (`own`)."""
    kind = rng.random()
    if kind < 0.4 and own:
        words = rng.sample(own, min(len(own), rng.randint(1, 2)))
        return " ".join([*Words.some(0, 2, rng), *words]).capitalize()
    if kind < 0.6:
        return rng.choice(LEADS)
    if kind < 0.8:
        return f"{rng.choice(SUBJECTS)} {' '.join(Words.some(1, 2, rng))}"
    return " ".join(Words.some(1, 4, rng)).capitalize()


def random_wording(rng: random.Random) -> Wording:
    """Random words around the key and the value; the question has some of them, or none."""
    between, before, after = Words.some(0, 4, rng), Words.some(0, 3, rng), Words.some(0, 3, rng)
    parts = ["{key}", "{value}"] if rng.random() < 0.65 else ["{value}", "{key}"]
    statement = " ".join([*before, parts[0], *between, parts[1], *after])
    own = [*before, *between, *after]
    kind = rng.random()
    if kind < 0.25:
        asked = [*before, "{key}", *between]
    elif kind < 0.65:
        asked = [*rng.sample(own, rng.randint(0, len(own))), *Words.some(0, 2, rng)]
        asked.insert(rng.randint(0, len(asked)), "{key}")
    elif kind < 0.75:
        asked = [*between, "{key}"]
    else:
        asked = [*Words.some(0, 3, rng), "{key}", *Words.some(0, 4, rng)]
    if rng.random() < 0.5:
        asked = [*asked, "?", lead(own, rng)]
    return Wording(
        name="random",
        statement=statement + rng.choice((".", "", ";")),
        question=" ".join(asked).replace(" ?", "?"),
    )


def make_wording(rng: random.Random) -> Wording:
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(WORDINGS)
    return framed_wording(rng) if kind < 0.6 else random_wording(rng)


def invented(rng: random.Random) -> str:
    return "".join(rng.choices(SYLLABLES, k=rng.randint(2, 3)))


def make_key(rng: random.Random) -> str:
    """Names and identifiers as in evaluation, and others."""
    kind = rng.randrange(7)
    if kind < 2:
        return f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"
    if kind < 4:
        return f"{rng.choice(WORDS)}_{rng.choice(WORDS)}"
    if kind == 4:
        return invented(rng).capitalize() + (f" {invented(rng).capitalize()}" if rng.random() < 0.5 else "")
    if kind == 5:
        return f"{rng.choice(WORDS)}_{invented(rng)}".upper() if rng.random() < 0.5 else invented(rng)
    return rng.choice(NAMES) if rng.random() < 0.5 else f"{rng.choice(OBJECTS)}{rng.randrange(100)}"


def make_value(rng: random.Random) -> str:
    """Numbers, words and hexadecimal numbers as in evaluation, and others."""
    kind = rng.randrange(8)
    if kind < 3:
        return str(rng.randrange(10 ** (digits := rng.randint(2, 7)), 10 ** (digits + 1)))
    if kind < 5:
        return rng.choice(WORDS) if rng.random() < 0.6 else invented(rng)
    if kind < 7:
        return rng.choice("abcdef") + "".join(rng.choices("0123456789abcdef", k=rng.randint(3, 7)))
    return f"{rng.choice(WORDS)} {rng.choice(WORDS)}"


def make_facts(count: int, rng: random.Random) -> list[Fact]:
    """Facts whose keys and values differ; often of one wording, so that only the key tells them apart."""
    same = make_wording(rng) if rng.random() < 0.4 else None
    facts: dict[str, Fact] = {}
    while len(facts) < count:
        fact = Fact(
            wording=same or make_wording(rng), key=make_key(rng), value=make_value(rng),
            key_kind="name", value_kind="word",
        )  # fmt: skip
        if all(fact.value != other.value for other in facts.values()):
            facts[fact.key] = fact
    return list(facts.values())


class Beginnings:
    """Rows from the first token of a document."""

    def __init__(self, stream: np.ndarray, bos: int) -> None:
        starts = np.flatnonzero(stream == bos)
        self.stream, self.starts = stream, starts[starts < len(stream) - WINDOW]

    def row(self, rng: random.Random) -> list[int]:
        start = int(self.starts[rng.randrange(len(self.starts))])
        row: list[int] = self.stream[start : start + WINDOW].tolist()
        return row


class FactRows:
    """Rows of `WINDOW` tokens with facts, and the weight of each token in the loss."""

    def __init__(self, encode: Encoder, streams: dict[str, np.ndarray]) -> None:
        self.encode, self.streams = encode, streams
        self.beginnings = {name: Beginnings(stream, encode.bos) for name, stream in streams.items()}

    def row(self, dense: bool, rng: random.Random) -> tuple[list[int], list[float]]:
        """As many facts as fit, all asked for (`dense`), or 1 to 6 of which up to 5 are asked for."""
        facts = make_facts(MOST_FACTS if dense else rng.randint(1, 6), rng)
        most_asked = len(facts) if dense else rng.randint(1, 5)
        while True:
            asked = rng.sample(range(len(facts)), min(len(facts), most_asked))
            if self._num_tokens(facts, asked) <= WINDOW - FEWEST_TEXT_TOKENS:
                return self._place(facts, asked, rng)
            facts.pop()

    def _num_tokens(self, facts: list[Fact], asked: list[int]) -> int:
        stated = sum(len(self.encode(fact.statement)) for fact in facts)
        return stated + sum(len(self.encode(facts[i].question + facts[i].answer)) + 1 for i in asked)

    def _place(
        self, facts: list[Fact], asked: list[int], rng: random.Random
    ) -> tuple[list[int], list[float]]:
        name = "library" if rng.random() < 0.5 else "packages"
        if rng.random() < 0.4:
            document = self.beginnings[name].row(rng)
        else:
            start = rng.randrange(len(self.streams[name]) - WINDOW)
            document = [self.encode.bos, *self.streams[name][start : start + WINDOW - 1].tolist()]
        depths = sorted(rng.random() for _ in facts)
        placed = fact_text(document, WINDOW, facts, depths, asked, self.encode)
        weights = np.full(WINDOW, FRAME_WEIGHT)
        weights[list(placed.text)] = 1.0
        for positions in placed.answers:
            weights[list(positions)] = ANSWER_WEIGHT
        return list(placed.ids), weights.tolist()


def batch(
    step: int, seed: int, num_rows: int, rows: Rows, facts: FactRows
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and weights, shape (num_rows, WINDOW): of 16 rows, 5 code, 1 passkeys, 10 facts."""
    rng = random.Random(f"facts-{seed}-{step}")
    ids: list[list[int]] = []
    weights: list[list[float]] = []
    for index in range(num_rows):
        name = "library" if rng.random() < 0.5 else "packages"
        if index % 16 in CODE_ROWS + BEGINNING_ROWS:
            plain = index % 16 in CODE_ROWS
            ids.append(rows._code(name, rng) if plain else facts.beginnings[name].row(rng))
            weights.append([1.0] * WINDOW)
        elif index % 16 == 1:
            ids.append(rows._packed(rng))
            weights.append(passkey_weights(rows, ids[-1]))
        else:
            row, weight = facts.row(index % 2 == 0, rng)
            ids.append(row)
            weights.append(weight)
    return torch.tensor(ids), torch.tensor(weights, dtype=torch.float32)


def passkey_weights(rows: Rows, row: list[int]) -> list[float]:
    """As in the first training: digits count, but not where a key is mentioned first."""
    return list(rows.weights(torch.tensor([row]))[0].tolist())


@torch.no_grad()
def exact_answers(
    model: torch.nn.Module, encode: Encoder, code: np.ndarray, wordings: tuple[Wording, ...], count: int
) -> float:
    """The share of answers of which every token is the most likely one, over 200 texts of one window."""
    right = total = 0
    for index in range(200 // count):
        rng = random.Random(f"held-{index}-{count}")
        facts = draw_facts(count, rng, wordings=wordings)
        start = rng.randrange(len(code) - WINDOW)
        document = [encode.bos, *code[start : start + WINDOW - 1].tolist()]
        placed = fact_text(
            document,
            WINDOW,
            facts,
            sorted(rng.random() for _ in facts),
            rng.sample(range(count), count),
            encode,
        )
        ids = torch.tensor([placed.ids])
        best = model(ids).logits[0].argmax(-1)
        for positions in placed.answers:
            right += all(int(best[p - 1]) == placed.ids[p] for p in positions)
            total += 1
    return right / total


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    folder: Path = args.out
    folder.mkdir(parents=True, exist_ok=True)
    library, packages = training_texts(random.Random(args.seed))
    write_manifest(folder, library + packages)
    Words.read(library + packages)
    hub_tokenizer = AutoTokenizer.from_pretrained(args.model)
    encode = Encoder(hub_tokenizer.backend_tokenizer)
    streams = {"library": token_stream(library, encode), "packages": token_stream(packages, encode)}
    unread = token_stream(
        [f.read_text(encoding="utf-8", errors="ignore") for f in stdlib_files("search")], encode
    )
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation="sdpa")
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    if args.muon_lr > 0:
        optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=args.muon_lr),
            torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        peaks = [args.muon_lr, args.adam_lr]
    else:
        optimizers = [
            torch.optim.AdamW(matrices + others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
        ]
        peaks = [args.adam_lr]
    rows, facts = Rows(streams, encode, args.seed), FactRows(encode, streams)
    starts = range(0, len(unread) - WINDOW, (len(unread) - WINDOW) // 128)
    held = torch.tensor(
        np.stack([np.r_[encode.bos, unread[s : s + WINDOW - 1]] for s in starts]), dtype=torch.long
    )
    passkeys = torch.tensor(
        [passkey_document(WINDOW, encode, random.Random(f"held-{i}")) for i in range(100)]
    )

    first = load_state(folder, model, optimizers)
    started, mean_loss = time.monotonic(), 0.0
    for step in range(first, args.steps):
        share = min(1.0, (step + 1) / 50, (args.steps - step) / (0.9 * args.steps))
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * share
        ids, weights = batch(step, args.seed, args.rows, rows, facts)
        loss = next_token_loss(model, ids, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        mean_loss = loss.item() if step == first else 0.95 * mean_loss + 0.05 * loss.item()
        done = step + 1
        if done == 1 or done % args.every == 0 or done == args.steps:
            answers = {
                f"{name}_{count}": exact_answers(model, encode, unread, wordings, count)
                for name, wordings in (("known", WORDINGS), ("held_out", HELD_OUT_WORDINGS))
                for count in (1, 4)
            }
            record = {
                "step": done,
                "tokens": done * args.rows * WINDOW,
                "seconds": round(time.monotonic() - started, 1),
                "loss": round(mean_loss, 4),
                **{k: round(v, 4) for k, v in {**validate(model, held, passkeys), **answers}.items()},
            }
            with (folder / "curve.jsonl").open("a") as curve:
                curve.write(json.dumps(record) + "\n")
            print(json.dumps(record), file=sys.stderr, flush=True)
            save_state(folder, model, optimizers, done)
    finish(folder, model, encode.tokenizer)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of the model to continue from")
    parser.add_argument("--out", type=Path, required=True, help="folder for model and checkpoints")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--rows", type=int, default=32, help="rows of 256 tokens a step")
    parser.add_argument("--muon-lr", type=float, default=0.008)
    parser.add_argument("--adam-lr", type=float, default=0.0015)
    parser.add_argument("--every", type=int, default=100, help="steps between validation and checkpoint")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


if __name__ == "__main__":
    train(arguments())
