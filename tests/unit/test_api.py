"""effd0: the public names, as a notebook uses them."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest

import effd0
from effd0.spec import ModelSpec


@pytest.mark.parametrize("name", effd0.__all__)
def test_a_public_name_says_what_it_is(name: str) -> None:
    """Each name of the package is there and has a docstring of its own."""
    thing = getattr(effd0, name)
    assert not inspect.ismodule(thing)
    assert isinstance(thing, ModelSpec) or inspect.getdoc(thing)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that was misspelt is refused as in any module."""
    with pytest.raises(AttributeError, match="module 'effd0' has no attribute 'evaluat'"):
        _ = effd0.evaluat


def test_the_package_is_light() -> None:
    """`import effd0` needs no backend, nor numpy, nor anything else that is installed."""
    code = "import effd0, sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"numpy", "torch", "onnx", "onnxruntime", "openvino", "ray", "acl", "PIL", "typer"}
    assert heavy.isdisjoint(out.stdout.split())


def test_a_notebook_goes_from_a_file_to_detections() -> None:
    """The lines of the package's docstring find in the first scene what its annotations name."""
    dataset = effd0.load_coco(effd0.coco_root(), image_limit=1)
    sample = dataset.samples[0]
    image = effd0.preprocess(sample.path, effd0.D0)
    with effd0.open_runner("torch", effd0.runners.checkpoint(), effd0.D0) as runner:
        outputs = runner.infer({effd0.D0.input_name: np.asarray(image.tensor)[None]})
    (heads,) = effd0.split_heads(outputs, effd0.D0)
    found = effd0.postprocess(heads, image.image_scale, image.image_size, effd0.D0)
    metrics = effd0.coco_metrics(dataset, {sample.image_id: found}, effd0.D0)
    assert metrics.ap is not None
    assert metrics.ap > 0.3
