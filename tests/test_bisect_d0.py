"""Tests for `effd0.bisect` on a D0: faults in its layers, and how far its clean forms differ."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import onnx
import pytest

from effd0.data import fixture as embedded
from effd0.diagnosis.bisect import bisect_networks
from effd0.diagnosis.graph_pairing import network_of
from effd0.export.to_onnx import ExportSettings, write_onnx, write_simplified
from effd0.spec import D0
from effd0.tolerances import NOISE
from effd0.types import Tensor

from .bisect_faults import FAULTS, halved_sides, nodes_of, renamed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The embedded checkpoint, exported and simplified."""
    folder = tmp_path_factory.mktemp("bisect")
    raw, simplified = folder / "raw.onnx", folder / "simplified.onnx"
    write_onnx(embedded.checkpoint(), raw, D0, ExportSettings(batch_size=1))
    write_simplified(raw, simplified)
    return raw, simplified


@pytest.fixture(scope="module")
def small(files: tuple[Path, Path]) -> Any:
    """The simplified D0 at 256 x 256: all of its nodes in a quarter of the time."""
    return halved_sides(onnx.load(str(files[1])))


@pytest.fixture(scope="module")
def image() -> Tensor:
    """An embedded image for it: the middle of the network's input."""
    return embedded.sample_inputs(1, D0)[:, :, 128:384, 128:384]


@pytest.mark.parametrize(
    ("fault", "share", "names"),
    [
        pytest.param("weights-scaled", 0.9, "renamed", id="weights-scaled-in-a-head"),
        pytest.param(
            "weights-rounded-to-float16", 0.0, "renamed", id="weights-rounded-in-the-stem"
        ),
        pytest.param("resize-mode", 0.7, "same", id="resize-mode"),
        pytest.param("maxpool-padding", 0.5, "renamed", id="maxpool-padding"),
        pytest.param("bifpn-edges-swapped", 0.4, "renamed", id="bifpn-edges-swapped"),
    ],
)
def test_a_fault_in_a_d0_is_named(
    fault: str, share: float, names: str, small: Any, image: Tensor
) -> None:
    """The node that was changed is the culprit, and what it reads is as in the reference."""
    op, plant = FAULTS[fault]
    bad = copy.deepcopy(small)
    nodes = nodes_of(bad, op)
    wanted = plant(bad, nodes[int(share * len(nodes))])
    if names == "renamed":
        wanted = renamed(bad)[wanted]
    finding = bisect_networks(network_of(bad), network_of(small), image)
    assert finding.culprit is not None
    assert finding.culprit.node == wanted
    assert finding.culprit.upstream == 0


def test_raw_and_simplified_are_the_same(files: tuple[Path, Path]) -> None:
    """Every node of the simplified D0 has a partner in the raw one, none off by more than noise."""
    raw, simplified = (network_of(onnx.load(str(path))) for path in files)
    finding = bisect_networks(simplified, raw, embedded.sample_inputs(1, D0))
    assert finding.status == "same"
    assert finding.pairs is not None
    assert sum(finding.pairs.values()) == finding.nodes
    # Outputs differ by 3.7e-7 (2026-11-23): a tenth of what is allowed leaves room for a CPU.
    assert finding.worst < NOISE.limit / 10
