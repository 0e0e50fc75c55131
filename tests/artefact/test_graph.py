"""Stage graph: the ONNX file computes what the checkpoint does, node by node as it stands."""

from __future__ import annotations

import pytest

from .plain import PlainHeads

pytestmark = pytest.mark.stage("graph")


def test_its_nodes_compute_what_the_checkpoint_does(plain_heads: PlainHeads) -> None:
    """Run without any optimisation, the graph gives torch's heads."""
    plain_heads.hold("graph")
