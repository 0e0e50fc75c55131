"""effd0: the public names, as a notebook uses them."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest

import effd0
from effd0.spec import ModelSpec


def test_a_public_name_says_what_it_is() -> None:
    """Each name of the package is there and has a docstring; another is an AttributeError."""
    things = [getattr(effd0, name) for name in effd0.__all__]
    assert all(isinstance(thing, ModelSpec) or inspect.getdoc(thing) for thing in things)
    assert not any(map(inspect.ismodule, things))
    with pytest.raises(AttributeError, match="module 'effd0' has no attribute 'evaluat'"):
        _ = effd0.evaluat


IMPORT_WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[2:]:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
__import__(sys.argv[1])
"""
EXTRAS = (
    "torch", "effdet", "timm", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "onnxsim", "acl",
    "openvino", "ray", "fsspec", "jinja2", "matplotlib", "hypothesis",
    "pycocotools", "pyarrow",
)  # fmt: skip


@pytest.mark.parametrize(
    ("module", "without"),
    [("effd0", (*EXTRAS, "numpy", "PIL", "pytest", "typer")), ("effd0.cli.main", EXTRAS)],
    ids=["package", "command-line"],
)
def test_the_base_install_is_enough(module: str, without: tuple[str, ...]) -> None:
    """The package imports next to nothing, and the command line none of the extras."""
    subprocess.run([sys.executable, "-c", IMPORT_WITHOUT, module, *without], check=True)


def test_a_notebook_goes_from_a_file_to_detections() -> None:
    """The lines of the package's docstring find in the first scene what its annotations name."""
    dataset = effd0.load_coco(effd0.coco_root(), image_limit=1)
    sample = dataset.samples[0]
    image = effd0.preprocess(sample.path, effd0.D0)
    with effd0.open_runner("torch", effd0.checkpoint(), effd0.D0) as runner:
        outputs = runner.infer({effd0.D0.input_name: np.asarray(image.tensor)[None]})
    (heads,) = effd0.split_heads(outputs, effd0.D0)
    found = effd0.postprocess(heads, image.image_scale, image.image_size, effd0.D0)
    metrics = effd0.coco_metrics(dataset, {sample.image_id: found}, effd0.D0)
    assert metrics.ap is not None
    assert metrics.ap > 0.3
