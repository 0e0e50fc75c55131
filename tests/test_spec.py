"""Tests for `effd0.spec`: the facts of the model, against effdet's own configuration."""

from __future__ import annotations

import re

import pytest
from effdet import get_efficientdet_config
from effdet.data import resolve_input_config
from effdet.data.transforms import resolve_fill_color

from effd0.errors import SpecError
from effd0.spec import D0, SPECS, ModelSpec, spec_for

EVERY_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=[f"arch={name}" for name in SPECS])


def test_d0_has_the_published_anchors() -> None:
    """Five levels of 64 to 4 cells a side, nine anchors each, make 49,104."""
    assert D0.feature_sizes == (64, 32, 16, 8, 4)
    assert D0.anchors_per_cell == 9
    assert D0.num_anchors == 49_104
    assert D0.input_shape == (3, 512, 512)


def test_heads_are_named_and_shaped_in_the_order_of_the_recipe() -> None:
    """Class heads P3 to P7 of 810 channels come first, then box heads of 36."""
    assert list(D0.head_shapes.items()) == [
        ("class_p3", (810, 64, 64)),
        ("class_p4", (810, 32, 32)),
        ("class_p5", (810, 16, 16)),
        ("class_p6", (810, 8, 8)),
        ("class_p7", (810, 4, 4)),
        ("box_p3", (36, 64, 64)),
        ("box_p4", (36, 32, 32)),
        ("box_p5", (36, 16, 16)),
        ("box_p6", (36, 8, 8)),
        ("box_p7", (36, 4, 4)),
    ]
    assert D0.output_names == tuple(D0.head_shapes)


@EVERY_SPEC
def test_model_is_the_one_that_effdet_configures(spec: ModelSpec) -> None:
    """Everything that shapes heads, anchors and detections is effdet's number."""
    config = get_efficientdet_config(spec.arch)
    assert tuple(config.image_size) == (spec.image_size, spec.image_size)
    assert (config.min_level, config.max_level) == (spec.levels[0], spec.levels[-1])
    assert config.num_levels == len(spec.levels)
    assert config.num_classes == spec.num_classes
    assert config.num_scales == spec.scales_per_octave
    assert config.anchor_scale == spec.anchor_scale
    assert tuple(map(tuple, config.aspect_ratios)) == spec.aspect_ratios
    assert config.max_detection_points == spec.max_candidates
    assert config.max_det_per_image == spec.max_detections
    assert config.soft_nms is False


@EVERY_SPEC
def test_input_is_the_one_that_effdet_resolves(spec: ModelSpec) -> None:
    """Mean, deviation and fill colour are those that effdet's validation feeds the model."""
    config = resolve_input_config({}, get_efficientdet_config(spec.arch))
    assert tuple(config["mean"]) == spec.mean
    assert tuple(config["std"]) == spec.std
    assert tuple(resolve_fill_color(config["fill_color"], config["mean"])) == spec.fill


@EVERY_SPEC
def test_spec_is_found_by_its_name(spec: ModelSpec) -> None:
    """An architecture's name leads to its spec and to no other."""
    assert spec_for(spec.arch) is spec


def test_unknown_architecture_is_refused_with_the_known_ones() -> None:
    """The message shows what was asked for and every name that would do."""
    message = (
        "--arch is 'efficientdet_d1', but effd0 knows "
        "tf_efficientdet_d0, efficientdet_d0, tf_efficientdet_d0_ap"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        spec_for("efficientdet_d1")
