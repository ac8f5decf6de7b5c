"""The 30 mutations of `mutations.py`: one changed place each, with an effect that a user would care about.

`text` occurs exactly once in `src/ropewalk`. After such a line is rewritten, the new text is given here, with
the same change of behaviour. `tests` are patterns of paths in the repository: of directories, or of files
where a directory takes longer than about 30 seconds. Patterns that match nothing are left out; at least one
of each mutation must match.
"""

from dataclasses import dataclass

PACKAGES = ("rope", "factors", "evaluate", "search", "runtime", "export")


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A change of one place of the source.

    Attributes:
        breaks: what a user would notice, in words.
        text, replacement: exact text, before and after.
        tests: patterns of the tests that should notice.
    """

    name: str
    package: str
    breaks: str
    text: str
    replacement: str
    tests: tuple[str, ...]


ROPE = ("tests/rope",)
FACTORS = ("tests/factors", "tests/test_factor*.py", "tests/test_geometry.py")
RUNTIME = ("tests/runtime",)

MUTATIONS = (
    Mutation(
        name="start-tokens-edge",
        package="rope",
        breaks="The first rescaled position keeps its original rotation.",
        text="positions.unsqueeze(-1) < num_start_tokens",
        replacement="positions.unsqueeze(-1) <= num_start_tokens",
        tests=ROPE,
    ),
    Mutation(
        name="sin-without-attention-factor",
        package="rope",
        breaks="Only cos is multiplied by the attention factor.",
        text="radians.sin() * factors.attention_factor",
        replacement="radians.sin()",
        tests=ROPE,
    ),
    Mutation(
        name="stacked-first-layer",
        package="rope",
        breaks="In a batch, factors per layer are those of the first layer everywhere.",
        text="layer_index if self.rescale_factors.shape[1] > 1 else 0",
        replacement="0",
        tests=(*ROPE, *RUNTIME),
    ),
    Mutation(
        name="yarn-truncation",
        package="rope",
        breaks="YaRN's ramp is rounded inwards, not outwards as in transformers.",
        text="math.floor(low), math.ceil(high)",
        replacement="math.ceil(low), math.floor(high)",
        tests=ROPE,
    ),
    Mutation(
        name="longrope-attention-root",
        package="rope",
        breaks="The attention factor of longrope lacks its square root.",
        text="math.sqrt(1 + math.log(extension_ratio) / math.log(original_length))",
        replacement="1 + math.log(extension_ratio) / math.log(original_length)",
        tests=ROPE,
    ),
    Mutation(
        name="fingerprint-unchecked",
        package="factors",
        breaks="A factors file with an edited geometry is accepted.",
        text="if geometry.fingerprint() != file.geometry_fingerprint:",
        replacement="if not file.geometry_fingerprint:",
        tests=FACTORS,
    ),
    Mutation(
        name="entry-edge",
        package="factors",
        breaks="A sequence of exactly an entry's target length gets the next entry.",
        text="bisect_left(self.lengths, length)",
        replacement="bisect_left(self.lengths, length + 1)",
        tests=FACTORS,
    ),
    Mutation(
        name="compose-attention",
        package="factors",
        breaks="A second extension forgets the attention factor of the first.",
        text="self.attention_factor * own.attention_factor",
        replacement="self.attention_factor",
        tests=FACTORS,
    ),
    Mutation(
        name="mean-of-layers",
        package="factors",
        breaks="Factors per layer are averaged arithmetically before a second extension, not geometrically.",
        text="np.exp(np.log(self.array()).mean(axis=0))",
        replacement="self.array().mean(axis=0)",
        tests=FACTORS,
    ),
    Mutation(
        name="beyond-the-pairs",
        package="factors",
        breaks="After a fine-tuning, a ramp that ends beyond the pairs is moved to the wrong side.",
        text="nearest + beyond * self.exponent_dim",
        replacement="nearest - beyond * self.exponent_dim",
        tests=FACTORS,
    ),
    Mutation(
        name="first-scored-token",
        package="evaluate",
        breaks="Each window misses its first scored token.",
        text="first = length - 1 - num_scored",
        replacement="first = length - num_scored",
        tests=("tests/evaluate/test_nll*.py",),
    ),
    Mutation(
        name="tile-maximum",
        package="evaluate",
        breaks="With a large vocabulary, the NLL is that of shifted logits.",
        text=".log_() + largest.squeeze(1)",
        replacement=".log_()",
        tests=("tests/evaluate/test_nll*.py", "tests/evaluate/test_lm_head*.py"),
    ),
    Mutation(
        name="one-sided-quantile",
        package="evaluate",
        breaks="A 95% interval has the quantile of a 90% interval.",
        text="(1 + CONFIDENCE) / 2, n - 1",
        replacement="CONFIDENCE, n - 1",
        tests=("tests/evaluate/test_intervals*.py",),
    ),
    Mutation(
        name="passkey-first-digit",
        package="evaluate",
        breaks="A passkey answer ends after its first digit.",
        text=r'r"\d\D"',
        replacement=r'r"\d"',
        tests=("tests/evaluate/test_passkey*.py",),
    ),
    Mutation(
        name="gradient-not-of-logarithm",
        package="evaluate",
        breaks="The gradient is that of lambda, not of ln lambda.",
        text="by_log_factor=gradients.rescale_factors.cpu().numpy() * factors.array()[0]",
        replacement="by_log_factor=gradients.rescale_factors.cpu().numpy()",
        tests=("tests/evaluate/test_gradient*.py",),
    ),
    Mutation(
        name="seed-ignored",
        package="search",
        breaks="Every seed gives the same search.",
        text="np.random.PCG64(task.seed)",
        replacement="np.random.PCG64(0)",
        tests=("tests/search/strategies",),
    ),
    Mutation(
        name="generator-state-unchecked",
        package="search",
        breaks="A search is resumed although its generator is in another state than recorded.",
        text="self._journal.generator_states[index] == generator_state",
        replacement="True",
        tests=("tests/search/test_loop*.py", "tests/search/test_journal*.py"),
    ),
    Mutation(
        name="checksum-unchecked",
        package="search",
        breaks="A changed or missing line of a journal is not noticed.",
        text="seal != checksum",
        replacement='seal == b"" != checksum',
        tests=("tests/search/test_journal*.py", "tests/store/test_*.py"),
    ),
    Mutation(
        name="chosen-on-search-documents",
        package="search",
        breaks="The best candidate is chosen by the documents that the search fits, not by validation.",
        text="key=lambda pair: pair[1].rank",
        replacement="key=lambda pair: pair[0].rank",
        tests=("tests/search/test_guard*.py", "tests/search/test_early_stopping*.py"),
    ),
    Mutation(
        name="reserve-spent",
        package="search",
        breaks="The strategy spends the part of the budget that is kept for validation, so it is exceeded.",
        text="self.strategy.task.budget + ROUNDING",
        replacement="self.budget + ROUNDING",
        tests=(
            "tests/search/test_loop*.py",
            "tests/search/test_guard*.py",
            "tests/search/test_early_stopping*.py",
        ),
    ),
    Mutation(
        name="padding-counted",
        package="runtime",
        breaks="Left padding counts as tokens, so a short row gets the factors of a longer length.",
        text="in mask.sum(-1).tolist()",
        replacement="in torch.ones_like(mask).sum(-1).tolist()",
        tests=RUNTIME,
    ),
    Mutation(
        name="positions-from-one",
        package="runtime",
        breaks="Positions of padded rows count from 1.",
        text="mask.long().cumsum(-1) - 1",
        replacement="mask.long().cumsum(-1)",
        tests=RUNTIME,
    ),
    Mutation(
        name="policies-swapped",
        package="runtime",
        breaks="`pin` begins with the factors of the prompt, `recompute` with those of the last length.",
        text='at_the_end if request.policy == "pin"',
        replacement='at_the_end if request.policy != "pin"',
        tests=RUNTIME,
    ),
    Mutation(
        name="moved-rows-accepted",
        package="runtime",
        breaks="A cache whose rows were reordered is read with the factors of other rows.",
        text="rows if found.keys is not None and found.keys() is _keys(cache) else None",
        replacement="rows",
        tests=RUNTIME,
    ),
    Mutation(
        name="stale-values",
        package="runtime",
        breaks="`recompute` replaces the keys of a row in the cache, but not its values.",
        text="layer.values.index_copy(0, index, other.values)",
        replacement="layer.values",
        tests=RUNTIME,
    ),
    Mutation(
        name="fold-whole-head",
        package="export",
        breaks="A fold also scales the dimensions of a head that are not rotated.",
        text="view(num_heads, head_dim, -1)[:, :rotary_dim]",
        replacement="view(num_heads, head_dim, -1)[:, :]",
        tests=("tests/export/test_fold*.py",),
    ),
    Mutation(
        name="gguf-row-order",
        package="export",
        breaks="A GGUF file has the rows of query and key projections in the order of a checkpoint.",
        text="halves.swapaxes(1, 2)",
        replacement="halves",
        tests=("tests/export/test_gguf*.py", "tests/export/gguf"),
    ),
    Mutation(
        name="gguf-long-is-short",
        package="export",
        breaks="A GGUF file has the short factors in the place of the long ones.",
        text='"rope_factors_long.weight", served.long',
        replacement='"rope_factors_long.weight", served.short',
        tests=("tests/export/test_gguf*.py", "tests/export/gguf"),
    ),
    Mutation(
        name="window-edge",
        package="export",
        breaks="A text of exactly the window is verified with the long factors.",
        text="self.short if length <= self.geometry.original_length else self.long",
        replacement="self.short if length < self.geometry.original_length else self.long",
        tests=(
            "tests/export/test_verify*.py",
            "tests/verify",
            "tests/export/test_huggingface*.py",
            "tests/export/test_hf*.py",
        ),
    ),
    Mutation(
        name="nearest-frequency",
        package="export",
        breaks="`verify` passes frequencies if one pair is right.",
        text="(inv_freq / expected - 1).abs().max()",
        replacement="(inv_freq / expected - 1).abs().min()",
        tests=("tests/export/test_verify*.py", "tests/verify"),
    ),
)
