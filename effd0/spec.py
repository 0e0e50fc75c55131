"""
The facts of EfficientDet-D0, each written once.

Three checkpoints share the heads and differ in what is fed to them: ``tf_efficientdet_d0`` is
the recipe's model, ``efficientdet_d0`` pads its convolutions evenly, and
``tf_efficientdet_d0_ap`` (AdvProp) is fed values from -1 to 1 on black fill.
Source: the model configurations of effdet 0.4.1 and google/automl's EfficientDet.
"""

from dataclasses import dataclass

from .errors import SpecError

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ModelSpec:
    """
    An EfficientDet-D0: its input, its ten outputs, and what is done to both.

    Class outputs are logits; box outputs are (ty, tx, th, tw) relative to an anchor.
    """

    arch: str
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
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
        return {
            name: (self.anchors_per_cell * width, size, size)
            for names, width in ((self.class_names, self.num_classes), (self.box_names, 4))
            for name, size in zip(names, self.feature_sizes, strict=True)
        }


D0 = ModelSpec("tf_efficientdet_d0")

_ADVPROP = ModelSpec("tf_efficientdet_d0_ap", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (0, 0, 0))
SPECS = {spec.arch: spec for spec in (D0, ModelSpec("efficientdet_d0"), _ADVPROP)}


def spec_for(arch: str) -> ModelSpec:
    """Return the spec of *arch*; raise `SpecError` for one that is not an EfficientDet-D0."""
    if arch not in SPECS:
        raise SpecError(f"--arch is {arch!r}, but effd0 knows {', '.join(SPECS)}")
    return SPECS[arch]
