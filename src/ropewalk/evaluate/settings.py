"""RetrievalSettings: which questions a retrieval measurement asks, and how."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ropewalk.settings import Settings
from ropewalk.units import LARGEST_SEED, MOST

MOST_FACTS = 64  # in one text; there are 94 words for values


class RetrievalSettings(Settings):
    """The questions of `measure_retrieval`, and how they are asked.

    Raises:
        SettingError: a value out of its range, or too many facts for one text.
    """

    num_questions: int = Field(default=40, ge=1, le=MOST, title="N", description="Questions at each length.")
    num_facts: int = Field(
        default=1, ge=1, le=MOST_FACTS, title="N", description="Facts in one text that questions ask for."
    )
    num_distractors: int = Field(
        default=0,
        ge=0,
        le=MOST_FACTS,
        title="N",
        json_schema_extra={"option": "--distractors"},
        description="Further facts in one text that no question asks for.",
    )
    wordings: Literal["known", "held-out"] = Field(
        default="known",
        description="Wordings that searches and trainings use as well, or those that only evaluations use.",
    )
    keys: Literal["all", "name", "identifier"] = Field(default="all", description="Kind of the keys.")
    values: Literal["all", "number", "word", "hexadecimal"] = Field(
        default="all", description="Kind of the values."
    )
    one_question_per_reading: bool = Field(
        default=False,
        json_schema_extra={"option": "--one-question"},
        description="Ask each question alone at the end of the text, instead of all questions of a text in "
        "one reading.",
    )
    chat: bool = Field(
        default=False,
        description="Put the text and one question into the tokenizer's chat template; for chat models.",
    )
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, title="N", description="Random seed of the facts.")

    @property
    def asks_each_alone(self) -> bool:
        """Whether each question has a reading of its own; in a chat always."""
        return self.one_question_per_reading or self.chat

    @property
    def num_texts(self) -> int:
        """Texts at each length; the last one may have fewer questions than the others."""
        return -(-self.num_questions // self.num_facts)

    @property
    def in_words(self) -> str:
        """The texts and questions, for titles and captions."""
        facts = "1 fact" if self.num_facts == 1 else f"{self.num_facts} facts"
        others = f" and {self.num_distractors} others" if self.num_distractors else ""
        asked = "all questions of a text in one reading"
        if self.asks_each_alone:
            asked = "one question per reading"
        chat = ", chat template" if self.chat else ""
        return f"{facts}{others} per text ({self.wordings} wordings, {asked}{chat})"

    @model_validator(mode="after")
    def _require_few_facts(self) -> Self:
        total = self.num_facts + self.num_distractors
        if total > MOST_FACTS:
            raise ValueError(f"a text has {total} facts, but can have at most {MOST_FACTS}: give fewer")
        return self
