"""Converts transformers' errors about a model to one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from ropewalk.errors import ModelError


@contextmanager
def one_line_errors(name: str, *, on_hub: bool = False) -> Iterator[None]:
    """Convert what transformers raises about a user's model to a `ModelError` of one line.

    Args:
        name: the model's name in the message.
        on_hub: whether files may be downloaded, so that the hub can be the cause.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # tokenizers and safetensors raise plain Exception
        text = " ".join(str(error).split())
        # The name itself may contain any of the words that are searched for.
        about_hub = _explain_hub(name, text.replace(name, "")) if on_hub else None
        raise ModelError(about_hub or _explain(name, text, error)) from error


def first_statement(error: BaseException) -> str:
    """The first line of an error's message, with the next one after a colon; its class if empty."""
    lines: list[str] = []
    for line in filter(None, map(str.strip, str(error).splitlines())):
        lines.append(line)
        if not line.endswith(":"):
            break
    return shortened(" ".join(lines)) if lines else f"{type(error).__name__}."


def shortened(text: str, limit: int = 300) -> str:
    """The text in at most `limit` characters, cut after a sentence or a word, with a full stop."""
    if len(text) > limit:
        cut = text[:limit]
        text = cut[: cut.rfind(". ")] if ". " in cut else cut[: cut.rfind(" ")] + " ..."
    return text.rstrip(".") + "."


def _explain_hub(name: str, text: str) -> str | None:
    if "not a valid git identifier" in text:
        return f"{name} has no such revision on the hub: check --revision."
    if "gated" in text:
        return f"{name} is gated on the hub: ask for access on its page, then log in with `hf auth login`."
    if "is not a valid model identifier" in text:
        return f"{name} is neither a local folder nor on the hub: check the name, or log in if it is private."
    if "couldn't connect" in text or "onnection" in text or "offline" in text.lower():
        return (
            f"{name} is not a local folder, and the hub can't be reached: check the name and the network, "
            f"or name a folder."
        )
    if "does not appear to have a file named config.json" in text:
        return f"{name} has no config.json on the hub: name a model; for an adapter, name its base."
    if "safetensors" in text and "does not appear to have" in text:
        return f"{name} has no safetensors weights on the hub, and pickles are refused: try another revision."
    return None


def _explain(name: str, text: str, error: Exception) -> str:
    if "trust_remote_code" in text:
        return (
            f"{name} has its own code, which is not run by default: read it, then give --trust-remote-code."
        )
    if "scaled_dot_product_attention" in text:
        return (
            f"{name} does not support the attention implementation sdpa: give --attn-implementation eager "
            f"(in Python, attn_implementation='eager')."
        )
    if "ignore_mismatched_sizes" in text:
        return (
            f"{name} stores weights of other shapes than its configuration says: copy the model again, "
            f"weights and configuration."
        )
    if isinstance(error, RecursionError):
        return f"{name} has a file with JSON nested too deeply: copy it again."
    if isinstance(error, KeyError) and " " not in text:
        return f"{name} can't be loaded: one of its files lacks {text}; copy the model again."
    return f"{name} can't be loaded: {first_statement(error)}"
