"""A GGUF file's header is held to the file before anything is allocated by it."""

import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import ExportError, ModelError
from ropewalk.export.gguf.file import read_gguf
from ropewalk.models.gguf_header import MOST_ITEMS, read_header
from ropewalk.models.model import load_model

UINT8, UINT32, FLOAT32, STRING, ARRAY, UINT64 = 0, 4, 6, 8, 9, 10
F32, Q8_0 = 0, 8


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def items(kind: int, length: int, value: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, length) + value


def tensor(name: bytes = b"t", shape: tuple[int, ...] = (4,), kind: int = F32, start: int = 0) -> bytes:
    stated = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + stated + struct.pack("<IQ", kind, start)


def number(name: bytes, value: int) -> bytes:
    return key(name, UINT32, struct.pack("<I", value))


LLAMA = key(b"general.architecture", STRING, text(b"llama"))


def content(
    *keys: bytes,
    tensors: tuple[bytes, ...] = (tensor(),),
    num_keys: int | None = None,
    num_tensors: int | None = None,
    version: bytes = struct.pack("<I", 3),
    data: int = 64,
) -> bytes:
    keys = (LLAMA, *keys)
    counts = struct.pack(
        "<QQ",
        len(tensors) if num_tensors is None else num_tensors,
        len(keys) if num_keys is None else num_keys,
    )
    return b"GGUF" + version + counts + b"".join(keys) + b"".join(tensors) + bytes(data)


HOSTILE = {
    "empty": b"",
    "magic alone": b"GGUF",
    "a pickle": b"\x80\x04\x95" + bytes(99),
    "big-endian": content(version=struct.pack(">I", 3)),
    "version 1": content(version=struct.pack("<I", 1)),
    "2^63 tensors": content(num_tensors=2**63),
    "2^63 keys": content(num_keys=2**63),
    "more keys than there are": content(num_keys=9),
    "a text longer than the file": content(key(b"k", STRING, text(b"x", 2**62))),
    "a key longer than the file": content(text(b"k", 2**64 - 1)),
    "a key that is not UTF-8": content(number(b"\xff\xfe", 1)),
    "a key twice": content(number(b"k", 1), number(b"k", 2)),
    "a type that does not exist": content(key(b"k", 77, bytes(8))),
    "a list of such a type": content(key(b"k", ARRAY, items(77, 1, bytes(8)))),
    "a list of 2^62 texts": content(key(b"k", ARRAY, items(STRING, 2**62))),
    "a list of 2^62 bytes": content(key(b"k", ARRAY, items(UINT8, 2**62))),
    "lists inside lists": content(key(b"k", ARRAY, items(ARRAY, 1) * 5000)),
    "a tensor outside the file": content(tensors=(tensor(start=2**40),)),
    "a tensor whose end overflows": content(tensors=(tensor(start=2**64 - 32),)),
    "a shape whose product overflows": content(tensors=(tensor(shape=(2**32, 2**32)),)),
    "a shape with 0": content(tensors=(tensor(shape=(4, 0)),)),
    "no shape": content(tensors=(tensor(shape=()),)),
    "2^31 dimensions": content(tensors=(text(b"t") + struct.pack("<I", 2**31),)),
    "half a block": content(tensors=(tensor(shape=(16,), kind=Q8_0),)),
    "a type of tensor that does not exist": content(tensors=(tensor(kind=999),)),
    "a tensor twice": content(tensors=(tensor(), tensor(start=32))),
    "tensors that share bytes": content(tensors=(tensor(), tensor(b"u"))),
    "an alignment of 3": content(number(b"general.alignment", 3)),
    "an alignment of 2^31": content(number(b"general.alignment", 2**31)),
    "an alignment that is a text": content(key(b"general.alignment", STRING, text(b"32"))),
    "more layers than tensors": content(number(b"llama.block_count", 2**31)),
    "heads larger than the file": content(number(b"llama.attention.key_length", 2**31)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_one_line_and_costs_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(HOSTILE[name])
    started = time.process_time()
    for read, error in ((read_header, ModelError), (read_gguf, ExportError), (load_model, ModelError)):
        with pytest.raises(error, match=r"model\.gguf") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert time.process_time() - started < 5


def test_long_lists_are_bounded_before_their_items_are_made(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content(key(b"k", ARRAY, items(UINT8, MOST_ITEMS + 1, bytes(MOST_ITEMS + 1)))))
    with pytest.raises(ModelError, match=f"{MOST_ITEMS + 1} items"):
        read_header(path)


def test_a_sound_header_is_read_as_the_gguf_package_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_rope_freq_base(625.0)
    writer.add_token_list(["a", "ä", "<s>"])
    values = {"first": np.arange(6, dtype=np.float32).reshape(2, 3), "second": np.ones((4, 32), np.float16)}
    for name, value in values.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    header = read_header(path)
    assert header.plain()["llama.rope.freq_base"] == 625.0
    assert header.values["tokenizer.ggml.tokens"].value == [b"a", "ä".encode(), b"<s>"]
    read = read_gguf(path)
    for name, value in values.items():
        stored = read.tensor(name)
        assert stored is not None
        assert stored.logical_shape == value.shape
        np.testing.assert_array_equal(stored.read(), value)


@given(
    changes=st.lists(st.tuples(st.integers(0, 2**12), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 99),
)
def test_any_change_is_read_or_refused(
    changes: list[tuple[int, int]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(
        content(
            number(b"general.alignment", 32),
            number(b"llama.block_count", 1),
            key(b"tokens", ARRAY, items(STRING, 2, text(b"a") + text(b"bc"))),
            key(b"theta", FLOAT32, struct.pack("<f", 1e4)),
            tensors=(tensor(), tensor(b"u", (2, 2), start=32)),
        )
    )
    for place, value in changes:
        whole[place % len(whole)] = value
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.write_bytes(whole[: len(whole) - cut])
    try:
        header = read_header(path)
    except ModelError:
        return
    assert all(tensor.start + tensor.num_bytes <= len(whole) for tensor in header.tensors)
