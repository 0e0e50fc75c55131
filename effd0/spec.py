"""
The facts of each EfficientDet, written once: those of D0 here, of the others what differs.

`SPECS` has every architecture that effdet configures.  ``tf_efficientdet_d0`` is the recipe's
model; ``efficientdet_d0`` pads its convolutions evenly, and ``tf_efficientdet_d0_ap`` (AdvProp) is
fed values from -1 to 1 on black fill.  Source: the model configurations of effdet 0.4.1, of which
``architectures.json`` is made, and google/automl's EfficientDet.
"""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import SpecError

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ModelSpec:
    """
    An EfficientDet: its input, its heads, and what is done to both.

    *image_size* is (rows, columns).  Class outputs are logits; box outputs are (ty, tx, th, tw)
    relative to an anchor.  *category_ids* are the category of each class; None where class n, from
    0, is category n + 1, as in COCO.
    """

    arch: str
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
    fill: tuple[int, int, int] = (124, 116, 104)
    image_size: tuple[int, int] = (512, 512)
    input_name: str = "x.1"
    levels: tuple[int, ...] = (3, 4, 5, 6, 7)
    num_classes: int = 90
    anchor_scale: float = 4.0
    scales_per_octave: int = 3
    aspect_ratios: tuple[tuple[float, float], ...] = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
    max_candidates: int = 5000
    nms_iou: float = 0.5
    max_detections: int = 100
    score_floor: float = 0.001
    category_ids: tuple[int, ...] | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image's input: RGB planes, rows, columns."""
        return (3, *self.image_size)

    def takes(self, sides: Sequence[int | None]) -> bool:
        """Whether an image's *sides*, free where None, can be its planes or its pixels."""
        every = self.input_shape, (*self.image_size, 3)
        return any(all(a in (None, b) for a, b in zip(sides, of, strict=False)) for of in every)

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at each place of each level."""
        return self.scales_per_octave * len(self.aspect_ratios)

    @property
    def feature_sizes(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each level, P3 first: each halves the one before, rounded up."""
        rows, columns = self.image_size
        return tuple((-(-rows >> level), -(-columns >> level)) for level in self.levels)

    @property
    def num_anchors(self) -> int:
        """Anchors of all levels."""
        return sum(rows * columns for rows, columns in self.feature_sizes) * self.anchors_per_cell

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class heads, P3 first."""
        return tuple(f"class_p{level}" for level in self.levels)

    @property
    def box_names(self) -> tuple[str, ...]:
        """Names of the box heads, P3 first."""
        return tuple(f"box_p{level}" for level in self.levels)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of all heads in the recipe's order: class heads from P3 up, then box heads."""
        return self.class_names + self.box_names

    @property
    def head_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Shape (channels, rows, columns) of each head for one image, in the recipe's order."""
        return {
            name: (self.anchors_per_cell * width, *size)
            for names, width in ((self.class_names, self.num_classes), (self.box_names, 4))
            for name, size in zip(names, self.feature_sizes, strict=True)
        }

    @property
    def options(self) -> dict[str, str]:
        """The options of a command that name this spec, where they are not the default."""
        plain = SPECS.get(self.arch, D0)
        every = {
            "--arch": (self.arch, D0.arch),
            "--num-classes": (self.num_classes, plain.num_classes),
            "--image-size": (self.image_size, plain.image_size),
        }
        return {
            option: "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for option, (value, usual) in every.items()
            if value != usual
        }

    @property
    def siblings(self) -> list[str]:
        """The architectures whose weights have the same shapes, this one too."""
        return [arch for arch in SPECS if _network(arch) == _network(self.arch)]

    def sized(self, image_size: str) -> "ModelSpec":
        """
        The same network for images of *image_size*, ``N`` or ``ROWSxCOLUMNS`` in pixels.

        Raises `SpecError` where a side is no multiple of the stride of the last level.
        """
        stride = 2 ** self.levels[-1]
        match = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", image_size)
        sides = (0, 0) if match is None else (int(match[1]), int(match[2] or match[1]))
        if sides == self.image_size:  # lite's own size is no multiple
            return self
        if any(side < stride or side % stride for side in sides):
            raise SpecError(
                f"--image-size is {image_size}, but N or ROWSxCOLUMNS is wanted, each a multiple "
                f"of {stride}, the stride of P{self.levels[-1]} of {self.arch}"
            )
        return replace(self, image_size=sides)


def _network(arch: str) -> str:
    return arch.removeprefix("tf_").removesuffix("_ap")


def _tuples(value: Any) -> Any:
    """Lists of JSON as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


#: Architecture -> what differs from D0, and ``checkpoint``, the file that effdet publishes for it.
TABLE: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("architectures.json").read_text()
)
SPECS = {
    arch: ModelSpec(arch, **{k: _tuples(v) for k, v in facts.items() if k != "checkpoint"})
    for arch, facts in TABLE.items()
}
D0 = SPECS["tf_efficientdet_d0"]
#: mAP in percent that the recipe asks of a D0 on val2017.
D0_MAP = 33.4


def spec_for(arch: str) -> ModelSpec:
    """Return the spec of *arch*; raise `SpecError` for one that effdet does not configure."""
    if arch not in SPECS:
        near = difflib.get_close_matches(arch, SPECS, 3, 0.3) or [D0.arch]
        raise SpecError(
            f"--arch is {arch!r}, but effd0 knows the {len(SPECS)} of effdet, such as "
            f"{', '.join(near)}"
        )
    return SPECS[arch]
