"""What a GGUF file holds, read with errors of one line, and written anew by the `gguf` package.

Metadata keep their type, and strings their bytes; a tensor is copied as it is stored, and never decoded.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import ExportError, ModelError
from ropewalk.models.gguf_header import HeaderTensor, HeaderValue, read_header

ValueType = gguf.GGUFValueType
Kind = gguf.GGMLQuantizationType
# What is read as numbers; all else, bfloat16 too, as bytes.
DTYPES = {
    Kind.F16: np.float16, Kind.F32: np.float32, Kind.F64: np.float64,
    Kind.I8: np.int8, Kind.I16: np.int16, Kind.I32: np.int32, Kind.I64: np.int64,
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """One metadata value and its type in the file; of an array, also that of its items."""

    value: Any
    kind: Any
    item_kind: Any = None

    @property
    def plain(self) -> Any:
        """As Python has it: bytes as text."""
        if isinstance(self.value, bytes):
            return self.value.decode("utf-8", errors="replace")
        return self.value


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor as the file stores it; `load` brings the bytes when they are needed.

    Attributes:
        kind: how its values are stored, a `gguf.GGMLQuantizationType`.
        shape: of what `load` gives: (rows, ..., columns), in bytes where values are packed in blocks.
        dtype: of what `load` gives.
    """

    name: str
    kind: Any
    shape: tuple[int, ...]
    dtype: Any
    load: Callable[[], NDArray[Any]] = field(repr=False)

    @classmethod
    def of(cls, name: str, values: NDArray[np.float32]) -> "StoredTensor":
        """Values of our own, in float32."""
        return cls(
            name=name, kind=Kind.F32, shape=values.shape, dtype=np.dtype(np.float32), load=lambda: values
        )

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape)) * int(self.dtype.itemsize)

    @property
    def logical_shape(self) -> tuple[int, ...]:
        """(rows, ..., columns), in values."""
        if self.dtype != np.uint8:
            return self.shape
        return tuple(int(size) for size in gguf.quant_shape_from_byte_shape(self.shape, self.kind))


@dataclass(frozen=True, kw_only=True)
class GgufContent:
    """All that a GGUF file says: `metadata` in its order, `tensors` in theirs.

    Attributes:
        name: how errors call it.
    """

    name: str
    architecture: str
    metadata: dict[str, Value]
    tensors: tuple[StoredTensor, ...]
    alignment: int = gguf.GGUF_DEFAULT_ALIGNMENT

    def get(self, key: str) -> Any:
        """A value, `{arch}.` put before the key; None where there is none."""
        found = self.metadata.get(f"{self.architecture}.{key}")
        return None if found is None else found.plain

    def tensor(self, name: str) -> StoredTensor | None:
        """A tensor by its name."""
        return next((tensor for tensor in self.tensors if tensor.name == name), None)


def read_gguf(path: Path) -> GgufContent:
    """Everything but the tensors' bytes, which stay on disk until they are loaded.

    Raises:
        ExportError: missing, no GGUF file, truncated, one of several parts, or not a model.
    """
    if not path.is_file():
        raise ExportError(f"{path} does not exist: name a local .gguf file.")
    try:
        header = read_header(path)
    except ModelError as error:
        raise ExportError(str(error)) from None
    metadata = {key: _value(key, entry, path) for key, entry in header.values.items()}
    content = GgufContent(
        name=str(path),
        architecture=_architecture(metadata, path),
        metadata=metadata,
        tensors=tuple(_stored(tensor, path) for tensor in header.tensors),
        alignment=header.alignment,
    )
    _require_whole_model(content)
    return content


def write_gguf(content: GgufContent, path: Path) -> None:
    """Write it all, tensor by tensor, so that a large file never stands in memory.

    Raises:
        OSError: it can't be written.
    """
    writer = gguf.GGUFWriter(path, content.architecture)
    writer.data_alignment = content.alignment
    for key, entry in content.metadata.items():
        if key != "general.architecture":  # the writer's own first key
            writer.add_key_value(key, entry.value, entry.kind, entry.item_kind)
    for tensor in content.tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, tensor.dtype, tensor.num_bytes, tensor.kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in content.tensors:
            writer.write_tensor_data(np.ascontiguousarray(tensor.load()))
    finally:
        writer.close()


def text(value: str) -> Value:
    """A string for the metadata."""
    return Value(value, ValueType.STRING)


def whole(value: int) -> Value:
    """A count for the metadata."""
    return Value(value, ValueType.UINT32)


def number(value: float) -> Value:
    """A number for the metadata, kept as float32."""
    return Value(float(np.float32(value)), ValueType.FLOAT32)


def flag(value: bool) -> Value:
    """Yes or no for the metadata."""
    return Value(value, ValueType.BOOL)


def texts(values: Iterable[str]) -> Value:
    """A list of strings for the metadata."""
    return Value([value.encode() for value in values], ValueType.ARRAY, ValueType.STRING)


def _value(key: str, entry: HeaderValue, path: Path) -> Value:
    if entry.item_kind is None:
        return Value(entry.value, ValueType(entry.kind))
    if not entry.value:
        raise ExportError(
            f"{path} has an empty list under {key!r:.80}, which the gguf package can't write: remove that "
            f"key first."
        )
    return Value(entry.value, ValueType(entry.kind), ValueType(entry.item_kind))


def _stored(tensor: HeaderTensor, path: Path) -> StoredTensor:
    kind = Kind(tensor.kind)
    dtype = np.dtype(DTYPES.get(kind, np.uint8))
    shape = tensor.shape if kind in DTYPES else gguf.quant_shape_to_byte_shape(tensor.shape, kind)

    def load() -> NDArray[Any]:
        return np.memmap(path, dtype=dtype, mode="r", offset=tensor.start, shape=tuple(shape))

    return StoredTensor(name=tensor.name, kind=kind, shape=tuple(shape), dtype=dtype, load=load)


def _architecture(metadata: dict[str, Value], path: Path) -> str:
    found = metadata.get("general.architecture")
    if found is None:
        raise ExportError(f"{path} does not say its architecture, so it is no model: name a model's GGUF.")
    return str(found.plain)


def _require_whole_model(content: GgufContent) -> None:
    kind = content.metadata.get("general.type")
    if kind is not None and kind.plain != "model":
        raise ExportError(
            f"{content.name} holds a {kind.plain!r:.40}, not a model: name the model's own GGUF."
        )
    parts = content.metadata.get("split.count")
    if parts is not None and parts.plain not in (0, 1):
        raise ExportError(
            f"{content.name} is one of {parts.plain!r:.40} parts: join them with `llama-gguf-split --merge` "
            f"first."
        )
