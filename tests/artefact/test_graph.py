"""Stage graph: the ONNX file computes what the checkpoint does, node by node as it stands."""

from __future__ import annotations

import pytest

from .conftest import NoteFigure
from .plain import PlainHeads

pytestmark = pytest.mark.stage("graph")


def test_its_nodes_compute_what_the_checkpoint_does(
    plain_heads: PlainHeads, note_figure: NoteFigure
) -> None:
    """Run without any optimisation, the graph gives torch's heads."""
    note_figure(*plain_heads.figure_of("graph"))
    plain_heads.hold("graph")
