"""Means over whole feature maps, as the squeeze step of EfficientNet's blocks takes them."""

from __future__ import annotations

from typing import Any

from .base import GraphEdit, attributes, axes_of, constants, feature_maps

#: Rows and columns of a tensor of rank 4, counted from either end.
SPATIAL_AXES = ([2, 3], [-2, -1])


def _mean_pool(model: Any) -> int:
    """Replace each ReduceMean over rows and columns that keeps them by a GlobalAveragePool."""
    known, maps = constants(model), feature_maps(model)
    count = 0
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or node.input[0] not in maps:
            continue
        axes = axes_of(node, known)
        if axes is None or sorted(axes) not in SPATIAL_AXES:
            continue
        if not attributes(node).get("keepdims", 1):
            continue
        node.op_type = "GlobalAveragePool"
        del node.attribute[:], node.input[1:]
        count += 1
    return count


EDITS = (
    GraphEdit(
        "mean-pool",
        "turns means over rows and columns (ReduceMean) into GlobalAveragePool",
        "read by ATC as a pooling, not as ReduceMeanD, whose float16 sums the recipe saw overflow",
        exact=True,
        apply=_mean_pool,
    ),
)
