"""Stage preprocess: inputs are effdet's, and those in --bins, made elsewhere, are effd0's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effd0.data.coco import Dataset
from effd0.data.preprocess import preprocess
from effd0.diagnosis.hypothesis import one_of
from effd0.diagnosis.inputs import faults_of_inputs
from effd0.progress import OpenProgress
from effd0.results.check import Broken
from effd0.spec import ModelSpec

from .conftest import NoteFigure

pytestmark = pytest.mark.stage("preprocess")
#: Images whose inputs are compared with effdet's.
COMPARED = 3


def test_own_inputs_are_effdets(
    dataset_under_test: Dataset, spec: ModelSpec, note_figure: NoteFigure
) -> None:
    """What effd0 makes of these images is what effdet makes of them, bit for bit."""
    pytest.importorskip("effdet", reason="needs effdet: pip install 'effd0[torch]'")
    from .reference import effdet_input

    for sample in dataset_under_test.samples[:COMPARED]:
        wanted, scale = effdet_input(sample.path, spec)
        own = preprocess(sample.path, spec)
        worst = float(np.abs(own.tensor - wanted).max())
        note_figure(worst, 0, "max abs")
        if not np.array_equal(own.tensor, wanted):
            # What names mistakes rests on the same code, and is of no use here.
            raise Broken(
                f"{sample.path.name}: effd0's own input differs by {worst:.3g} from effdet's",
                "effd0's own preprocessing: effdet makes another input of the same image",
            )
        assert own.image_scale == pytest.approx(scale, rel=1e-7)  # the last bit of a float32


def test_inputs_made_elsewhere_are_effd0s_own(
    pytestconfig: pytest.Config,
    dataset_under_test: Dataset,
    spec: ModelSpec,
    open_progress: OpenProgress,
    note_figure: NoteFigure,
) -> None:
    """Every image has its input, which is effd0's own; no input is of another image."""
    folder: Path | None = pytestconfig.getoption("--bins")
    if folder is None:
        pytest.skip("needs inputs made elsewhere: no --bins DIR was given")
    faults = faults_of_inputs(dataset_under_test, folder, spec, open_progress)
    note_figure(len(faults), 0, "faults")
    if faults:
        raise one_of(faults)
