"""The embedded default: drawn scenes in COCO's layout and a D0 checkpoint trained on others."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DatasetError
from ..spec import ModelSpec
from ..types import Tensor
from .coco import load_coco
from .preprocess import preprocess

_PACKAGE = Path(__file__).parents[1]
#: In a wheel the files lie inside the package, in a clone beside it.
_PLACES = (_PACKAGE / "data_fixtures", _PACKAGE.parent / "data_fixtures")


def folder() -> Path:
    """Where the embedded default lies; raise `DatasetError` if it is nowhere."""
    for place in _PLACES:
        if (place / "reference.json").is_file():
            return place
    raise DatasetError(
        f"the embedded default is in none of {[str(place) for place in _PLACES]}; "
        "install effd0 again, or give --root and --checkpoint"
    )


def coco_root() -> Path:
    """The folder of the embedded images and annotations, in COCO's layout."""
    return folder() / "coco_data"


def checkpoint() -> Path:
    """The embedded checkpoint, a ``tf_efficientdet_d0`` state dict in float16."""
    return folder() / "d0_embedded.pth"


def reference() -> dict[str, Any]:
    """What effdet's own pipeline makes of the embedded checkpoint and images."""
    content: dict[str, Any] = json.loads((folder() / "reference.json").read_text())
    return content


def reference_ap() -> float:
    """AP that effdet's own pipeline reaches, as a fraction."""
    return float(reference()["metrics"]["AP"])


def sample_inputs(count: int, spec: ModelSpec) -> Tensor:
    """Network input of the first *count* embedded images, (count, 3, size, size) float32."""
    samples = load_coco(coco_root(), image_limit=count).samples
    return np.stack([preprocess(sample.path, spec).tensor for sample in samples])
