"""Stage graph: the ONNX file computes what the checkpoint does, node by node as it stands."""

from __future__ import annotations

import pytest

from .conftest import CheckStage, NoteFigure

pytestmark = pytest.mark.stage("graph")


def test_its_nodes_compute_what_the_checkpoint_does(
    check_plain_model: CheckStage, note_figure: NoteFigure
) -> None:
    """Run without any optimisation, the graph gives torch's heads."""
    check_plain_model("graph", note_figure)
