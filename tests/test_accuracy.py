"""The gate: mAP of the artefact under test against its reference, runner by runner."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, check_images
from effd0.insight import insight
from effd0.io import sha256
from effd0.pytest_options import PATHS, pool_asked
from effd0.report import Evaluation
from effd0.runfile.suite import Draw
from effd0.runners.registry import RunnerOptions
from effd0.spec import ModelSpec
from effd0.suspicions.architecture import suspect_architecture
from effd0.tolerances import BETWEEN_RUNNERS, MAY_ROUND, ROUNDED, TO_RECORD

from .gate import Gate, against_reference, drop_verdict, points_in, settle
from .measured import Measured, OpenRunner, WorkersFor
from .session_workers import workers_of

pytestmark = [pytest.mark.accuracy, pytest.mark.artefact]

Measure = Callable[[str, int | None], Measured]
HoldDrop = Callable[[Measure, Dataset, str], None]
NoteEvaluation = Callable[[Evaluation, Draw], None]
NoteFigure = Callable[[float | None, float | None, str], None]


@pytest.fixture(scope="session")
def workers_for(
    pytestconfig: pytest.Config,
    runners_here: list[str],
    options_of: Callable[[str], RunnerOptions],
) -> Iterator[WorkersFor]:
    """Give the workers of --workers or --devices, on Ray, which is started once."""
    with workers_of(pool_asked(pytestconfig), runners_here, options_of) as workers:
        yield workers


@pytest.fixture(scope="session")
def gate(
    open_under_test: OpenRunner,
    checkpoint: Path,
    spec: ModelSpec,
    note_measured: Callable[[str], None],
    note_evaluation: NoteEvaluation,
    options_of: Callable[[str], RunnerOptions],
    workers_for: WorkersFor,
    request: pytest.FixtureRequest,
) -> Gate:
    """The runs of this session, each of which is made once."""
    option = request.config.getoption

    def file_of(name: str) -> Path:
        # The emulated compiler's files differ from session to session: what it compiled does not.
        made = dict.fromkeys(("emulated", "ort", "openvino"), "onnx_model")
        given: dict[str, Path] = {
            "torch": checkpoint,
            "acl": option("--model"),
            "recorded": option("--results"),
        }
        path: Path = request.getfixturevalue(made[name]) if name in made else given[name]
        return path

    return Gate(
        spec=spec,
        checkpoint=checkpoint,
        file_of=file_of,
        open_under_test=open_under_test,
        own_model=option("--model") is not None,
        out=option("--out"),
        resume=option("--resume"),
        options_of=options_of,
        say=note_measured,
        keep=note_evaluation,
        workers_for=workers_for,
    )


@pytest.fixture(scope="session")
def measure_embedded(gate: Gate, embedded_dataset: Dataset) -> Measure:
    """Score a runner on the embedded scenes, once for each runner and batch size."""
    return gate.measure_on("embedded", embedded_dataset)


@pytest.fixture(scope="session")
def measure_coco(gate: Gate, dataset_under_test: Dataset, pytestconfig: pytest.Config) -> Measure:
    """Score a runner on --coco, each image decoded before, once for each runner and batch size."""
    for _ in check_images(dataset_under_test.samples):
        pass
    return gate.measure_on("coco", dataset_under_test, pytestconfig.getoption("--min-map"))


def _between(runner_name: str) -> float:
    return (ROUNDED if runner_name in MAY_ROUND else BETWEEN_RUNNERS).limit


def _for_the_embedded_alone(config: pytest.Config) -> None:
    """Skip what is known of the embedded weights on the embedded scenes only."""
    # Results of others may be of the embedded default, too.
    own = [option for option in PATHS if option not in ("--results", "--bins")]
    given = [option for option in own if config.getoption(option) is not None]
    if given:
        pytest.skip(f"the record is the embedded default's: leave out {', '.join(given)}")


def test_embedded_checkpoint_is_the_recorded_one() -> None:
    """The reference was measured with the weights and annotations that lie in the repository."""
    record = embedded.reference()
    annotations = embedded.coco_root() / "annotations" / "instances_val2017.json"
    assert record["checkpoint_sha256"] == sha256(embedded.checkpoint())
    assert record["annotations_sha256"] == sha256(annotations)


def test_embedded_map_is_the_recorded_reference(
    measure_embedded: Measure,
    runner_name: str,
    note_figure: NoteFigure,
    pytestconfig: pytest.Config,
) -> None:
    """Every runner reaches the mAP of effdet's own pipeline on the embedded scenes."""
    _for_the_embedded_alone(pytestconfig)
    measured = measure_embedded(runner_name, None)
    assert measured.evaluation.metrics.images == embedded.reference()["images"]
    margin = ROUNDED if runner_name in MAY_ROUND else TO_RECORD
    distance = abs(measured.points - 100 * embedded.reference_ap())
    note_figure(distance, margin.limit, "points")
    assert measured.points == pytest.approx(100 * embedded.reference_ap(), abs=margin.limit)


