"""Why transformers can't load a model, as one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

from ropewalk.errors import ModelError


@contextmanager
def one_line_errors(name: str, *, on_hub: bool = False) -> Iterator[None]:
    """What transformers raises about a user's model, as a `ModelError` of one line.

    Args:
        name: how the message calls the model.
        on_hub: its files may have to be fetched, so that the hub can be the reason.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # tokenizers and safetensors raise bare ones
        text = " ".join(str(error).split())
        # A name may contain any of the words that are looked for.
        about_hub = _explain_hub(name, text.replace(name, "")) if on_hub else None
        raise ModelError(about_hub or _explain(name, text, error)) from error


def first_statement(error: BaseException) -> str:
    """The first line of what an error says, with what its colon announces; its class if it says nothing."""
    said: list[str] = []
    for line in filter(None, map(str.strip, str(error).splitlines())):
        said.append(line)
        if not line.endswith(":"):
            break
    return shortened(" ".join(said)) if said else f"{type(error).__name__}."


def shortened(text: str, limit: int = 300) -> str:
    """At most so many characters, cut after a sentence or a word, with a full stop."""
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
            f"{name} is no local folder, and the hub can't be reached for it: check the name and the "
            f"network, or name a folder."
        )
    if "does not appear to have a file named config.json" in text:
        return f"{name} has no config.json on the hub: name a model, and of an adapter its base."
    if "safetensors" in text and "does not appear to have" in text:
        return f"{name} has no safetensors weights on the hub, and pickles are refused: try another revision."
    return None


def _explain(name: str, text: str, error: Exception) -> str:
    if "trust_remote_code" in text:
        return f"{name} needs code of its own to be run: read that code, then say --trust-remote-code."
    if "scaled_dot_product_attention" in text:
        return (
            f"{name} does not run with the attention implementation sdpa: say --attn-implementation eager "
            f"(in Python, attn_implementation='eager')."
        )
    if "ignore_mismatched_sizes" in text:
        return (
            f"{name} stores weights of other shapes than its configuration says: copy the model again, "
            f"weights and configuration."
        )
    if isinstance(error, RecursionError):
        return f"{name} has a file that is nested too deeply to be read: copy it again."
    if isinstance(error, KeyError) and " " not in text:
        return f"{name} can't be loaded: one of its files lacks {text}; copy the model again."
    return f"{name} can't be loaded: {first_statement(error)}"
