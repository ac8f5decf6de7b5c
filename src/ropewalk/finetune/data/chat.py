"""A chat to token ids by the tokenizer's own template, and which of them are the assistant's answers.

    <|user|> what is a rope? <|assistant|> a line of strands <|end|> <|user|> ...
                                           ^^^^^^^^^^^^^^^^^^^^^^^^^ counts

Where a template marks answers itself (`{% generation %}`), its marks hold. Elsewhere an answer is what a
template adds to the messages before it, behind the words that it opens an answer with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.errors import DataError, SettingError

ASSISTANT = "assistant"


def require_template(tokenizer: Any, what: str) -> None:
    """Whether chats can be read with this tokenizer.

    Raises:
        SettingError: it has no template, or can't tell where its tokens stand.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise SettingError(
            f"{what} is a chat, but this model's tokenizer has no chat template: take a model that has one, "
            f"or give the source as text."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise SettingError(
            f"{what} is a chat, but this tokenizer does not tell where its tokens stand in a text, so that "
            f"answers can't be found: take a model with a fast tokenizer."
        )


def encode_chat(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], name: str
) -> tuple[list[int], list[float]]:
    """Ids without the BOS that opens them, and a weight each: 1 for answers, 0 for all else.

    Args:
        name: for messages.

    Raises:
        DataError: the template refuses the messages, or changes earlier ones where later ones follow.
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
        if message["role"] != ASSISTANT or index == 0:  # an answer to nothing is none
            continue
        before = _render(tokenizer, messages[:index], name, add_generation_prompt=True)
        after = _render(tokenizer, messages[: index + 1], name)
        if not (text.startswith(before) and text.startswith(after)):
            raise DataError(
                f"{name}: this tokenizer's template changes an answer where others follow it, so that it "
                f"can't be told apart: take a template that marks answers with {{% generation %}}."
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
    except Exception as error:  # a template raises what it likes
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{name} does not fit this tokenizer's chat template: {said}.") from None
