"""Seeded changes of JSON documents, of texts and of bytes: some wild, most nearly right."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Path = tuple[str | int, ...]

# Written into a document as strings, and replaced in its text by what `json` itself would not write.
RAW = {
    "@digits": "1" + "0" * 5000,
    "@deep": "[" * 50_000 + "]" * 50_000,
    "@nan": "NaN",
    "@infinity": "-Infinity",
    "@surrogate": '"\\ud800"',
    "@control": '"\\u001b[31mred\\r\\n\\u0000\\u202e"',
    "@float": "1e400",
}
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 0.5, -0.0, 1e-300, 1e30, 1e308, 2**31, 2**63, 99999999999,
    10**400, "", " ", "0", "8x", "nan", "null", "x" * 5000, "longrope", "yarn", "default", "../x",
    "/etc/passwd", "https://example.invalid/x", [], [[]], {}, {"a": 1}, [1, "a", None], [0.0] * 10_000,
    {"": {"": {}}}, *RAW,
)  # fmt: skip
NEW_KEYS = (
    "auto_map", "_attn_implementation", "quantization_config", "text_config", "rope_parameters",
    "rope_scaling", "rope_theta", "layer_types", "sliding_window", "dual_chunk_attention_config",
    "partial_rotary_factor", "rope_type", "type", "factor", "model_max_length", "transformers_version",
    "dtype", "torch_dtype",
    "architectures", "head_dim", "x",
)  # fmt: skip
MARKS = (
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\n",
    b"\r",
    b"\t",
    b"\x1b[2J",
    b"{",
    b"}",
    b"[",
    b'"',
    b",",
    b":",
    b"-",
)


def mutate_json(random: Random, document: Any) -> bytes:
    """The document with one to three changes, and now and then with its text damaged as well."""
    changed = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        changed = _change(random, changed)
    text = json.dumps(changed, indent=random.choice((None, 1)))
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    if random.random() < 0.1:
        text = _double_a_key(random, text)
    content = text.encode("utf-8", errors="surrogatepass")
    return mutate_bytes(random, content) if random.random() < 0.15 else content


def mutate_text(random: Random, text: str) -> bytes:
    """Lines doubled, dropped, swapped or indented, words replaced; at times damaged as bytes."""
    lines = text.splitlines()
    for _ in range(random.choice((1, 1, 2, 3))):
        index = random.randrange(len(lines))
        key, colon, value = lines[index].partition(":")
        other = random.choice(VALUES)
        new = RAW.get(other, other) if isinstance(other, str) else json.dumps(other)
        lines[index : index + 1] = random.choice(
            (
                [f"{key}{colon} {new}"],
                [f"{key}{colon} {new}"],
                [f"{random.choice(NEW_KEYS)}: {value}"],
                [],
                [lines[index]] * 2,
                [f"  {lines[index]}"],
                [lines[index].lstrip()],
                [random.choice(lines)],
                [f"{key}: &a [*a]", "<<: *a", "!!python/object:os.system x"],
            )
        )
        lines = lines or [""]
    content = "\n".join(lines).encode("utf-8", errors="surrogatepass")
    return mutate_bytes(random, content) if random.random() < 0.2 else content


def mutate_bytes(random: Random, content: bytes, *, within: int | None = None) -> bytes:
    """A few bytes changed, put in or taken out; `within` the first so many."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        end = max(1, min(len(changed), within or len(changed)))
        at = random.randrange(end)
        length = random.choice((1, 1, 2, 4, 8, 64))
        kind = random.randrange(6)
        if kind == 0:
            changed[at : at + 1] = bytes([random.randrange(256)])
        elif kind == 1:
            changed[at:at] = random.choice(MARKS)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at : at + 8] = random.choice((2**63, 2**32, 2**31 - 1, 10**6, 0)).to_bytes(8, "little")
        elif kind == 4:
            changed[at:at] = changed[at : at + length] * random.choice((1, 3, 100))
        else:
            del changed[at:]
    return bytes(changed)


def _change(random: Random, document: Any) -> Any:
    """One change at a place anywhere in the document; the whole of it seldom."""
    paths = list(_places(document))
    if not paths or random.random() < 0.02:
        return _new(random)
    *parents, last = random.choice(paths)
    holder = document
    for step in parents:
        holder = holder[step]
    changes: tuple[Callable[[], Any], ...] = (
        lambda: holder.__setitem__(last, _new(random)),
        lambda: holder.__setitem__(last, _new(random)),
        lambda: holder.__setitem__(last, _near(random, holder[last])),
        lambda: holder.__setitem__(last, copy.deepcopy(_at(document, random.choice(paths)))),
        lambda: holder.__delitem__(last),
        lambda: _put_in(random, holder),
    )
    random.choice(changes)()
    return document


def _new(random: Random) -> Any:
    """A value of its own: one that stood in two places would change in both, or hold itself."""
    return copy.deepcopy(random.choice(VALUES))


def _near(random: Random, value: Any) -> Any:
    """Of the same type, and a little off."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return random.choice((value + 1, value - 1, -value, value * 10**6, value % 10**6 + 0.5, str(value)))
    if isinstance(value, float):
        whole = int(value) if math.isfinite(value) else 0
        return random.choice((-value, value * 1.0001, value * 1e200, str(value), whole))
    if isinstance(value, str):
        return random.choice((value.upper(), value[:-1], value + "\n", value * 2, [value]))
    if isinstance(value, list):
        return random.choice((value[:-1], value + value[:1], value[::-1], dict(enumerate(map(str, value)))))
    return [value] if value is None else list(value)


def _put_in(random: Random, holder: Any) -> None:
    if isinstance(holder, dict):
        holder[random.choice(NEW_KEYS)] = _new(random)
    else:
        holder.insert(random.randrange(len(holder) + 1), _new(random))


def _places(document: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every value within; of a long list only of its ends."""
    if isinstance(document, dict):
        keys: list[Any] = list(document)
    elif isinstance(document, list):
        keys = sorted({*range(min(3, len(document))), max(0, len(document) - 1)}) if document else []
    else:
        return
    for key in keys:
        yield (*path, key)
        yield from _places(document[key], (*path, key))


def _at(document: Any, path: Path) -> Any:
    for step in path:
        document = document[step]
    return document


def _double_a_key(random: Random, text: str) -> str:
    """What `json` reads as the last of the two."""
    opening = text.find("{")
    key = random.choice(("model_type", "format", "version", "target_length", "rope_theta", "index", "text"))
    return text[: opening + 1] + f'"{key}": {random.choice(("1", "null", "[]"))}, ' + text[opening + 1 :]
