"""A runner's outputs -> the heads of each image, found by name or shape, checked to be finite."""

from dataclasses import dataclass

import numpy as np

from ..errors import HeadError
from ..spec import ModelSpec
from ..types import Floats, Tensors


@dataclass(frozen=True)
class HeadOutputs:
    """The heads of one image: per level, (810, rows, columns) and (36, rows, columns) float32."""

    classes: tuple[Floats, ...]
    boxes: tuple[Floats, ...]


def split_heads(outputs: Tensors, spec: ModelSpec) -> list[HeadOutputs]:
    """
    Sort a runner's *outputs* into the heads of each image of the batch.

    A head is found by its name, or, where a model has other names, by its shape; never by
    position.  Raises `HeadError` where a head is missing, doubled or of another shape.
    """
    heads = named_heads(outputs, spec)
    batch = {head.shape[0] for head in heads.values()}
    if len(batch) != 1:
        raise HeadError(f"heads hold {sorted(batch)} images, but all must hold the same number")
    return [
        HeadOutputs(
            tuple(heads[name][i] for name in spec.class_names),
            tuple(heads[name][i] for name in spec.box_names),
        )
        for i in range(batch.pop())
    ]


def named_heads(outputs: Tensors, spec: ModelSpec) -> dict[str, Floats]:
    """
    Return the heads of a batch, (N, channels, rows, columns) float32, in the recipe's order.

    Finds them as `split_heads` does, and raises what it raises.
    """
    shapes = spec.head_shapes
    if outputs.keys() == shapes.keys():
        names = {name: name for name in shapes}
    else:
        by_shape = {shape: name for name, shape in shapes.items()}
        names = {}
        for given, tensor in outputs.items():
            name = by_shape.get(tuple(tensor.shape[1:]))
            if name is None or name in names:
                known = {given: tensor.shape for given, tensor in outputs.items()}
                raise HeadError(
                    f"output {given} is {tensor.shape}, but each of {list(shapes.values())} "
                    f"(channels, rows, columns) was wanted once; the model gives {known}"
                )
            names[name] = given
    for name, shape in shapes.items():
        if name not in names:
            raise HeadError(f"{name} (N, {shape}) is missing among outputs {sorted(outputs)}")
        if outputs[names[name]].shape[1:] != shape:
            raise HeadError(
                f"{name} is {outputs[names[name]].shape}, but (N, {', '.join(map(str, shape))}) "
                "was wanted; the model's outputs may be swapped: export it again"
            )
    return {name: np.asarray(outputs[names[name]], np.float32) for name in shapes}


def check_head(name: str, head: Floats) -> None:
    """Raise `HeadError` if the *head* called *name* holds NaN or infinity."""
    # NaN is the extreme of whatever holds it.
    if np.isfinite(head.min()) and np.isfinite(head.max()):
        return
    bad = head[~np.isfinite(head)]
    raise HeadError(
        f"{name} holds {bad.size} values that are not finite (the first is {bad[0]}), "
        "but logits and box codes must be; the backend overflowed or the model is broken"
    )
