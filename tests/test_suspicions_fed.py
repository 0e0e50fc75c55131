"""Tests for `effd0.suspicions.fed`: heads that are right for a wrong input name its mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effd0.data.preprocess import preprocess
from effd0.errors import ImageError
from effd0.suspicions import fed
from effd0.suspicions.fed import suspect_feed
from effd0.suspicions.mistakes import mistakes_for
from effd0.suspicions.source import Mistake, Source
from effd0.types import Floats, Tensor, Tensors

from .helpers import TINY, noise

#: Values of the input that each value of a head is a sum of.
READ = 200
#: Float16 outputs, the most that arithmetic leaves of a right input.
HALF = np.float16


def infer(tensor: Tensor) -> Tensors:
    """Heads of `TINY` that hang linearly on the input: sums of values here and there, weighted."""
    rng = np.random.default_rng(5)
    flat, heads = tensor.reshape(len(tensor), -1), {}
    for name, shape in TINY.head_shapes.items():
        places = rng.integers(0, flat.shape[1], (READ, *shape))
        weights = rng.standard_normal((READ, *shape)).astype(np.float32)
        heads[name] = (flat[:, places] * weights).sum(axis=1)
    return heads


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide picture of noise, larger than the input, so that it is resized and filled up."""
    path = tmp_path_factory.mktemp("photo") / "image.png"
    Image.fromarray(noise((300, 220))).save(path)
    return path


@pytest.fixture(scope="module")
def source(path: Path) -> Source:
    """The picture on its way to the input."""
    return Source(path, TINY)


def right(path: Path) -> Tensors:
    """The heads of the right input."""
    return infer(preprocess(path, TINY).tensor[None].astype(np.float32))


def wrong(name: str, source: Source) -> Tensors:
    """The heads of an input with the mistake *name*."""
    (mistake,) = [m for m in mistakes_for(TINY) if m.name == name]
    return infer(np.ascontiguousarray(mistake.remake(source), np.float32)[None])


def halved(heads: Tensors) -> dict[str, Floats]:
    """*heads*, rounded to float16."""
    return {name: head.astype(HALF).astype(np.float32) for name, head in heads.items()}


#: From each group of mistakes, and those that are only told from each other by the smaller error.
NAMES = (
    "not normalised (0..255)",
    "divided by 255 only",
    "normalised twice",
    "RGB/BGR swapped",
    "RGB/BGR swapped before normalising",
    "RGB/BGR swapped in the picture, not in the fill",
    "NHWC read as NCHW",
    "black fill",
    "grey fill of 114",
    "grey fill of 128",
    "centred letterbox",
    "mirrored",
    "stretched",
    "nearest resampling",
    "bilinear resampling without antialias",
)


@pytest.mark.parametrize("rounded", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_the_mistake_before_the_model_is_named(
    name: str, rounded: bool, path: Path, source: Source
) -> None:
    """The one mistake that gives these heads, also where they are rounded."""
    heads = wrong(name, source)
    found = suspect_feed(path, halved(heads) if rounded else heads, infer, TINY)
    assert found is not None
    assert found.name == f"input {name}"
    assert found.error_before > 1e-2
    assert found.error_after <= (2e-3 if rounded else 0)


def test_the_suspicion_tells_the_inverse(path: Path, source: Source) -> None:
    """Its words are those of the mistake's own."""
    found = suspect_feed(path, wrong("black fill", source), infer, TINY)
    assert found is not None
    assert str(found).startswith("input black fill: the error falls from ")
    assert found.explanation == "the fill is (124, 116, 104)"


Plant = Callable[[Tensors], Tensors]


def _other_heads(heads: Tensors) -> Tensors:
    rng = np.random.default_rng(1)
    return {
        n: (h.std() * rng.standard_normal(h.shape)).astype(np.float32) for n, h in heads.items()
    }


def _with_nan(heads: Tensors) -> Tensors:
    name = TINY.class_names[0]
    return {**heads, name: np.where(heads[name] > 0, np.nan, heads[name]).astype(np.float32)}


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(lambda heads: heads, id="right"),
        pytest.param(halved, id="right-in-float16"),
        pytest.param(_other_heads, id="unrelated"),
        pytest.param(lambda heads: {n: -h for n, h in heads.items()}, id="negated"),
        pytest.param(_with_nan, id="not-finite"),
    ],
)
def test_other_heads_are_not_laid_on_the_input(plant: Plant, path: Path) -> None:
    """Right heads bear no mistake, and what no mistake explains has no name."""
    assert suspect_feed(path, plant(right(path)), infer, TINY) is None


def test_one_wrong_head_is_not_laid_on_the_input(path: Path, source: Source) -> None:
    """A wrong input shows in every head; where one is right, the input was."""
    mixed = {**right(path), "class_p6": wrong("RGB/BGR swapped", source)["class_p6"]}
    assert suspect_feed(path, mixed, infer, TINY) is None


def test_one_explained_head_does_not_explain_the_others(path: Path, source: Source) -> None:
    """A mistake has to give all heads; that it gives one by chance is no test."""
    mixed = {**_other_heads(right(path)), "class_p6": wrong("RGB/BGR swapped", source)["class_p6"]}
    assert suspect_feed(path, mixed, infer, TINY) is None


def _nearly(part: float) -> Callable[[Source], Floats]:
    """Return an input of exchanged colours that is off by *part*."""
    return lambda source: source.tensor[::-1] * np.float32(1 + part)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param((0.01, 0.0, 0.01), id="between"),
        pytest.param((0.0, 0.01, 0.005), id="first"),
        pytest.param((0.01, 0.005, 0.0), id="last"),
        pytest.param((0.0, 0.0, 0.01), id="first-of-two"),
    ],
)
def test_the_best_of_several_is_named(
    parts: tuple[float, ...], path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistakes that are nearly the same are told by what they leave; the first where equal."""
    made = [Mistake(f"mistake {n}", "it is not", _nearly(part)) for n, part in enumerate(parts)]
    heads = wrong("RGB/BGR swapped", source)
    monkeypatch.setattr(fed, "mistakes_for", lambda _: made)
    found = suspect_feed(path, heads, infer, TINY)
    assert found is not None
    assert found.name == f"input mistake {parts.index(0.0)}"


@pytest.mark.parametrize(
    "plant",
    [pytest.param(lambda heads: heads, id="right"), pytest.param(_with_nan, id="not-finite")],
)
def test_what_no_mistake_can_give_costs_one_run(plant: Plant, path: Path) -> None:
    """No mistake is tried where nothing is wrong, or where heads overflowed."""
    runs: list[Tensor] = []

    def counted(tensor: Tensor) -> Tensors:
        runs.append(tensor)
        return infer(tensor)

    suspect_feed(path, plant(right(path)), counted, TINY)
    assert [run.shape for run in runs] == [(1, 3, 128, 128)]


def test_an_unreadable_image_is_told(tmp_path: Path, path: Path) -> None:
    """As everywhere, by its name."""
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"no\.png"):
        suspect_feed(tmp_path / "no.png", right(path), infer, TINY)
