"""The lengths that a configuration states: the trained window, and the length that its own scaling reaches.

`max_position_embeddings` is the trained window in some checkpoints, the length after scaling in others, and
in a third group an upper limit that no engine reaches.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ropewalk.factors.geometry import LARGEST
from ropewalk.models.config_fields import Fields

# The types that state their original window; the others scale from `max_position_embeddings`.
TYPES_WITH_ORIGINAL_LENGTH = ("yarn", "llama3", "longrope")
# Types that reach `max_position_embeddings` with any factor.
TYPES_WITH_STATED_REACH = ("llama3", "longrope")
# Other names of a length beside `max_position_embeddings`; engines differ in the one that they prefer.
OTHER_LENGTH_KEYS = (
    "model_max_length", "max_sequence_length", "max_seq_length", "max_seq_len", "seq_length", "seq_len",
)  # fmt: skip
LARGE_WINDOW = 1_000_000  # tokens


@dataclass(frozen=True, kw_only=True)
class StatedWindow:
    """The lengths that a configuration states, in tokens.

    Attributes:
        rope_type: transformers' name of the scaling, `default` for none.
        factor: the ratio by which the scaling extends the window; None if the configuration does not state
            it.
        longest: `max_position_embeddings`.
        original: `original_max_position_embeddings`, from the rotary's dictionary or else from the top level.
        dual_chunk: the trained window of `dual_chunk_attention_config`.
        others: further keys that state a length.
        given: the trained window that the caller specifies, or None.
    """

    rope_type: str
    factor: float | None
    longest: int | None
    original: int | None
    dual_chunk: int | None
    others: Mapping[str, int]
    given: int | None

    @property
    def scaled_from(self) -> int | None:
        """The window that the model's own scaling starts from."""
        if self.rope_type in TYPES_WITH_ORIGINAL_LENGTH:
            return self.original or self.longest
        return self.longest

    @property
    def trained(self) -> int | None:
        """L, the window that the model was trained on."""
        if self.given is not None:
            return self.given
        return self.dual_chunk if self.dual_chunk and self.rope_type == "default" else self.scaled_from

    @property
    def reach(self) -> int:
        """Tokens that the base model reads in transformers, with its own scaling."""
        start, trained = self.scaled_from or 0, self.trained or 0
        if self.rope_type == "default":
            is_settled = self.given is not None or self.dual_chunk is not None
            return trained if is_settled else max(trained, *self.others.values(), 0)
        # Linear scaling reaches a multiple of the trained window, also if the user corrects the window.
        scaled = round((trained if self.rope_type == "linear" else start) * (self.factor or 1.0))
        extended = self.longest if self.longest is not None and self.longest > start else None
        if extended is None:
            return max(scaled, trained)
        return max(extended, trained, 0 if self.rope_type in TYPES_WITH_STATED_REACH else scaled)

    def notes(self) -> tuple[str, ...]:
        """A sentence for each statement about the window that is likely to mislead."""
        return tuple(self._notes())

    def _notes(self) -> Iterator[str]:
        longest, trained, factor = self.longest, self.trained, self.factor
        if self.dual_chunk is not None:
            yield (
                f"`dual_chunk_attention_config` states a trained window of {self.dual_chunk} tokens: "
                f"only engines with dual chunk attention read {longest} (`max_position_embeddings`), and "
                f"transformers has none."
            )
        if longest is not None:
            yield from self._notes_on(longest)
        if self.given is None and trained is not None and trained >= LARGE_WINDOW:
            yield (
                f"A stated window of {trained} tokens is often an upper limit, not a trained length: give "
                f"the trained window with --original-length if it is known."
            )
        if self.rope_type == "yarn" and longest and trained and factor:
            start = self.scaled_from or 0
            if longest > start and round(start * factor) != longest:
                yield (
                    f"Its yarn scaling by {factor:g} from {start} tokens reaches {round(start * factor)}, "
                    f"but `max_position_embeddings` is {longest}."
                )

    def _notes_on(self, longest: int) -> Iterator[str]:
        factor = self.factor or 1.0
        if self.given is None and factor > 1 and self.scaled_from == longest:
            yield (
                f"`max_position_embeddings` is {longest} beside {self.rope_type} scaling by {factor:g}: it "
                f"is taken as the trained window, so the model reads {round(longest * factor)} tokens; if "
                f"it is already multiplied, give --original-length {round(longest / factor)}."
            )
        if self.original and self.original != longest and self.rope_type not in TYPES_WITH_ORIGINAL_LENGTH:
            yield (
                f"`original_max_position_embeddings` is {self.original}, which its {self.rope_type} rotary "
                f"does not use: give --original-length {self.original} if that is the trained window."
            )
        for key, length in self.others.items():
            if self.given is None and length != longest:
                yield (
                    f"`{key}` is {length}, but `max_position_embeddings` is {longest}, which is taken as the "
                    f"window: give --original-length {length} if that is the trained window."
                )


def is_length(value: object) -> bool:
    """Whether a value can be a number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST["original_length"]


def stated_window(fields: Fields, parameters: Fields, given: int | None) -> StatedWindow:
    """Read every length of a configuration.

    Args:
        fields: of the text part of the model.
        parameters: of its rotary, with `rope_type`.
        given: L in tokens, where the configuration states it wrongly.

    Raises:
        ModelError: a length is not a whole number, or a factor is not a number.
    """
    rope_type, longest = parameters.get("rope_type"), fields.size("max_position_embeddings")
    original = parameters.size("original_max_position_embeddings")
    original = original or fields.size("original_max_position_embeddings")
    factor = parameters.number("factor")
    if factor is None and original and longest and rope_type in TYPES_WITH_ORIGINAL_LENGTH:
        factor = longest / original
    dual_chunk = Fields(fields.dictionary("dual_chunk_attention_config"), fields.name)
    others = {key: fields.get(key) for key in OTHER_LENGTH_KEYS}
    return StatedWindow(
        rope_type=rope_type,
        factor=factor,
        longest=longest,
        original=original,
        dual_chunk=dual_chunk.size("original_max_position_embeddings"),
        # Not every engine reads these, so a value that is not a length (1e30 means none) is ignored.
        others={key: length for key, length in others.items() if is_length(length)},
        given=given,
    )
