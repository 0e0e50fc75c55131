"""
The facts of EfficientDet-D0, each written once.

Three checkpoints share the heads and differ in what is fed to them: ``tf_efficientdet_d0`` is
the recipe's model, ``efficientdet_d0`` pads its convolutions evenly, and
``tf_efficientdet_d0_ap`` (AdvProp) is fed values from -1 to 1 on black fill.
Source: the model configurations of effdet 0.4.1 and google/automl's EfficientDet.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import SpecError

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelSpec:
    """
    An EfficientDet-D0: its input, its ten outputs, and what is done to both.

    Class outputs are logits; box outputs are (ty, tx, th, tw) relative to an anchor.
    """

    arch: str
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    fill: tuple[int, int, int] = (124, 116, 104)
    image_size: int = 512
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

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image's input: RGB planes, rows, columns."""
        return (3, self.image_size, self.image_size)

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at each place of each level."""
        return self.scales_per_octave * len(self.aspect_ratios)

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Rows (and columns) of each level, P3 first."""
        return tuple(self.image_size >> level for level in self.levels)

    @property
    def num_anchors(self) -> int:
        """Anchors of all levels."""
        return sum(size * size for size in self.feature_sizes) * self.anchors_per_cell

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
        """Names of all heads in the recipe's order: class P3..P7, then box P3..P7."""
        return self.class_names + self.box_names

    @property
    def head_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Shape (channels, rows, columns) of each head for one image, in the recipe's order."""
        class_channels = self.anchors_per_cell * self.num_classes
        box_channels = self.anchors_per_cell * 4
        shapes = {}
        for names, channels in ((self.class_names, class_channels), (self.box_names, box_channels)):
            for name, size in zip(names, self.feature_sizes, strict=True):
                shapes[name] = (channels, size, size)
        return shapes


D0 = ModelSpec("tf_efficientdet_d0")

SPECS = {
    spec.arch: spec
    for spec in (
        D0,
        ModelSpec("efficientdet_d0"),
        ModelSpec(
            "tf_efficientdet_d0_ap", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), fill=(0, 0, 0)
        ),
    )
}


def spec_for(arch: str) -> ModelSpec:
    """Return the spec of *arch*; raise `SpecError` for one that is not an EfficientDet-D0."""
    try:
        return SPECS[arch]
    except KeyError:
        known = ", ".join(SPECS)
        raise SpecError(f"--arch is {arch!r}, but effd0 knows {known}") from None
