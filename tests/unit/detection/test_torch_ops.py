"""Detection on the device finds what the host finds."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from effd0.data.coco import Dataset
from effd0.data.preprocess import normalize
from effd0.detection import torch_ops
from effd0.detection.heads import HeadOutputs, split_heads
from effd0.detection.postprocess import Detections, postprocess
from effd0.detection.torch_ops import DeviceSteps, on_host, unpack
from effd0.errors import HeadError
from effd0.spec import D0, ModelSpec
from effd0.tolerances import BOXES, SCORES
from effd0.types import Pixels, Tensors
from tests.helpers import FED_APART, SMALL, TINY, noise, synthetic_heads
from tests.suite.reference import Geometry

SIZES = [(640, 480), (333, 517), (32, 20)]


def tensors(
    heads: list[HeadOutputs], dtype: Any = torch.float32
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return class heads and box heads of a batch, as a network gives them, channels last."""

    def stacked(levels: list[tuple[np.ndarray, ...]]) -> list[torch.Tensor]:
        batches = [torch.tensor(np.stack(level)) for level in zip(*levels, strict=True)]
        return [b.to(dtype, memory_format=torch.channels_last) for b in batches]

    return stacked([one.classes for one in heads]), stacked([one.boxes for one in heads])


def found_on_device(
    heads: list[HeadOutputs], images: list[Geometry], spec: ModelSpec, dtype: Any = torch.float32
) -> list[Detections | None]:
    """Return what the device finds; None of an image is what it leaves to the host."""
    steps = DeviceSteps(spec, "cpu")
    geometry = steps.geometry([one.scale for one in images], [one.size for one in images])
    return unpack(steps.packed(*tensors(heads, dtype), geometry).numpy(), spec)


def assert_same(
    found: Detections | None, heads: HeadOutputs, image: Geometry, spec: ModelSpec
) -> None:
    """What was found is what the host finds, in its order, to the last bits of exp()."""
    __tracebackhide__ = True
    wanted = postprocess(heads, image.scale, image.size, spec)
    assert found is not None, "the device itself decides"
    assert found.classes.tolist() == wanted.classes.tolist()
    assert found.boxes.dtype == wanted.boxes.dtype
    assert np.abs(found.scores - wanted.scores).max(initial=0) <= SCORES.limit
    assert np.abs(found.boxes - wanted.boxes).max(initial=0) <= BOXES.limit * max(image.size)


@pytest.mark.parametrize("arch", FED_APART)
def test_pixels_are_normalised_bit_for_bit(arch: str) -> None:
    """Every value in every channel becomes what the host makes of it, in the order of planes."""
    spec = FED_APART[arch]
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    batch: list[Pixels] = [every, noise((16, 16))]
    found = DeviceSteps(spec, "cpu").normalize(torch.tensor(np.stack(batch)))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(found.numpy(), np.stack([normalize(one, spec) for one in batch]))


@pytest.mark.parametrize("shift", [-6, -20], ids=["sure", "faint"])
def test_synthetic_heads_of_a_batch_give_what_the_host_finds(shift: float) -> None:
    """Each image has its own heads, scale and border; logits below 0 are in order too."""
    heads = [synthetic_heads(seed, shift=shift) for seed in range(3)]
    images = [Geometry.of(size, D0) for size in SIZES]
    found = found_on_device(heads, images, D0)
    for one, head, image in zip(found, heads, images, strict=True):
        assert_same(one, head, image, D0)


def test_trained_heads_give_what_the_host_finds(
    torch_heads: Tensors, embedded_dataset: Dataset, spec: ModelSpec
) -> None:
    """The device decides what the network says of images with many near-equal boxes."""
    heads = split_heads(torch_heads, spec)[:3]
    images = [Geometry.of(sample.size, spec) for sample in embedded_dataset.samples[:3]]
    for one, head, image in zip(found_on_device(heads, images, spec), heads, images, strict=True):
        assert_same(one, head, image, spec)


@given(
    levels=st.tuples(
        *[
            # Few values: many logits tie, -0 and 0 among them, and many boxes are equal.
            hnp.arrays(np.float32, shape, elements=st.sampled_from([-2, -1, -0.0, 0, 1, 2]))
            for shape in TINY.head_shapes.values()
        ]
    ),
    most=st.integers(1, 12),
    candidates=st.integers(1, 140),
    block=st.integers(1, 60),
    rounds=st.integers(1, 12),
)
def test_ties_come_by_index(
    levels: tuple[np.ndarray, ...], most: int, candidates: int, block: int, rounds: int
) -> None:
    """Whatever is looked at at a time, and however often; what is not decided is told."""
    spec = replace(TINY, max_detections=most, max_candidates=candidates)
    heads, image = HeadOutputs(levels[:2], levels[2:]), Geometry.of((256, 200), spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_ops, "BLOCK", block)
        patch.setattr(torch_ops, "ROUNDS", rounds)
        (found,) = found_on_device([heads], [image], spec)
    if found is not None or rounds == 12:  # no chain is as long
        assert_same(found, heads, image, spec)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_rounded_heads_are_taken_as_they_are(dtype: torch.dtype) -> None:
    """Many logits tie once rounded; the host finds the same in the same numbers as float32."""
    heads, image = synthetic_heads(1), Geometry.of((640, 480), D0)
    rounded = HeadOutputs(
        *(tuple(h[0].float().numpy() for h in t) for t in tensors([heads], dtype))
    )
    (found,) = found_on_device([heads], [image], D0, dtype)
    assert_same(found, rounded, image, D0)
    assert found is not None
    assert len(np.unique(found.scores)) < len(found), "ties are among them"


@pytest.mark.parametrize(("name", "value"), [("CANDIDATES", 99), ("ROUNDS", 1)])
def test_what_is_not_decided_is_left_to_the_host(
    name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few candidates or rounds give no detections of the device's own, and the same at last."""
    heads, image = synthetic_heads(0), Geometry.of((640, 480), D0)
    monkeypatch.setattr(torch_ops, name, value)
    assert found_on_device([heads], [image], D0) == [None]
    found = on_host(*tensors([heads]), 0, image.scale, image.size, D0)
    assert_same(found, heads, image, D0)


@pytest.mark.parametrize("kind", ["class", "box"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=["nan", "+inf", "-inf"])
def test_heads_that_are_not_finite_are_refused(kind: str, value: float) -> None:
    """In any image of a batch and outside the candidates too, with the head's name."""
    good = synthetic_heads(0, SMALL)
    levels = {"class": list(good.classes), "box": list(good.boxes)}
    levels[kind][1] = levels[kind][1].copy()
    levels[kind][1][0, 0, 0] = value
    heads = [good, HeadOutputs(tuple(levels["class"]), tuple(levels["box"]))]
    image = Geometry.of((128, 128), SMALL)
    assert found_on_device(heads, [image] * 2, SMALL)[1] is None
    with pytest.raises(HeadError, match=re.escape(f"{kind}_p4 holds 1 values that are not finite")):
        on_host(*tensors(heads), 1, image.scale, image.size, SMALL)


@pytest.mark.slow
def test_nothing_of_it_leaves_the_graph() -> None:
    """A compiler follows all of it: nothing waits for a value, as a CUDA graph must not."""
    heads = [synthetic_heads(seed, SMALL) for seed in range(2)]
    steps = DeviceSteps(SMALL, "cpu")
    geometry = steps.geometry([1.0, 2.0], [(128, 128), (256, 200)])
    whole = torch.compile(steps.packed, fullgraph=True, backend="eager")
    assert torch.equal(whole(*tensors(heads), geometry), steps.packed(*tensors(heads), geometry))
