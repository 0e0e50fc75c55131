"""Other architectures, classes and input sizes: each step is effdet's, or torch's, as D0's is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from effd0.data.coco import load_coco
from effd0.data.fixture import coco_root, sample_inputs
from effd0.data.preprocess import preprocess
from effd0.detection.heads import split_heads
from effd0.detection.postprocess import postprocess
from effd0.diagnosis.bisect import bisect
from effd0.diagnosis.parity import check_heads
from effd0.errors import CheckpointError
from effd0.export import verify
from effd0.export.to_onnx import ExportSettings
from effd0.graph.rewrites import DEFAULT_EDITS, ORT_EDITS
from effd0.results.check import Broken
from effd0.runners.base import NamedRunner, Runner
from effd0.runners.checkpoint import blank_layers, build_model, load_model
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.runners.torch import TorchDetector
from effd0.spec import D0, SPECS, ModelSpec
from effd0.tensors.diff import compare_tensors
from effd0.tolerances import SAME_FLOAT32
from effd0.types import Tensor, Tensors
from tests.emulator.tools import EmulatedRunner, compile_emulated
from tests.helpers import OBLONG, effd0
from tests.helpers import onnx_models as graphs
from tests.helpers.onnx_models import head_model, nodes_of
from tests.helpers.weights import settled, write_settled
from tests.suite import test_own_stages
from tests.suite.reference import Geometry, effdet_detections

#: What differs most from D0: deeper cells; relu6, plain sums, an odd P7; bilinear resampling and a
#: pyramid of quads; whole convolutions and leaky ReLUs; six levels; no square; classes of its own.
CASES = {
    "d1": SPECS["tf_efficientdet_d1"].sized("128x256"),
    "lite0": SPECS["tf_efficientdet_lite0"],
    "own-classes": replace(
        D0.sized("256x128"), num_classes=7, category_ids=(2, 3, 5, 7, 11, 13, 170)
    ),
    "q1": SPECS["efficientdet_q1"].sized("128x256"),
    "cspresdet50": SPECS["cspresdet50"].sized("128x256"),
    "d7x": SPECS["tf_efficientdet_d7x"].sized("256"),
    "512x384": OBLONG,
    "d1-640": SPECS["tf_efficientdet_d1"],
}
FAST = ("lite0", "own-classes")
Weights = Callable[[str], Path]


def each_of(*names: str) -> pytest.MarkDecorator:
    """Run a test for each of these `CASES`; in the default run for `FAST` alone."""
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "case", [pytest.param(name, marks=[] if name in FAST else slow) for name in names]
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Return the checkpoint of a case, which is made once."""
    folder = tmp_path_factory.mktemp("weights")

    def made(case: str) -> Path:
        path = folder / f"{case}.pth"
        return path if path.exists() else write_settled(CASES[case], path)

    return made


def heads_of(model: Any, spec: ModelSpec, images: Tensor) -> Tensors:
    """The heads that a network in torch gives of *images*, by name."""
    with torch.inference_mode():
        classes, boxes = model(torch.from_numpy(images))
    heads = (head.numpy() for head in (*classes, *boxes))
    return dict(zip(spec.output_names, heads, strict=True))


def one_by_one(runner: Runner, spec: ModelSpec, images: Tensor) -> Tensors:
    """The heads of *images* by an open *runner*, whatever its batch size."""
    rows = [runner.infer({spec.input_name: image[None]}) for image in images]
    return {name: np.concatenate([row[name] for row in rows]) for name in spec.output_names}


# The weights that the tests below are made with.


@each_of(*CASES)
def test_weights_vary_as_trained_ones_do(case: str, weights: Weights) -> None:
    """They pass for trained, and heads of scenes that they were not settled on vary as a D0's."""
    spec = CASES[case]
    model = load_model(weights(case), spec)
    assert blank_layers(model) == {}
    heads = heads_of(model, spec, sample_inputs(8, spec)[4:])
    # The bundled D0: class logits by 2.6 to 4.1 and box codes by 0.16 to 0.22, by level.
    for names, low, high in ((spec.class_names, 1, 5), (spec.box_names, 0.05, 0.4)):
        assert all(low < heads[name].std() < high for name in names)
    # Of P3 alone: of the last level of a small input there are few places.
    assert heads["class_p3"].std(axis=0).mean() > 0.5, "the heads depend on the picture"


