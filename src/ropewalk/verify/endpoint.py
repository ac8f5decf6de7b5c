"""Whether a running server computes what Ropewalk computes, alone and with other requests.

A server (`verify.completions`) sends no logits, but the tokens of its completion, and at each place the
likeliest tokens with their log-probabilities:

    prompt      1 .. n        a text of each length
    completion  n+1 .. n+8    the server's choice, and the 5 likeliest tokens at each place
    Ropewalk    1 .. n+8      the same tokens, read with the factors that the server should use

The first step shows what the server computed for the prompt, the later steps what it computes token by token
with its cache. Then all prompts are sent at once, the longest first, and no completion may change: an engine
that chooses its factors by the longest row of a batch changes those of short prompts.

Wrong factors must be detected, as in `verify`. Start tokens and an attention factor that only Ropewalk's
plugin supports can make a smaller difference than rounding does, so a server must also be nearer to the right
factors than to the factors that it has without the plugin.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ropewalk.errors import EngineError
from ropewalk.export import Served
from ropewalk.export.gguf.export import CONTEXT_STEP
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.verify.completions import Completion, CompletionsClient, Prompt
from ropewalk.verify.log_probabilities import ModelLogProbabilities, is_name, mean, named_tokens
from ropewalk.verify.result import Check, VerificationResult
from ropewalk.verify.wrong_factors import NEARER, without_equal, wrong_factors

NUM_TOKENS = 8
LIMIT, ROUNDED_LIMIT = 0.03, 0.2  # nats: see `verify_endpoint`
ROUNDED_NATS = 1e-5  # rounding of a log-probability in float32, computed and printed


def verify_endpoint(
    path: str,
    served: Served,
    context: int,
    loaded: Model,
    client: CompletionsClient,
    prompts: Sequence[Prompt],
    *,
    limit: float = LIMIT,
    on_progress: Callable[[str], None] | None = None,
) -> VerificationResult:
    """Compare a server's completions with Ropewalk.

    The check `log-probabilities` is the mean difference over a completion's steps and their likeliest tokens.
    The check `in parallel` is the same difference between the completions of one prompt, sent alone and with
    the others.

    The limit is two to three times the rounding. Measured as the mean of 8 tokens, on the bundled model and
    on a model of 30 layers (SmolLM2-135M): float16, of weights or cache, up to 0.004 and 0.01; bfloat16 0.026
    and 0.066; weights in 8 bits 0.034 and 0.064. Weights in 4 bits give 0.23 to 0.47, so for such an export
    MODEL must be the rounded model itself; llama.cpp's kernels for them then give 0.1, and as much in
    parallel, depending on its cache. Without factors the difference was 0.17 to 3.7, the largest at long
    lengths; that it would be detected at some length is checked.

    Args:
        path: the export that is served, for the result.
        served: its factors.
        context: tokens that the server was started for, by which it chooses its factors.
        loaded: MODEL, in float32.
        limit: nats; `LIMIT` for a server that computes in float16 or better, else `ROUNDED_LIMIT`.
        on_progress: gets a line of text before each slow step.

    Raises:
        EngineError: the server fails, or reads other tokens.
    """
    show = on_progress or (lambda _message: None)
    comparison = _PromptComparison(served.for_length(context), served, loaded, limit)
    completions: list[Completion] = []
    for prompt in prompts:
        show(f"{client.name} and Ropewalk read {len(prompt.ids)} tokens")
        completion = client.complete(prompt, NUM_TOKENS)
        ids = _ids_as_read(prompt, completion, loaded.tokenizer, client.url, show)
        comparison.compare(ids, completion)
        completions.append(completion)
    show(f"{client.name} reads all of them at once")
    in_parallel = _complete_in_parallel(client, prompts)
    changes = [
        Check.of_difference("in parallel", before.num_prompt or len(prompt.ids), change, limit)
        for prompt, before, after in zip(prompts, completions, in_parallel, strict=True)
        if (change := _change(before, after)) is not None
    ]
    checks = (*comparison.checks(), *changes, *comparison.detections())
    return VerificationResult(
        engine="server", version=f"{client.name} at {client.url}", path=path, served=served, checks=checks
    )


def deciding_context(path: Path, context: int) -> int:
    """The context by which a server chooses its factors. llama.cpp, which serves GGUF files, rounds it up."""
    return -(-context // CONTEXT_STEP) * CONTEXT_STEP if path.is_file() else context


class _PromptComparison:
    """Completions of single prompts, compared with the right factors, with wrong ones, and without plugin."""

    def __init__(self, right: RescaleFactors, served: Served, loaded: Model, limit: float) -> None:
        self._model = ModelLogProbabilities(loaded)
        self._limit = limit
        self._right = right
        self._wrong = wrong_factors(served, right, is_long=right is served.long)
        self._is_detected = dict.fromkeys(self._wrong, False)
        self._without_plugin = _factors_without_plugin(right)
        self._differences: list[tuple[int, float | None]] = []
        self._differences_without: dict[str, list[float | None]] = {name: [] for name in self._without_plugin}

    def compare(self, ids: Sequence[int], completion: Completion) -> None:
        """Compare one completion.

        Args:
            ids: the prompt as the server read it.
        """
        steps = completion.steps
        self._differences.append((len(ids), self._model.difference(ids, steps, self._right)))
        for name, factors in self._without_plugin.items():
            self._differences_without[name].append(self._model.difference(ids, steps, factors))
        for name in [name for name, is_detected in self._is_detected.items() if not is_detected]:
            difference = self._model.difference(ids, steps, self._wrong[name])
            self._is_detected[name] = difference is not None and not difference <= self._limit

    def checks(self) -> list[Check]:
        """One check per prompt. If all pass, the check against factors without the plugin is added."""
        checks = [
            Check.of_difference("log-probabilities", length, difference, self._limit)
            for length, difference in self._differences
            if difference is not None
        ]
        if not all(check.is_right for check in checks):
            return checks
        right = [difference for _, difference in self._differences]
        nearer = [_check_nearer(name, right, other) for name, other in self._differences_without.items()]
        return [*checks, *(check for check in nearer if check is not None)]

    def detections(self) -> list[Check]:
        """One check per wrong factors."""
        return Check.of_detections(self._is_detected)


def _factors_without_plugin(right: RescaleFactors) -> dict[str, RescaleFactors]:
    """The factors of an engine that has no start tokens, or computes the attention factor itself."""
    computed = longrope_attention_factor(right.extension_ratio, right.geometry.original_length)
    choices = {
        "no start tokens": right.replace(num_start_tokens=0),
        "the computed attention factor": right.replace(attention_factor=computed),
    }
    return without_equal(choices, right)


def _check_nearer(name: str, right: Sequence[float | None], other: Sequence[float | None]) -> Check | None:
    """Whether all completions are nearer to the right factors than to others; None without a difference."""
    to_right, to_other = mean(right), mean(other)
    if to_right is None or to_other is None:
        return None
    is_right = NEARER * to_right <= max(to_other, ROUNDED_NATS)
    return Check(
        what=f"nearer than {name}", found=f"{to_right:.1e} against {to_other:.1e}", is_right=is_right
    )


def _complete_in_parallel(client: CompletionsClient, prompts: Sequence[Prompt]) -> list[Completion]:
    """Send the longest prompt first, so that it still runs while the short ones do."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].ids))
    completions = client.complete_in_parallel([prompts[index] for index in order], NUM_TOKENS)
    by_index = dict(zip(order, completions, strict=True))
    return [by_index[index] for index in range(len(prompts))]


