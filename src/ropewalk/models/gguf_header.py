"""The header of a GGUF file, checked against the file's size before any of its counts is used.

    magic "GGUF", version, number of tensors, number of keys
    for each key: its name, the type of its value, the value
    for each tensor: its name, dimensions, type, and where its bytes are

Every count and length comes from the file. The reader of the `gguf` package does not check them: it creates
some objects for each item of a list, and adds up sizes in integers that overflow.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import ModelError
from ropewalk.store import disk_errors

MAGIC, VERSIONS = b"GGUF", (2, 3)
# The struct format of each type of value, by the type's number in the file.
PACKINGS = {
    kind: struct.Struct(f"<{code}")
    for kind, code in {
        0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
    }.items()
}  # fmt: skip
UINT32, STRING, ARRAY, UINT64 = 4, 8, 9, 10
ARCHITECTURE, ALIGNMENT = "general.architecture", "general.alignment"
DEFAULT_ALIGNMENT = 32
# Far above the numbers of real models: dozens of keys, thousands of tensors, a vocabulary of 262,144 tokens.
MOST_KEYS = 10_000
MOST_TENSORS = 100_000
MOST_ITEMS = 2**22  # of all lists together
MOST_DIMENSIONS = 4
LARGEST_ALIGNMENT = 2**16
SIZES = (
    "block_count", "embedding_length", "feed_forward_length", "attention.head_count", "attention.key_length",
    "attention.head_count_kv", "attention.value_length", "rope.dimension_count", "vocab_size", "expert_count",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HeaderValue:
    """The value of a key.

    Attributes:
        value: a number, a bool, bytes (of text), or a list of these.
        kind: the number of its type in the file.
        item_kind: for a list, the type of its items; else None.
    """

    value: Any
    kind: int
    item_kind: int | None = None


@dataclass(frozen=True, kw_only=True)
class HeaderTensor:
    """A tensor of the file.

    Attributes:
        shape: (rows, ..., columns), in values.
        kind: how its values are stored, a value of `gguf.GGMLQuantizationType`.
        start, num_bytes: its bytes in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """The keys and the tensor descriptions at the beginning of a GGUF file."""

    values: dict[str, HeaderValue]
    tensors: tuple[HeaderTensor, ...]
    alignment: int

    def plain(self) -> dict[str, Any]:
        """The value of each key, text as str."""
        return {
            key: entry.value.decode("utf-8", errors="replace") if entry.kind == STRING else entry.value
            for key, entry in self.values.items()
        }


def read_header(path: Path) -> GgufHeader:
    """Read a header, and check every count, length and offset in it against the file.

    Raises:
        ModelError: not a GGUF file, a truncated file, or a header that contradicts the file.
    """
    try:
        with disk_errors(path, ModelError, action="read", remedy="copy it again"), path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise _UnsoundError("it does not begin with GGUF")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(content).header()
    except _UnsoundError as error:
        raise ModelError(
            f"{path} can't be read as a GGUF file, or is truncated ({error}): download it again."
        ) from None


class _UnsoundError(Exception):
    """A header is invalid; the message is the reason."""