def test_weights_are_the_same_each_time(weights: Weights) -> None:
    """Whoever makes them again has the same numbers, and draws the same numbers afterwards."""
    before = torch.get_rng_state()
    state = settled(CASES["lite0"]).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    kept = torch.load(weights("lite0"), weights_only=True)
    assert [name for name in state if not torch.equal(state[name], kept[name])] == []


def rolled(net: Any, by: int) -> None:
    """Let the last layer of *net* give each output *by* channels later."""
    last = net.predict.conv_pw
    for tensor in (last.weight.data, last.bias.data):
        tensor.copy_(tensor.roll(by, 0))


def bgr(model: Any) -> None:
    """The first convolution takes blue for red."""
    weight = model.backbone.conv_stem.weight.data
    weight.copy_(weight.flip(1))


def norms_exchanged(model: Any) -> None:
    """The class net's first norms of P3 and P4 are exchanged."""
    norms = model.class_net.bn_rep[0]
    norms[0].bn, norms[1].bn = norms[1].bn, norms[0].bn


def edges_exchanged(model: Any) -> None:
    """A fusion of the BiFPN weighs what it joins in the other order."""
    weights = model.fpn.cell[0].fnode[0].combine.edge_weights.data
    weights.copy_(weights.flip(0))


@pytest.fixture(scope="module")
def fresh_and_settled(weights: Weights) -> tuple[Any, Any]:
    """A D1 as effdet initialises it, and one with the weights of these tests."""
    return build_model(CASES["d1"]).eval(), load_model(weights("d1"), CASES["d1"])