def _change(before: Completion, after: Completion) -> float | None:
    """The mean difference of two completions' log-probabilities, up to the first different choice, in nats.

    If two tokens, or a token and the end, are equally likely, a server may choose either, and the next steps
    continue another text. The same holds for a choice without a name. None if no step has log-probabilities;
    infinite if only one of the completions is empty.
    """
    if bool(before.steps) != bool(after.steps):
        return float("inf")
    differences: list[float] = []
    for one, other in zip(before.steps, after.steps, strict=False):
        named, others = named_tokens(one), named_tokens(other)
        common = named.keys() & others.keys()
        if common:
            differences.append(sum(abs(named[token] - others[token]) for token in common) / len(common))
        elif named or others:
            differences.append(float("inf"))
        if one.chosen != other.chosen or not is_name(one.chosen):
            break
    return mean(differences)


def _ids_as_read(
    prompt: Prompt, completion: Completion, tokenizer: Any, url: str, show: Callable[[str], None]
) -> tuple[int, ...]:
    """The prompt's ids by the server's count: servers may add a BOS, or leave it out.

    Raises:
        EngineError: the count differs in another way.
    """
    extra = 0 if completion.num_prompt is None else completion.num_prompt - len(prompt.ids)
    bos = tokenizer.bos_token_id
    has_bos = prompt.ids[0] == bos
    if extra == 1 and not has_bos and bos is not None:
        show(f"{url} adds a BOS, unlike the checkpoint's tokenizer; Ropewalk does the same")
        return (bos, *prompt.ids)
    if extra == -1 and has_bos:
        show(f"{url} leaves out the BOS of the checkpoint's tokenizer; Ropewalk does the same")
        return prompt.ids[1:]
    if extra:
        raise EngineError(
            f"{url} reads {completion.num_prompt} tokens where the checkpoint's tokenizer has "
            f"{len(prompt.ids)}: it has another tokenizer, or truncates prompts. Start it with the export's."
        )
    return prompt.ids
