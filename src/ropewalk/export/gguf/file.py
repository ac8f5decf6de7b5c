"""The content of a GGUF file: read with one-line errors, and written by the `gguf` package.

Metadata keep their type, and strings their bytes. Tensors are copied as stored and never decoded.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

from ropewalk.errors import ExportError, ModelError
from ropewalk.models.gguf_header import HeaderTensor, HeaderValue, read_header

# The tensor types that numpy reads as numbers. All others, bfloat16 too, are read as bytes.
DTYPES = {
    GGMLQuantizationType.F16: np.float16, GGMLQuantizationType.F32: np.float32,
    GGMLQuantizationType.F64: np.float64, GGMLQuantizationType.I8: np.int8,
    GGMLQuantizationType.I16: np.int16, GGMLQuantizationType.I32: np.int32,
    GGMLQuantizationType.I64: np.int64,
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A metadata value.

    Attributes:
        value: as the `gguf` package takes it.
        value_type: its `gguf.GGUFValueType` in the file.
        item_type: the type of an array's items.
    """

    value: Any
    value_type: Any
    item_type: Any = None

    @classmethod
    def string(cls, value: str) -> "Value":
        return cls(value, GGUFValueType.STRING)

    @classmethod
    def strings(cls, values: Iterable[str]) -> "Value":
        return cls([value.encode() for value in values], GGUFValueType.ARRAY, GGUFValueType.STRING)

    @classmethod
    def uint32(cls, value: int) -> "Value":
        return cls(value, GGUFValueType.UINT32)

    @classmethod
    def int32s(cls, values: Iterable[int]) -> "Value":
        return cls(list(values), GGUFValueType.ARRAY, GGUFValueType.INT32)

    @classmethod
    def float32(cls, value: float) -> "Value":
        return cls(float(np.float32(value)), GGUFValueType.FLOAT32)

    @classmethod
    def boolean(cls, value: bool) -> "Value":
        return cls(value, GGUFValueType.BOOL)

    @property
    def plain(self) -> Any:
        """The Python value: a string's bytes as text."""
        if isinstance(self.value, bytes):
            return self.value.decode("utf-8", errors="replace")
        return self.value


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor as a GGUF file stores it.

    Attributes:
        tensor_type: how its values are stored, a `gguf.GGMLQuantizationType`.
        shape: of `read()`: (rows, ..., columns), in bytes for a type that packs values in blocks.
        dtype: of `read()`.
        read: reads the values from disk.
    """

    name: str
    tensor_type: Any
    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], NDArray[Any]] = field(repr=False)

    @classmethod
    def float32(
        cls, name: str, shape: tuple[int, ...], read: Callable[[], NDArray[np.float32]]
    ) -> "StoredTensor":
        """A tensor in float32."""
        tensor_type = GGMLQuantizationType.F32
        return cls(name=name, tensor_type=tensor_type, shape=shape, dtype=np.dtype(np.float32), read=read)

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape)) * int(self.dtype.itemsize)

    @property
    def logical_shape(self) -> tuple[int, ...]:
        """(rows, ..., columns), in values."""
        if self.dtype != np.uint8:
            return self.shape
        return tuple(int(size) for size in gguf.quant_shape_from_byte_shape(self.shape, self.tensor_type))


@dataclass(frozen=True, kw_only=True)
class GgufContent:
    """All content of a GGUF file, metadata and tensors in the file's order.

    Attributes:
        name: the file's or the checkpoint's name in messages.
    """

    name: str
    architecture: str
    metadata: dict[str, Value]
    tensors: tuple[StoredTensor, ...]
    alignment: int = gguf.GGUF_DEFAULT_ALIGNMENT

    def get(self, key: str) -> Any:
        """The value of `{architecture}.{key}`; None if there is none."""
        found = self.metadata.get(f"{self.architecture}.{key}")
        return None if found is None else found.plain

    def count(self, key: str) -> int:
        """The value of `{architecture}.{key}`, an integer above 0.

        Raises:
            ExportError: it is missing, or another value.
        """
        found = self.get(key)
        if type(found) is not int or found < 1:
            raise self._wrong_value(key, "an integer above 0")
        return found

    def number(self, key: str) -> float:
        """The value of `{architecture}.{key}`, a number.

        Raises:
            ExportError: it is missing, or another value.
        """
        found = self.get(key)
        if type(found) not in (int, float):
            raise self._wrong_value(key, "a number")
        return float(found)

    def tensor(self, name: str) -> StoredTensor | None:
        """The tensor of this name; None if there is none."""
        return next((tensor for tensor in self.tensors if tensor.name == name), None)

    def _wrong_value(self, key: str, rule: str) -> ExportError:
        return ExportError(
            f"{self.name} has {self.get(key)!r:.40} as {self.architecture}.{key}, but it must be {rule}: "
            f"convert the checkpoint again."
        )


def read_gguf(path: Path) -> GgufContent:
    """Read everything but the tensors' values, which stay on disk until they are needed.

    Raises:
        ExportError: the file is missing, truncated, not a GGUF file, one of several parts, or not a model.
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
        tensors=tuple(_stored_tensor(tensor, path) for tensor in header.tensors),
        alignment=header.alignment,
    )
    _require_whole_model(content)
    return content