PLANTED = {
    "bgr": bgr,
    "norms-exchanged": norms_exchanged,
    "edges-exchanged": edges_exchanged,
    "classes-shifted": lambda model: rolled(model.class_net, 1),
    "anchors-shifted": lambda model: rolled(model.box_net, 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTED.values(), ids=PLANTED)
def test_a_fault_that_fresh_weights_hide_is_seen(
    plant: Callable[[Any], None], fresh_and_settled: tuple[Any, Any]
) -> None:
    """A D1 as effdet initialises it passes with the fault; with these weights it is broken."""
    spec = CASES["d1"]
    images, found = sample_inputs(1, spec), []
    for model in fresh_and_settled:
        faulty = copy.deepcopy(model)
        plant(faulty)
        found.append((heads_of(model, spec, images), heads_of(faulty, spec, images)))
    check_heads(*found[0], spec)
    with pytest.raises(Broken, match=r"differs by .*, but at most 0\.002 is allowed"):
        check_heads(*found[1], spec)


# From a checkpoint to detections.


@each_of(*CASES)
def test_detections_are_effdets(case: str, weights: Weights) -> None:
    """Number, order, classes, corners and scores in scenes, on the host and on the device's way."""
    spec = CASES[case]
    samples = load_coco(coco_root(), image_limit=3).samples
    inputs = [preprocess(sample.path, spec, normalized=False) for sample in samples]
    with TorchDetector(weights(case), spec) as runner, torch.inference_mode():
        (on_device,) = runner.detect_stream([inputs])
        # The same batch, of which the detector's own heads are the same to the bit.
        pixels = torch.from_numpy(np.stack([one.tensor for one in inputs]))
        both = runner._heads(pixels)
        named = dict(zip(spec.output_names, (h.numpy() for of in both for h in of), strict=True))
        check_heads(runner.infer({spec.input_name: sample_inputs(3, spec)}), named, spec)
    heads = split_heads(named, spec)
    ids = np.array(spec.category_ids or range(1, spec.num_classes + 1))
    for sample, head, device in zip(samples, heads, on_device, strict=True):
        image = Geometry.of(sample.size, spec)
        wanted = effdet_detections(head, image, spec)
        wanted[:, 5] = ids[wanted[:, 5].astype(int) - 1]
        assert len(wanted) == spec.max_detections
        for found in (postprocess(head, image.scale, image.size, spec), device):
            test_own_stages._compare(found, wanted, sample, "these", lambda *_: None)


@pytest.mark.slow
def test_detections_of_a_d7_are_effdets() -> None:
    """One scene at 1536 pixels: heads of its own shapes, and effdet's detections of them; 3 GB."""
    spec = SPECS["tf_efficientdet_d7"]
    heads = heads_of(settled(spec, scenes=1), spec, sample_inputs(2, spec)[1:])
    assert {name: head.shape[1:] for name, head in heads.items()} == spec.head_shapes
    sample = load_coco(coco_root(), image_limit=2).samples[1]
    image = Geometry.of(sample.size, spec)
    (head,) = split_heads(heads, spec)
    found = postprocess(head, image.scale, image.size, spec)
    wanted = effdet_detections(head, image, spec)
    test_own_stages._compare(found, wanted, sample, "these", lambda *_: None)


@each_of("d1", "lite0", "q1", "cspresdet50", "d7x")
def test_weights_of_another_architecture_name_theirs(case: str, weights: Weights) -> None:
    """Given as those of a D0 they are refused, with the few architectures that they may be of."""
    with pytest.raises(
        CheckpointError, match="not a checkpoint of tf_efficientdet_d0 with"
    ) as told:
        load_model(weights(case), D0)
    others = str(told.value).partition("give --arch (")[2].partition(")")[0].split(", ")
    assert CASES[case].arch in others
    assert len(others) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("arch", SPECS)
def test_heads_have_the_shapes_of_effdets_network(arch: str) -> None:
    """In the architecture's own size, of the network itself, which computes nothing for this."""
    spec = SPECS[arch]
    with torch.device("meta"):
        classes, boxes = build_model(spec).eval()(torch.empty(1, *spec.input_shape))
    heads = zip(spec.output_names, (*classes, *boxes), strict=True)
    assert {name: head.shape[1:] for name, head in heads} == spec.head_shapes


# ONNX and beyond.

#: Case -> places of three edits: terms and sums of the feature pyramid, gates of the backbone.
#: A plain sum has no weights to fold, and lite no gates.
EDITED = {
    "d1": (76, 32, 23),
    "lite0": (0, 24, 0),
    "own-classes": (57, 24, 16),
    "q1": (144, 63, 23),
    "cspresdet50": (76, 32, 0),
    "d7x": (0, 80, 55),
    "512x384": (57, 24, 16),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", EDITED)
def test_each_build_computes_what_torch_does(case: str, weights: Weights, tmp_path: Path) -> None:
    """Exported free and fixed, simplified, and edited for compilers and for ONNX Runtime."""
    spec, source = CASES[case], weights(case)
    paths = free, fixed, simple, default, quick = [tmp_path / f"{n}.onnx" for n in "abcde"]
    verify.export_onnx(source, free, spec, ExportSettings(batch_size=None))
    verify.export_onnx(source, fixed, spec, ExportSettings(batch_size=1))
    verify.simplify_onnx(fixed, simple, spec)
    edited = verify.modify_onnx(simple, default, spec, DEFAULT_EDITS)
    changes = {c.edit.name: c.matches for c in edited.changes}
    edited = verify.modify_onnx(simple, quick, spec, ORT_EDITS)
    changes |= {c.edit.name: c.matches for c in edited.changes}
    images = sample_inputs(6, spec)[4:]  # others than those that each step compares by itself
    with open_runner("torch", source, spec, RunnerOptions()) as runner:
        wanted = one_by_one(runner, spec, images)
    worst = []
    for path in paths:
        with NamedRunner(open_runner("ort", path, spec, RunnerOptions()), spec) as ort:
            worst.append(compare_tensors(wanted, one_by_one(ort, spec, images))[0])
    # Measured 2026-12-01: 7.1e-4 where ONNX Runtime sums the means of large maps, 1.0e-4 with
    # step-means.
    assert max(diff.max_abs for diff in worst) <= SAME_FLOAT32.limit
    found = tuple(changes[name] for name in ("fold-weights", "fuse-sums", "spread-gates"))
    assert found == EDITED[case]


@pytest.mark.slow
def test_a_d1_of_640_is_evaluated_as_in_torch(weights: Weights) -> None:
    """In its own size, the file that is made for ONNX Runtime gives torch's heads."""
    spec, source = CASES["d1-640"], weights("d1-640")
    images = sample_inputs(6, spec)[4:]
    with open_runner("torch", source, spec, RunnerOptions()) as runner:
        wanted = one_by_one(runner, spec, images)
    with (
        verify.exported(source, spec, 1, ORT_EDITS) as path,
        NamedRunner(open_runner("ort", path, spec, RunnerOptions()), spec) as ort,
    ):
        # Measured 2026-12-01: 2.0e-4; 3.4e-3 without step-means.
        check_heads(wanted, one_by_one(ort, spec, images), spec)


@pytest.mark.parametrize(
    ("case", "shape"),
    [("lite0", "1,3,320,320"), ("512x384", "1,3,512,384")],
    ids=["lite0", "512x384"],
)
def test_the_command_of_atc_has_its_own_numbers(
    case: str, shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input's shape, and mean and deviation of the normalisation on the chip."""
    monkeypatch.chdir(tmp_path)
    spec = CASES[case]
    onnx.save(head_model(spec.head_shapes, spec.image_size, batch=1), "m.onnx")
    size = "x".join(map(str, spec.image_size))
    words = ("--arch", spec.arch, "--image-size", size, "--soc-version", "Ascend310P3")
    outcome = effd0("compile", "--model", "m.onnx", "--output", "m", "--aipp", "--dry-run", *words)
    assert outcome.code == 0, outcome.err
    assert f"--input_shape=x.1:{shape} " in outcome.out
    aipp = Path(f"aipp_{spec.arch}.cfg").read_text()
    rows, columns = spec.image_size
    assert f"src_image_size_w: {columns}" in aipp
    assert f"src_image_size_h: {rows}" in aipp


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lite0", "512x384", "d1"])
def test_an_emulated_om_computes_what_torch_does(
    case: str, weights: Weights, tmp_path: Path
) -> None:
    """Compiled in float32 by the emulated ATC and run by the emulated pyACL, heads are torch's."""
    spec, source = CASES[case], weights(case)
    images = sample_inputs(2, spec)
    with verify.exported(source, spec, 1) as model:
        om = compile_emulated(model, tmp_path / "m.om", spec)
    with open_runner("torch", source, spec, RunnerOptions()) as runner:
        wanted = one_by_one(runner, spec, images)
    with NamedRunner(EmulatedRunner(om), spec) as emulated:
        check_heads(wanted, one_by_one(emulated, spec, images), spec)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "number", "plant"),
    [("Resize", 3, graphs.linear), ("Conv", 30, graphs.scaled)],
    ids=["resize", "weights"],
)
def test_a_fault_in_lite0_is_found_in_its_node(
    op: str, number: int, plant: Callable[[Any, Any], str], weights: Weights, tmp_path: Path
) -> None:
    """Bisection of a build of lite0 names the one node that was changed."""
    spec = CASES["lite0"]
    with verify.exported(weights("lite0"), spec, 1) as model:
        content = onnx.load(str(model))
        wanted = plant(content, nodes_of(content, op)[number])
        onnx.save(content, str(tmp_path / "bad.onnx"))
        finding = bisect(tmp_path / "bad.onnx", model, spec)
    assert finding.status == "differs"
    assert [suspect.node for suspect in finding.suspects] == [wanted]
