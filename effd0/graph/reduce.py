"""Means over whole feature maps, as the squeeze step of EfficientNet's blocks takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import require
from .base import (
    GraphEdit,
    attributes,
    axes_of,
    constants,
    feature_maps,
    map_shapes,
    replace_nodes,
)

#: Rows and columns of a tensor of rank 4, counted from either end.
SPATIAL_AXES = ([2, 3], [-2, -1])
#: Rows and columns that are left after the first of two steps.
_STEP = 8


def _spatial_means(model: Any) -> Iterator[Any]:
    """Each ReduceMean over rows and columns of a feature map that keeps them."""
    known, maps = constants(model), feature_maps(model)
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or node.input[0] not in maps:
            continue
        axes = axes_of(node, known)
        if axes is None or sorted(axes) not in SPATIAL_AXES:
            continue
        if attributes(node).get("keepdims", 1):
            yield node


def _mean_pool(model: Any) -> int:
    """Replace each mean over rows and columns by a GlobalAveragePool."""
    count = 0
    for node in _spatial_means(model):
        node.op_type = "GlobalAveragePool"
        del node.attribute[:], node.input[1:]
        count += 1
    return count


def _step_means(model: Any) -> int:
    """Replace each mean over rows and columns by an AveragePool to 8x8 and the mean of that."""
    helper = require("onnx.helper", extra="onnx")
    shapes, new = map_shapes(model), {}
    for node in _spatial_means(model):
        name, sides = node.output[0], shapes[node.input[0]][2:]
        if any(side is None or side % _STEP for side in sides):
            continue
        kernel = [side // _STEP for side in sides if side is not None]
        part = f"{name}_part"
        new[name] = [
            helper.make_node(
                "AveragePool",
                node.input[:1],
                [part],
                name=f"{part}/AveragePool",
                kernel_shape=kernel,
                strides=kernel,
            ),
            helper.make_node("GlobalAveragePool", [part], [name], name=f"{name}/GlobalAveragePool"),
        ]
    replace_nodes(model, new)
    return len(new)


EDITS = (
    GraphEdit(
        "mean-pool",
        "turns means over rows and columns (ReduceMean) into GlobalAveragePool",
        "read by ATC as a pooling, not as ReduceMeanD, whose float16 sums the recipe saw overflow",
        exact=True,
        apply=_mean_pool,
    ),
    GraphEdit(
        "step-means",
        "turns means over rows and columns into an average pooling to 8x8 and the mean of that",
        "a pooling in ONNX Runtime's blocked layout, whose sums are as exact as the mean's",
        exact=True,
        apply=_step_means,
    ),
)