def test_embedded_map_does_not_depend_on_the_runner(
    measure_embedded: Measure, runner_beside_torch: str, pytestconfig: pytest.Config
) -> None:
    """Every runner reaches torch's mAP with the same weights."""
    _for_the_embedded_alone(pytestconfig)
    torch_points = measure_embedded("torch", None).points
    assert measure_embedded(runner_beside_torch, None).points == pytest.approx(
        torch_points, abs=_between(runner_beside_torch)
    )


@pytest.mark.slow
def test_embedded_map_does_not_depend_on_the_batch(
    measure_embedded: Measure, runner_beside_torch: str, pytestconfig: pytest.Config
) -> None:
    """Seven images a batch, which does not divide 48, change nothing beyond rounding."""
    _for_the_embedded_alone(pytestconfig)
    one_by_one = measure_embedded(runner_beside_torch, None).points
    assert measure_embedded(runner_beside_torch, 7).points == pytest.approx(
        one_by_one, abs=BETWEEN_RUNNERS.limit
    )


@pytest.mark.coco
def test_coco_map_reaches_the_gate(
    measure_coco: Measure,
    dataset_under_test: Dataset,
    checkpoint: Path,
    spec: ModelSpec,
    runner_name: str,
    note_figure: NoteFigure,
    pytestconfig: pytest.Config,
) -> None:
    """On all images of --coco, mAP is at least --min-map."""
    measured = measure_coco(runner_name, _batch_size(pytestconfig))
    ap = measured.evaluation.metrics.ap
    note_figure(None if ap is None else 100 * ap, pytestconfig.getoption("--min-map"), "%")
    settle(
        measured.evaluation.verdict,
        required=_required(pytestconfig),
        suspect=lambda: suspect_architecture(points_in(dataset_under_test, checkpoint), spec),
    )


@pytest.fixture
def hold_drop(
    spec: ModelSpec,
    note_measured: Callable[[str], None],
    note_evaluation: NoteEvaluation,
    note_figure: NoteFigure,
    pytestconfig: pytest.Config,
) -> HoldDrop:
    """Return what holds a runner's mAP against torch's on the same images, by --max-drop."""

    def hold(measure: Measure, dataset: Dataset, runner_name: str) -> None:
        reference = measure("torch", None)
        measured = measure(runner_name, _batch_size(pytestconfig))
        wanted, candidate = reference.run, measured.run
        max_drop = pytestconfig.getoption("--max-drop")
        against = against_reference(
            dataset, wanted, reference.evaluation.metrics, candidate, spec, max_drop
        )
        note_measured(f"{candidate.runner}: {against.drop}; {against.parity}")
        draw = functools.partial(insight, dataset, candidate.found, wanted.found, spec)
        note_evaluation(replace(measured.evaluation, against=against), draw)
        note_figure(against.drop.points, max_drop, "points")
        settle(drop_verdict(against, dataset), required=_required(pytestconfig))

    return hold


@pytest.mark.coco
def test_coco_map_does_not_drop_against_torch(
    measure_coco: Measure,
    dataset_under_test: Dataset,
    runner_beside_torch: str,
    hold_drop: HoldDrop,
) -> None:
    """On the same images of --coco, a runner surely loses no more than --max-drop against torch."""
    hold_drop(measure_coco, dataset_under_test, runner_beside_torch)


def test_own_model_does_not_drop_on_the_scenes(
    measure_embedded: Measure,
    embedded_dataset: Dataset,
    runner_beside_torch: str,
    hold_drop: HoldDrop,
    pytestconfig: pytest.Config,
) -> None:
    """Where no --coco is given, the same holds on the embedded scenes."""
    if pytestconfig.getoption("--coco") is not None:
        pytest.skip("held on the images of --coco: leave it out to hold it on the scenes")
    if all(pytestconfig.getoption(option) is None for option in ("--model", "--checkpoint")):
        pytest.skip("needs a model of your own: no --model or --checkpoint was given")
    hold_drop(measure_embedded, embedded_dataset, runner_beside_torch)


def _required(config: pytest.Config) -> bool:
    """Whether what is not decided shall fail."""
    return "coco" in config.getoption("--require")


def _batch_size(config: pytest.Config) -> int | None:
    sizes: list[int] | None = config.getoption("--batch-size")
    return None if sizes is None else sizes[0]
