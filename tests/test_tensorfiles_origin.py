"""Tests for `effd0.tensors.results`: results of another model or other inputs cannot pass."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from effd0.data.coco import load_coco
from effd0.errors import ResultError
from effd0.io import sha256
from effd0.tensors.results import check_model, open_results

from .cli_run import assert_one_error, effd0
from .helpers import SMALL, write_coco
from .recordings import write_bins, write_results, write_summary

STEMS = ("1", "2", "3")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Whole results of three images."""
    return write_results(tmp_path / "result", STEMS, "whole-stem")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file."""
    path = tmp_path / "d0.onnx"
    path.write_bytes(b"a model")
    return path


def summarise(folder: Path, **own: Any) -> None:
    """Write the summary beside *folder* in which effd0 says *own* of the results."""
    files = [[f"bins/{stem}.bin"] for stem in STEMS]
    write_summary(folder.parent / f"{folder.name}_summary.json", files, effd0=own)


def test_results_of_the_model_are_taken(folder: Path, model: Path) -> None:
    """The fingerprint decides, wherever the model lay when it was run."""
    summarise(folder, model="elsewhere/d0.onnx", model_sha256=sha256(model))
    check_model(folder, model, proved=True)


@pytest.mark.parametrize("proved", [False, True], ids=["if-known", "proved"])
def test_results_of_another_model_are_refused(folder: Path, model: Path, proved: bool) -> None:
    """Both are named, with the fingerprints by which they differ."""
    summarise(folder, model="other.onnx", model_sha256="ab" * 32)
    message = (
        rf"result holds the results of other\.onnx \(sha256 {'ab' * 6}\), but --model is "
        rf".*d0\.onnx \(sha256 {sha256(model)[:12]}\); run the inference again with it"
    )
    with pytest.raises(ResultError, match=message):
        check_model(folder, model, proved=proved)


@pytest.mark.parametrize(
    ("own", "names"),
    [
        pytest.param(None, "no model", id="no-summary"),
        pytest.param({}, "no model", id="another-tools-summary"),
        pytest.param({"model": "d0.om", "model_sha256": "ab" * 32}, r"d0\.om", id="compiled"),
    ],
)
def test_an_unknown_origin_contradicts_only_where_proof_is_asked(
    own: dict[str, Any] | None, names: str, folder: Path, model: Path
) -> None:
    """What a chip ran was compiled from the .onnx that it is compared with."""
    if own is not None:
        summarise(folder, **own)
    check_model(folder, model)
    with pytest.raises(ResultError, match=f"but the summary of .*result names {names}; leave"):
        check_model(folder, model, proved=True)


def test_a_model_that_is_not_there_is_said(folder: Path, tmp_path: Path) -> None:
    """No fingerprint can be taken of it."""
    with pytest.raises(ResultError, match=r"--model is .*no\.onnx, which is no file; give"):
        check_model(folder, tmp_path / "no.onnx")


def test_results_of_another_manifest_are_refused(tmp_path: Path) -> None:
    """Inputs that were written again, otherwise, are not those that were run."""
    bins = write_bins(tmp_path / "bins", load_coco(write_coco(tmp_path / "coco")))
    folder = write_results(tmp_path / "result", STEMS, "whole-stem")
    summarise(folder, manifest_sha256=sha256(bins / "manifest.json"))
    assert open_results(folder, SMALL, STEMS, bins=bins)
    write_bins(bins, load_coco(tmp_path / "coco", image_limit=2))
    (bins / "3.bin").unlink()
    with pytest.raises(ResultError, match=r"was made of the inputs of another manifest \(sha256 "):
        open_results(folder, SMALL, STEMS[:2], bins=bins)


def test_results_of_another_spec_are_refused(folder: Path) -> None:
    """The summary tells the architecture where no manifest does."""
    summarise(folder, spec=json.loads(json.dumps(asdict(SMALL))))
    assert open_results(folder, SMALL, STEMS)
    summarise(folder, spec=json.loads(json.dumps(asdict(replace(SMALL, mean=(0.5, 0.5, 0.5))))))
    message = r"is of a model with mean \[0\.5, 0\.5, 0\.5\], not \[.*result_summary\.json; give"
    with pytest.raises(ResultError, match=message):
        open_results(folder, SMALL, STEMS)


def test_postprocess_proves_the_model_if_asked(folder: Path, model: Path, tmp_path: Path) -> None:
    """``--model`` that the results are not of ends the command before anything is scored."""
    write_coco(tmp_path / "coco")
    summarise(folder, model="other.onnx", model_sha256="ab" * 32)
    words = ("postprocess", "--root", tmp_path / "coco", "--omfile", folder, "--model", model)
    assert_one_error(r"ResultError: .*holds the results of other\.onnx", *words)
    assert effd0(*words[:-2]).errors != effd0(*words).errors


@pytest.mark.slow
def test_the_suite_refuses_results_of_another_model(folder: Path, model: Path) -> None:
    """``pytest --results --model`` is a usage error where they do not belong together."""
    summarise(folder, model="other.onnx", model_sha256="ab" * 32)
    command = [sys.executable, "-m", "pytest", "--markers", "--runner=recorded"]
    done = subprocess.run(
        [*command, f"--results={folder}", f"--model={model}"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "holds the results of other.onnx" in done.stderr