class _Reader:
    """Reads a header: an offset in the file, and the number of list items read so far."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.place = len(MAGIC)
        self.num_items = 0

    def header(self) -> GgufHeader:
        version = self.number(UINT32)
        if version & 0xFFFF == 0:
            raise _UnsoundError("it is big-endian: convert it with gguf-convert-endian")
        if version not in VERSIONS:
            raise _UnsoundError(f"it has version {version}, not {VERSIONS[0]} or {VERSIONS[1]}")
        num_tensors, num_keys = self.number(UINT64), self.number(UINT64)
        if num_tensors > MOST_TENSORS or num_keys > MOST_KEYS:
            raise _UnsoundError(f"it states {num_tensors} tensors and {num_keys} keys")
        values: dict[str, HeaderValue] = {}
        for _ in range(num_keys):
            key = self.name()
            if key in values:
                raise _UnsoundError(f"it has the key {key!r:.80} twice")
            values[key] = self.value()
        stated = [self.tensor() for _ in range(num_tensors)]
        alignment = _alignment(values)
        data = -(-self.place // alignment) * alignment
        header = GgufHeader(
            values=values,
            tensors=tuple(_placed(tensor, data) for tensor in stated),
            alignment=alignment,
        )
        _require_consistent(header, len(self.content))
        return header

    def skip(self, size: int) -> int:
        """Advance by `size` bytes, which must exist; returns the offset before them."""
        start, self.place = self.place, self.place + size
        if self.place > len(self.content):
            raise _UnsoundError("its header is shorter than it states")
        return start

    def number(self, kind: int) -> Any:
        packing = PACKINGS[kind]
        return packing.unpack_from(self.content, self.skip(packing.size))[0]

    def string(self) -> bytes:
        start = self.skip(self.number(UINT64))
        return self.content[start : self.place]

    def name(self) -> str:
        try:
            return self.string().decode("utf-8")
        except UnicodeDecodeError:
            raise _UnsoundError("a name in it is not UTF-8") from None

    def value(self) -> HeaderValue:
        kind = self.number(UINT32)
        if kind == STRING:
            return HeaderValue(value=self.string(), kind=kind)
        if kind == ARRAY:
            item_kind = self.number(UINT32)
            return HeaderValue(value=self.items(item_kind), kind=kind, item_kind=item_kind)
        if kind not in PACKINGS:
            raise _UnsoundError(f"a value in it has the type {kind}, which does not exist")
        return HeaderValue(value=self.number(kind), kind=kind)

    def items(self, kind: int) -> list[Any]:
        length = self.number(UINT64)
        self.num_items += length
        if self.num_items > MOST_ITEMS:
            raise _UnsoundError(f"its lists have {self.num_items} items or more")
        if kind == STRING:
            return [self.string() for _ in range(length)]
        if kind not in PACKINGS:
            raise _UnsoundError(
                "it has a list of lists" if kind == ARRAY else f"a list in it has type {kind}"
            )
        start = self.skip(length * PACKINGS[kind].size)
        return [item for (item,) in PACKINGS[kind].iter_unpack(self.content[start : self.place])]

    def tensor(self) -> HeaderTensor:
        """A tensor as stated, with offsets from the end of the header."""
        name, num_dimensions = self.name(), self.number(UINT32)
        if num_dimensions > MOST_DIMENSIONS:
            raise _UnsoundError(f"{name!r:.80} has {num_dimensions} dimensions")
        shape = tuple(reversed([self.number(UINT64) for _ in range(num_dimensions)]))
        kind, start = self.number(UINT32), self.number(UINT64)
        size = _num_bytes(name, shape, kind)
        return HeaderTensor(name=name, shape=shape, kind=kind, start=start, num_bytes=size)


def _placed(tensor: HeaderTensor, data: int) -> HeaderTensor:
    return HeaderTensor(**{**vars(tensor), "start": data + tensor.start})


def _num_bytes(name: str, shape: tuple[int, ...], kind: int) -> int:
    import gguf  # noqa: PLC0415 (only for GGUF files)

    try:
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise _UnsoundError(f"{name!r:.80} has the unknown tensor type {kind}") from None
    if not shape or 0 in shape or shape[-1] % block:
        raise _UnsoundError(f"{name!r:.80} has the shape {shape}")
    return math.prod(shape) // int(block) * int(size)


def _alignment(values: dict[str, HeaderValue]) -> int:
    entry = values.get(ALIGNMENT)
    if entry is None:
        return DEFAULT_ALIGNMENT
    stated = entry.value
    if entry.kind != UINT32 or not 0 < stated <= LARGEST_ALIGNMENT or stated & (stated - 1):
        raise _UnsoundError(f"its alignment is {stated!r:.40}, not a power of two up to {LARGEST_ALIGNMENT}")
    return int(stated)


def _require_consistent(header: GgufHeader, num_bytes: int) -> None:
    """Check that all tensors are inside the file and do not overlap, and that no size exceeds the file."""
    if len({tensor.name for tensor in header.tensors}) < len(header.tensors):
        raise _UnsoundError("it has a tensor twice")
    end = 0
    for tensor in sorted(header.tensors, key=lambda tensor: tensor.start):
        if tensor.start < end:
            raise _UnsoundError(f"{tensor.name!r:.80} shares its bytes with another tensor")
        end = tensor.start + tensor.num_bytes
    if end > num_bytes:
        raise _UnsoundError(f"its tensors end at byte {end}, but the file at {num_bytes}")
    plain = header.plain()
    for name in SIZES:
        stated = plain.get(f"{plain.get(ARCHITECTURE)}.{name}")
        most = len(header.tensors) if name == "block_count" else num_bytes
        if isinstance(stated, int) and stated > most:
            raise _UnsoundError(
                f"its {name} is {stated}, but it has {len(header.tensors)} tensors in {num_bytes} bytes"
            )
