"""Chats as token ids, by the chat template of the tokenizer, and a mask of the assistant's answers.

    <|user|> what is a rope? <|assistant|> a line of strands <|end|> <|user|> ...
                                           ^^^^^^^^^^^^^^^^^^^^^^^^^ answer

If a template marks answers (`{% generation %}`), the mask is its own. Otherwise an answer is the text that
the template adds to the messages before it, after the generation prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.errors import DataError, SettingError

ASSISTANT = "assistant"


def require_template(tokenizer: Any, what: str) -> None:
    """Check that a tokenizer can encode chats.

    Args:
        tokenizer: a tokenizer of transformers.
        what: name of the source, for messages.

    Raises:
        SettingError: it has no chat template, or no offsets of tokens.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise SettingError(
            f"{what} is a chat, but the tokenizer of this model has no chat template: use a model that has "
            f"one, or give the source as text."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise SettingError(
            f"{what} is a chat, but the tokenizer of this model gives no offsets of tokens, so answers can't "
            f"be found: use a model with a fast tokenizer."
        )


def encode_chat(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], name: str
) -> tuple[list[int], list[float]]:
    """Token ids of a chat without BOS at the beginning, and the weight of each: 1 in answers, 0 elsewhere.

    Args:
        tokenizer: a fast tokenizer of transformers with a chat template.
        messages: roles and contents.
        name: name of the chat, for messages.

    Raises:
        DataError: the template refuses the messages, or changes an answer when messages follow it.
    """
    if "{% generation" in tokenizer.chat_template or "{%- generation" in tokenizer.chat_template:
        encoded = _render(
            tokenizer, messages, name, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, weights = list(encoded["input_ids"]), [float(mark) for mark in encoded["assistant_masks"]]
    else:
        ids, weights = _by_prefixes(tokenizer, messages, name)
    opens = bool(ids) and ids[0] == tokenizer.bos_token_id
    return (ids[1:], weights[1:]) if opens else (ids, weights)


def _by_prefixes(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], name: str
) -> tuple[list[int], list[float]]:
    text = _render(tokenizer, messages, name)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != ASSISTANT or index == 0:  # the first message is not an answer
            continue
        before = _render(tokenizer, messages[:index], name, add_generation_prompt=True)
        after = _render(tokenizer, messages[: index + 1], name)
        if not (text.startswith(before) and text.startswith(after)):
            raise DataError(
                f"{name}: the chat template changes an answer when messages follow it, so answers can't be "
                f"found: use a template that marks answers with {{% generation %}}."
            )
        spans.append((len(before), len(after)))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    weights = [
        float(any(start <= place < stop for start, stop in spans)) for place, _ in encoded["offset_mapping"]
    ]
    return list(encoded["input_ids"]), weights


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]], name: str, **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(list(messages), **{"tokenize": False, **options})
    except Exception as error:  # a template may raise any exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"The chat template can't render {name}: {reason}.") from None