def write_gguf(content: GgufContent, path: Path) -> None:
    """Write the content tensor by tensor, so that a large model need not fit in memory.

    Raises:
        OSError: the file can't be written.
    """
    writer = gguf.GGUFWriter(path, content.architecture)
    writer.data_alignment = content.alignment
    for key, entry in content.metadata.items():
        if key != "general.architecture":  # the writer adds this key itself
            writer.add_key_value(key, entry.value, entry.value_type, entry.item_type)
    for tensor in content.tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, tensor.dtype, tensor.num_bytes, tensor.tensor_type)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in content.tensors:
            writer.write_tensor_data(np.ascontiguousarray(tensor.read()))
    finally:
        writer.close()


def _value(key: str, entry: HeaderValue, path: Path) -> Value:
    if entry.item_kind is None:
        return Value(entry.value, GGUFValueType(entry.kind))
    if not entry.value:
        raise ExportError(
            f"{path} has an empty list as {key!r:.80}, which the gguf package can't write: remove that key "
            f"first."
        )
    return Value(entry.value, GGUFValueType(entry.kind), GGUFValueType(entry.item_kind))


def _stored_tensor(tensor: HeaderTensor, path: Path) -> StoredTensor:
    tensor_type = GGMLQuantizationType(tensor.kind)
    dtype = np.dtype(DTYPES.get(tensor_type, np.uint8))
    is_plain = tensor_type in DTYPES
    shape = tuple(tensor.shape if is_plain else gguf.quant_shape_to_byte_shape(tensor.shape, tensor_type))

    def read() -> NDArray[Any]:
        return np.memmap(path, dtype=dtype, mode="r", offset=tensor.start, shape=shape)

    return StoredTensor(name=tensor.name, tensor_type=tensor_type, shape=shape, dtype=dtype, read=read)


def _architecture(metadata: dict[str, Value], path: Path) -> str:
    found = metadata.get("general.architecture")
    if found is None:
        raise ExportError(f"{path} has no general.architecture, so it is not a model: name a model's GGUF.")
    return str(found.plain)


def _require_whole_model(content: GgufContent) -> None:
    general_type = content.metadata.get("general.type")
    if general_type is not None and general_type.plain != "model":
        raise ExportError(
            f"{content.name} is a {general_type.plain!r:.40}, not a model: name the model's own GGUF."
        )
    parts = content.metadata.get("split.count")
    if parts is not None and parts.plain not in (0, 1):
        raise ExportError(
            f"{content.name} is one of {parts.plain!r:.40} parts: join them with `llama-gguf-split --merge` "
            f"first."
        )
