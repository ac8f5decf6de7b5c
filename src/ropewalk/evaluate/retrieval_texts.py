"""Texts for retrieval questions: facts hidden in a document, and prompts that ask for one of them each.

All questions of a text in one reading are `text.facts.fact_text`. With one question per reading, the prompts
of a text have a common beginning, whose KV cache can be kept:

    <s> text | fact | text ... text | fact | text   more text | question  ->  the answer
    |<------------- the same for all ----------->|                           |<------->| num_answer_tokens
    |<--------------------------------- length ------------------------------------->|
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import DataError, SettingError
from ropewalk.evaluate.depths import MOST_DEPTHS, evenly_spread
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.text.facts import KEY_KINDS, VALUE_KINDS, Fact, draw_facts, hide
from ropewalk.text.tokens import Encoder
from ropewalk.text.wordings import HELD_OUT_WORDINGS, WORDINGS

CHAT_QUESTION = "What does the text above say about {key}?"  # for a wording without a question
PLACE = "TEXT-AND-QUESTION"  # where the user's message is in a rendered template


@dataclass(frozen=True, kw_only=True)
class HiddenFacts:
    """The facts of one text.

    Attributes:
        facts, depths: in the order of the text; 0 is its start, 1 its end.
        asked: the facts that are asked for, in the order of the questions.
    """

    facts: tuple[Fact, ...]
    depths: tuple[float, ...]
    asked: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text with one question at its end.

    Attributes:
        ids: `length` - `num_answer_tokens` tokens.
        num_answer_tokens: how many tokens the answer may have.
    """

    ids: tuple[int, ...]
    num_answer_tokens: int


def draw_hidden_facts(settings: RetrievalSettings, length: int) -> Iterator[HiddenFacts]:
    """Yields the facts of each text of one length; they depend on the seed, the length and the text's number.

    The depths of all questions are evenly spread; distractors have random depths.
    """
    spread = evenly_spread(min(settings.num_questions, MOST_DEPTHS))
    for index in range(settings.num_texts):
        rng = random.Random(f"retrieval-{settings.seed}-{length}-{index}")
        first = index * settings.num_facts
        depths = [spread[(first + number) % len(spread)] for number in range(settings.num_facts)]
        depths += [rng.random() for _ in range(settings.num_distractors)]
        facts = draw_facts(
            len(depths),
            rng,
            wordings=WORDINGS if settings.wordings == "known" else HELD_OUT_WORDINGS,
            key_kinds=KEY_KINDS if settings.keys == "all" else (settings.keys,),
            value_kinds=VALUE_KINDS if settings.values == "all" else (settings.values,),
        )
        order = sorted(range(len(depths)), key=depths.__getitem__)
        num_asked = min(settings.num_facts, settings.num_questions - first)
        asked = [place for place, number in enumerate(order) if number < num_asked]
        rng.shuffle(asked)
        yield HiddenFacts(
            facts=tuple(facts[number] for number in order),
            depths=tuple(depths[number] for number in order),
            asked=tuple(asked),
        )


class Framing:
    """What stands before a text, and between a text and an answer: a question, or a chat template with it.

    Raises:
        DataError: `chat`, and the tokenizer has no chat template, or one that can't be used.
    """

    def __init__(self, encode: Encoder, *, chat: bool) -> None:
        self._encode = encode
        before, self._after = _chat_parts(encode.tokenizer) if chat else ("", "")
        self._is_chat = chat
        self._head = encode(before)

    def head(self, document: Sequence[int]) -> list[int]:
        """The ids before the text."""
        return list(self._head) if self._is_chat else list(document[:1])

    def body(self, document: Sequence[int]) -> list[int]:
        """The document without what `head` has, and in a chat without BOS, which is for its template."""
        return list(document[len(self._encode.start) if self._is_chat else 1 :])

    def question(self, fact: Fact) -> list[int]:
        """The ids between the text and the answer.

        In a chat these are the end of the user's message and the beginning of the model's turn:

            What is the secret of Ulla Berg? <end of turn> It is
            What does the text above say about Ulla Berg? <end of turn> The code of Ulla Berg is

        The message does not have the beginning of the answer: a model that repeats what followed it before
        would repeat the end of the user's turn.
        """
        if not self._is_chat:
            return self._encode(fact.question)
        question, mark, begun = fact.question.strip().rpartition("? ")
        request = f"{question}?" if mark else CHAT_QUESTION.format(key=fact.key)
        return self._encode(f"\n\n{request}") + self._encode(self._after + begun)


def prompts(
    document: Sequence[int], length: int, hidden: HiddenFacts, framing: Framing, encode: Encoder
) -> list[Prompt]:
    """Returns a prompt for each question of a text; prompt and answer have exactly `length` tokens.

    Args:
        document: its token ids, at least `length`.

    Raises:
        SettingError: the facts do not fit into `length` tokens.
    """
    asked = [hidden.facts[index] for index in hidden.asked]
    tails = [(framing.question(fact), len(encode(fact.answer))) for fact in asked]
    statements = [encode(fact.statement) for fact in hidden.facts]
    head, body = framing.head(document), framing.body(document)
    longest = max(len(question) + num_answer_tokens for question, num_answer_tokens in tails)
    num_added = len(head) + sum(map(len, statements)) + longest
    num_kept = length - num_added
    if num_kept < 1:
        raise SettingError(
            f"{len(statements)} facts and a question need {num_added} tokens, but the text has {length}: "
            f"give a longer length or fewer facts."
        )
    common = head[:-1]
    for part in hide(head[-1:] + body[:num_kept], statements, hidden.depths):
        common += part
    made = []
    for question, num_answer_tokens in tails:
        more = body[num_kept : num_kept + longest - len(question) - num_answer_tokens]
        ids = (*common, *more, *question)
        assert len(ids) + num_answer_tokens == length, (len(ids), num_answer_tokens, length)
        made.append(Prompt(ids=ids, num_answer_tokens=num_answer_tokens))
    return made


def _chat_parts(tokenizer: Any) -> tuple[str, str]:
    """The chat template before and after the user's message, up to the beginning of the model's turn."""
    if not getattr(tokenizer, "chat_template", None):
        raise DataError("The tokenizer has no chat template: measure without --chat.")
    message = {"role": "user", "content": PLACE}
    try:
        text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise any exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"The chat template can't render a user's message: {reason}.") from None
    parts = text.split(PLACE)
    if len(parts) != 2 or not parts[0]:
        raise DataError("The chat template does not write a user's message once: measure without --chat.")
    return parts[0], parts[1]
