"""Stage graph: the ONNX file computes what the checkpoint does, node by node as it stands."""

from __future__ import annotations

import pytest

from effd0.diagnosis.parity import PlainModel

from .conftest import NoteFigure

pytestmark = pytest.mark.stage("graph")


def test_its_nodes_compute_what_the_checkpoint_does(
    plain_model: PlainModel, note_figure: NoteFigure
) -> None:
    """Run without any optimisation, the graph gives torch's heads."""
    note_figure(*plain_model.figure_of("graph"))
    plain_model.check("graph")
