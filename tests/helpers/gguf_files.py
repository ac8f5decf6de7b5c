"""GGUF files for tests: how they are changed, read without Ropewalk, and refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import AutoModelForCausalLM

from ropewalk.errors import ExportError, ModelError
from ropewalk.export import ExportMode
from ropewalk.export.gguf.export import export_gguf
from ropewalk.export.gguf.file import GgufContent, StoredTensor, Value, read_gguf, write_gguf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.rope.schemes import scheme_factors

WINDOW = 64
GEOMETRY = RopeGeometry(head_dim=8, rotary_dim=8, rope_theta=100.0, original_length=WINDOW, num_layers=2)
FACTORS = scheme_factors("yarn", GEOMETRY, 512)
SET = FactorSet.of([FACTORS])


def refused(
    source: Path,
    out: Path,
    said: str,
    entries: FactorSet = SET,
    mode: ExportMode = "pinned",
    base: Path | None = None,
) -> None:
    """The export raises an error of one line and leaves no file."""
    before = sorted(out.parent.iterdir())
    with pytest.raises((ExportError, ModelError), match=said) as caught:
        export_gguf(source, entries, out, mode=mode, base=base)
    assert "\n" not in str(caught.value)
    assert sorted(out.parent.iterdir()) == before


def entry(target: int, factor: float, attention_factor: float) -> RescaleFactors:
    return RescaleFactors.single(
        geometry=GEOMETRY,
        target_length=target,
        rescale_factors=[factor] * GEOMETRY.num_pairs,
        attention_factor=attention_factor,
    )


def factors_in(content: GgufContent, which: str) -> Any:
    tensor = content.tensor(f"rope_factors_{which}.weight")
    assert tensor is not None
    return tensor.read().tolist()


def raw(path: Path) -> tuple[dict[str, bytes], dict[str, tuple[Any, ...]]]:
    """Every key's bytes and type, and every tensor's type, shape, offset and bytes."""
    reader = gguf.GGUFReader(path)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return (
        {key: b"".join(part.tobytes() for part in field.parts) for key, field in fields.items()},
        {
            t.name: (t.tensor_type, t.shape.tolist(), t.data_offset - reader.data_offset, t.data.tobytes())
            for t in reader.tensors
        },
    )


def changed(
    source: Path, out: Path, metadata: dict[str, Value] | None = None, tensors: tuple[StoredTensor, ...] = ()
) -> Path:
    content = read_gguf(source)
    loaded = tuple(in_memory(tensor) for tensor in content.tensors)  # `out` may be `source`
    write_gguf(
        dataclasses.replace(
            content, metadata={**content.metadata, **(metadata or {})}, tensors=(*loaded, *tensors)
        ),
        out,
    )
    return out


def in_memory(tensor: StoredTensor) -> StoredTensor:
    values = tensor.read().copy()
    return dataclasses.replace(tensor, read=lambda: values)


def renamed(source: Path, out: Path, architecture: str) -> Path:
    content = read_gguf(source)
    keys = {key.replace("llama.", f"{architecture}.", 1): value for key, value in content.metadata.items()}
    write_gguf(dataclasses.replace(content, architecture=architecture, metadata=keys), out)
    return out


def rounded(tensor: StoredTensor, kind: Any) -> StoredTensor:
    packed = gguf.quants.quantize(tensor.read(), kind)
    return StoredTensor(
        name=tensor.name, tensor_type=kind, shape=packed.shape, dtype=packed.dtype, read=lambda: packed
    )


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def read_by_transformers(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
