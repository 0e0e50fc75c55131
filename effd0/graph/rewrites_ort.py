"""
Operators that ONNX Runtime's CPU provider keeps in its blocked layout, in place of others.

It computes convolutions and what stands between them in blocks of channels (NCHWc), and reorders
a tensor before and after each node that it cannot take so: a multiplication by one number, or by
one number a channel.  The same products are written here as nodes that it can.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np

from .rewrite import add_constant, constant, make, map_shape, replace

_NEAREST = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


def scale_convs(graph: Any) -> int:
    """Replace each product of a feature map and one constant by a depthwise 1x1 convolution."""
    count = 0
    for node in [node for node in graph if node.op_type == "Mul"]:
        for source, other in permutations(node.inputs):
            shape, factor = map_shape(source), constant(other)
            if shape is None or shape[1] is None or factor is None or factor.size != 1:
                continue
            weight = np.full((shape[1], 1, 1, 1), factor.reshape(()), factor.dtype)
            kernel = add_constant(graph, f"{node.outputs[0].name}_scale", weight)
            replace(node, make("Conv", [source, kernel], group=shape[1], kernel_shape=[1, 1]))
            count += 1
            break
    return count


def spread_gates(graph: Any) -> int:
    """Repeat what is one number a channel over all rows and columns before it multiplies a map."""
    count = 0
    for node in [node for node in graph if node.op_type == "Mul"]:
        for source, gate in permutations(node.inputs):
            shape, per_channel = map_shape(source), map_shape(gate)
            if shape is None or None in shape or per_channel != [*shape[:2], 1, 1]:
                continue
            if shape[2:] == [1, 1]:
                continue
            name = node.outputs[0].name
            region = add_constant(graph, f"{name}_region", np.empty(0, np.float32))
            repeats = np.array([1, 1, *shape[2:]], np.float32)
            scales = add_constant(graph, f"{name}_repeats", repeats)
            wide = make("Resize", [gate, region, scales], **_NEAREST)
            replace(node, wide, make("Mul", [source, wide.outputs[0]]))
            count += 1
            break
    return count
