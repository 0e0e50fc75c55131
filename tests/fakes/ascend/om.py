"""
The emulated offline model: an ONNX graph behind a header, sealed by its SHA-256.

Only the emulated ``atc`` writes such files and only the emulated pyACL reads them.  They share
nothing with a real .om but the suffix and the first four bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MAGIC = b"IMOD"


@dataclass(frozen=True)
class OmTensor:
    """An input or output as the model declares it; with gears, the first side is the largest."""

    name: str
    dtype: str  # a numpy name: float32, float16, uint8
    shape: tuple[int, ...]


@dataclass(frozen=True)
class OmModel:
    """
    What ``atc`` made of an ONNX file.

    *precision* is how the network computes: ``fp32``, or ``fp16`` (weights are rounded in *onnx*
    already; inputs and outputs are rounded by whoever runs it).  *gears* are the dynamic batch
    sizes, rising, empty for a static batch.  *aipp* is the parsed ``aipp_op``, None without one.
    The ONNX graph always takes float32 NCHW and gives float32; its batch dimension is free where
    there are gears.  *outputs* stand in the order of the graph's own.
    """

    onnx: bytes
    inputs: tuple[OmTensor, ...]
    outputs: tuple[OmTensor, ...]
    soc_version: str
    precision: str = "fp32"
    gears: tuple[int, ...] = ()
    aipp: dict[str, Any] | None = None
    command: tuple[str, ...] = field(default=())


class CorruptModel(Exception):
    """The file is no emulated model, or not a whole one."""


def write_om(model: OmModel, path: Path) -> None:
    """Write *model* to *path*."""
    header = asdict(model)
    header.pop("onnx")
    encoded = json.dumps(header).encode()
    body = MAGIC + len(encoded).to_bytes(8, "little") + encoded + model.onnx
    path.write_bytes(body + hashlib.sha256(body).digest())


def read_om(path: Path) -> OmModel:
    """Read *path*; raise `CorruptModel` if it is cut off, changed, or something else."""
    content = path.read_bytes()
    body, seal = content[:-32], content[-32:]
    if content[:4] != MAGIC or hashlib.sha256(body).digest() != seal:
        raise CorruptModel(f"{path} is not a whole model")
    size = int.from_bytes(body[4:12], "little")
    header = json.loads(body[12 : 12 + size])
    for key in ("inputs", "outputs"):
        header[key] = tuple(OmTensor(t["name"], t["dtype"], tuple(t["shape"])) for t in header[key])
    header["gears"], header["command"] = tuple(header["gears"]), tuple(header["command"])
    return OmModel(onnx=body[12 + size :], **header)
