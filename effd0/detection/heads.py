"""A runner's outputs -> the heads of each image, found by name or shape, checked to be finite."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import HeadError
from ..spec import ModelSpec
from ..types import Floats, Tensors

#: The share of positive values in the last two of four from which on boxes are decoded: codes of
#: 8 images had at most 0.32 of them, decoded boxes at least 0.9999, measured 2026-11-30.
DECODED = 0.95
#: Values of a box.
BOX_CODES = 4
#: The two tables of all anchors, as a model may name them.
MERGED = ("classes", "boxes")


@dataclass(frozen=True)
class HeadOutputs:
    """The heads of one image: per level, 9 planes a class and 36 of box codes, float32."""

    classes: tuple[Floats, ...]
    boxes: tuple[Floats, ...]


def split_heads(outputs: Tensors, spec: ModelSpec) -> list[HeadOutputs]:
    """
    Sort a runner's *outputs* into the heads of each image of the batch.

    A head is found by its name, or, where a model has other names, by its shape; never by
    position.  Two outputs of all anchors, (N, anchors, classes) and (N, anchors, 4), are split;
    their anchors are in the order of `anchor_boxes`.  Raises `HeadError` where a head is missing,
    doubled or of another shape, where these two are probabilities or decoded boxes, and where
    names are others and shapes the same: class heads of 4 classes have the shapes of box heads.
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
    names = head_names({name: tensor.shape for name, tensor in outputs.items()}, spec)
    found, merged = {name: outputs[given] for name, given in names.items()}, MERGED[0] in names
    for name, shape in (merged_shapes(spec) if merged else spec.head_shapes).items():
        if found[name].shape[1:] != shape:
            known = {given: tensor.shape for given, tensor in outputs.items()}
            raise HeadError(swapped(name, str(found[name].shape), f"(N, {str(shape)[1:]}", known))
    heads = _split(found, spec) if merged else found
    return {name: np.asarray(heads[name], np.float32) for name in spec.head_shapes}


def head_names(shapes: Mapping[str, tuple[int | None, ...]], spec: ModelSpec) -> dict[str, str]:
    """
    Each head of *spec*, or each of the `MERGED`, and the name of the output that it is.

    Outputs of the heads' own names are taken for them; of others, *shapes* with the batch tell.
    Raises `HeadError` where they do not.
    """
    wanted: dict[str, tuple[int | None, ...]] = {**spec.head_shapes}
    if is_merged([shape[1:] for shape in shapes.values()], spec):
        wanted = {**merged_shapes(spec)}
    if shapes.keys() == wanted.keys():
        return {name: name for name in wanted}
    if said := untold(shapes, spec):
        raise HeadError(said)
    by_shape, names = {shape: name for name, shape in wanted.items()}, dict[str, str]()
    for given, shape in shapes.items():
        name = by_shape.get(shape[1:])
        if name is None or name in names:
            raise HeadError(
                f"output {given} is {shape}, but each of {list(wanted.values())} "
                f"(channels, rows, columns) was wanted once; the model gives {dict(shapes)}"
            )
        names[name] = given
    for name, shape in wanted.items():
        if name not in names:
            raise HeadError(f"{name} (N, {shape}) is missing among outputs {sorted(shapes)}")
    return names


def untold(outputs: Collection[str], spec: ModelSpec) -> str:
    """What to say of *outputs* of which neither names nor shapes tell heads apart; else empty."""
    if spec.num_classes != BOX_CODES or set(outputs) in (set(spec.output_names), set(MERGED)):
        return ""
    return (
        f"the outputs are {sorted(outputs)}, but a class head of {BOX_CODES} classes has the shape "
        f"of a box head, so that names have to tell them apart; name the heads "
        f"{', '.join(spec.output_names)}, or the tables of all anchors {', '.join(MERGED)}"
    )


def swapped(name: str, got: str, wanted: str, outputs: Mapping[str, object]) -> str:
    """What to say of the output *name*, one of *outputs* with their shapes, of another's shape."""
    return (
        f"output {name} is {got}, but {wanted} was wanted: names and shapes do not fit together, "
        f"all outputs are {dict(outputs)}; export it with each head under its own name"
    )


def is_merged(shapes: Sequence[tuple[int | None, ...]], spec: ModelSpec) -> bool:
    """Whether the outputs of one image, of *shapes*, are the classes and boxes of all anchors."""
    return Counter(shapes) == Counter(merged_shapes(spec).values())


def class_count(shapes: Iterable[tuple[int | None, ...]], spec: ModelSpec) -> int | None:
    """How many classes outputs of these *shapes*, with the batch, have; None where not clear."""
    widths = list[int]()
    for shape in shapes:
        if len(shape) == len("NCHW") and shape[1] and shape[1] % spec.anchors_per_cell == 0:
            widths.append(shape[1] // spec.anchors_per_cell)
        elif shape[1:2] == (spec.num_anchors,) and shape[-1]:
            widths.append(shape[-1])
    counts = set(widths) - {BOX_CODES}
    if not counts and len(widths) in (len(MERGED), len(spec.output_names)):
        return BOX_CODES  # as many classes as a box has values
    return counts.pop() if len(counts) == 1 else None


def merged_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Shape (anchors, values) of each of the `MERGED` for one image."""
    return {
        name: (spec.num_anchors, width)
        for name, width in zip(MERGED, (spec.num_classes, BOX_CODES), strict=True)
    }


def _split(tables: Tensors, spec: ModelSpec) -> Tensors:
    """The heads that the `MERGED` *tables* of all anchors, (N, anchors, width), are made of."""
    classes, boxes = (tables[name] for name in MERGED)
    positive = (boxes[..., 2:] > 0).mean()
    if positive > DECODED:
        raise HeadError(
            f"the last two of {positive:.1%} of the boxes are positive, as are corners and sizes, "
            "but the codes (ty, tx, th, tw) were wanted; export the network without decoding"
        )
    if classes.min() >= 0 and classes.max() <= 1:
        raise HeadError(
            "all class outputs are from 0 to 1, as probabilities are, but logits were wanted; a "
            "sigmoid that ran to 0 or 1 cannot be undone: export the network without its last one"
        )
    cells = [spec.anchors_per_cell * rows * columns for rows, columns in spec.feature_sizes]
    ends = np.cumsum(cells)[:-1]
    levels = [level for values in (classes, boxes) for level in np.split(values, ends, axis=1)]
    heads = zip(spec.head_shapes.items(), levels, strict=True)
    return {
        name: np.ascontiguousarray(level.reshape(-1, rows, columns, channels).transpose(0, 3, 1, 2))
        for (name, (channels, rows, columns)), level in heads
    }


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
