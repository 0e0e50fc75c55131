"""The gate: mAP of the artefact under test against its reference, runner by runner."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from effd0.cli.pytest_plugin import PATHS
from effd0.cli.pytest_suite import (
    WITH_WORKERS,
    least_map,
    pool_asked,
    run_directory,
    runner_names,
    runner_options,
    runners_here,
    spec_given,
)
from effd0.data import fixture as embedded
from effd0.data.coco import Dataset, Sample
from effd0.detection.heads import named_heads
from effd0.diagnosis.dataset import check_reference
from effd0.diagnosis.parity import compare_recorded, diagnose_architecture, excess
from effd0.distributed.engine import RayEngine
from effd0.distributed.pool import check_pool
from effd0.distributed.ray_cluster import Cluster, started
from effd0.evaluation.engines import Engine, LocalEngine, RecordedEngine
from effd0.evaluation.evaluate import Evaluation, EvaluationJob, compared
from effd0.evaluation.model import ModelChoice
from effd0.io import sha256
from effd0.progress import OpenProgress
from effd0.report.insight import insight_of
from effd0.results.check import Broken
from effd0.results.suite import SuiteRecord
from effd0.spec import ModelSpec
from effd0.tolerances import BETWEEN_RUNNERS, MAY_ROUND, ROUNDED, TO_RECORD, max_drop_of
from effd0.types import Tensor, Tensors

from .conftest import OpenRunner, need_its_images
from .fixtures import onnx_given
from .gate import Gate, points, points_in, settle
from .scoring import pycocotools_metrics

pytestmark = [pytest.mark.accuracy, pytest.mark.artefact, pytest.mark.stage("gate")]

Measure = Callable[[str, int | None], Evaluation]
CheckDrop = Callable[[Measure, str, int | None], None]
NoteEvaluation = Callable[[Evaluation], None]
NoteFigure = Callable[[float | None, float | None, str], None]


@pytest.fixture(scope="session")
def ray_cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """Ray with the workers of --workers or --devices, from the first run of the session on."""
    pool = pool_asked(pytestconfig)
    assert pool is not None
    names = runners_here(pytestconfig)
    kind = check_pool(pool, {name: runner_options(pytestconfig, name) for name in names})
    with started(pool, kind) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def engine_of(
    spec: ModelSpec, request: pytest.FixtureRequest
) -> Callable[[str, int | None], Engine]:
    """Return what runs a runner of a name, with the artefact under test, at a batch size."""
    option, fixture_value = request.config.getoption, request.getfixturevalue
    names = runner_names(request.config)

    def engine(name: str, batch_size: int | None) -> Engine:
        if name == "recorded":
            return RecordedEngine(
                option("--results"), option("--split"), bins=option("--bins"), spec=spec
            )
        if name in ("torch", "openvino") and importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name} to compare with: pip install 'effd0[torch,onnx,openvino]'")
        options, runner = runner_options(request.config, name), None
        # What the others are compared with runs effd0's own inputs, if there are others.
        bins = option("--bins") if name != "torch" or names == ["torch"] else None
        if name == "torch":
            weights = fixture_value("checkpoint")
            choice = ModelChoice(checkpoint=weights, runner=name, spec=spec, options=options)
        else:
            if name == "acl":
                fixture_value("acl_kept_open")
            model = option("--model") if name == "acl" else fixture_value("onnx_model")
            choice = ModelChoice(model, runner=name, spec=spec, options=options)
        if name == "emulated":
            from tests.emulator.tools import EmulatedRunner

            # The emulated compiler's files differ from session to session: its source does not.
            runner = EmulatedRunner(fixture_value("emulated_model"))
        if name in WITH_WORKERS and (pool := pool_asked(request.config)) is not None:
            return RayEngine(choice, pool, batch_size, fixture_value("ray_cluster"))
        return LocalEngine(choice, batch_size, runner, bins)

    return engine


@pytest.fixture(scope="session")
def note_evaluation(session_record: SuiteRecord) -> NoteEvaluation:
    """Return a function that keeps an evaluation for --report-json."""
    return lambda one: session_record.keep(one.accuracy, functools.partial(insight_of, one))


@pytest.fixture(scope="session")
def gate(
    engine_of: Callable[[str, int | None], Engine],
    session_record: SuiteRecord,
    note_evaluation: NoteEvaluation,
    open_progress: OpenProgress,
    pytestconfig: pytest.Config,
) -> Gate:
    """The runs of this session, each of which is made once."""
    option = pytestconfig.getoption
    return Gate(
        engine_of,
        run_directory(pytestconfig),
        option("--resume"),
        session_record.lines.append,
        note_evaluation,
        open_progress,
        overwrite=option("--overwrite") or option("--out") is None,
    )


@pytest.fixture(scope="session")
def measure_embedded(gate: Gate, embedded_dataset: Dataset) -> Measure:
    """Score a runner on the bundled scenes, once for each runner and batch size."""
    return gate.measure_on("embedded", embedded_dataset, EvaluationJob())


@pytest.fixture(scope="session")
def measure_coco(gate: Gate, dataset_under_test: Dataset, pytestconfig: pytest.Config) -> Measure:
    """Score a runner on --coco, once for each runner and batch size."""
    option = pytestconfig.getoption
    job = EvaluationJob(
        option("--coco"),
        option("--split"),
        option("--image-limit"),
        min_map=least_map(pytestconfig),
    )
    return gate.measure_on("coco", dataset_under_test, job)


def _between(runner_name: str) -> float:
    return (ROUNDED if runner_name in MAY_ROUND else BETWEEN_RUNNERS).limit


@pytest.mark.stage("runner")
def test_every_recorded_image_gives_the_references_detections(
    request: pytest.FixtureRequest,
    opened: OpenRunner,
    engine_of: Callable[[str, int | None], Engine],
    images: Tensor,
    dataset_under_test: Dataset,
    spec: ModelSpec,
    precision_of: Callable[[str], str],
    open_progress: OpenProgress,
    note_figure: NoteFigure,
) -> None:
    """What --results give of each image, torch, or the ONNX file given, finds there too."""
    option = request.config.getoption
    if option("--results") is None:
        pytest.skip("needs results made elsewhere: no --results DIR was given")
    other = option("--checkpoint") is None and onnx_given(request.config) is not None
    name, precision = "ort" if other else "torch", precision_of("recorded")
    runner, recorded = opened(name), engine_of("recorded", None)
    assert isinstance(recorded, RecordedEngine)
    results, stems = recorded.read(dataset_under_test)

    def infer(tensor: Tensor) -> Tensors:
        return runner.infer({spec.input_name: tensor})

    def given(sample: Sample) -> Tensors:
        return named_heads(results.heads(stems[sample.image_id]), spec)

    samples = dataset_under_test.samples
    first = zip(samples, images, strict=False)
    if all(excess(infer(image[None]), given(sample), precision) for sample, image in first):
        pytest.skip("needs right heads of some image: those of the first ones differ, all of them")
    measure = request.getfixturevalue("measure_coco" if option("--coco") else "measure_embedded")
    found, wanted = (
        {sample: measure(one, None).found[sample.image_id] for sample in samples}
        for one in ("recorded", name)
    )
    files = {stem: of[0].path for stem, of in results.files.items()}
    broken = compare_recorded(found, wanted, given, infer, spec, precision, files, open_progress)
    note_figure(len(broken.details) if broken else 0, 0, "images")
    if broken:
        raise broken


def _for_the_embedded_alone(config: pytest.Config) -> None:
    """Skip what is known of the embedded weights on the embedded scenes only."""
    given = [option for option in PATHS if config.getoption(option) is not None]
    if given:
        pytest.skip(f"the record is the embedded default's: leave out {', '.join(given)}")


def _for_the_scenes(config: pytest.Config) -> None:
    """Skip what is checked on the images of --coco where they are given."""
    if config.getoption("--coco") is not None:
        pytest.skip("checked on the images of --coco; leave it out to check it on the scenes")
    need_its_images(config, spec_given(config))


def test_embedded_checkpoint_is_the_recorded_one(pytestconfig: pytest.Config) -> None:
    """The reference was measured with the weights and annotations that lie in the repository."""
    _for_the_embedded_alone(pytestconfig)
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
    assert measured.metrics.images == embedded.reference()["images"]
    margin = ROUNDED if runner_name in MAY_ROUND else TO_RECORD
    distance = abs(points(measured) - 100 * embedded.reference_ap())
    note_figure(distance, margin.limit, "points")
    assert points(measured) == pytest.approx(100 * embedded.reference_ap(), abs=margin.limit)


def test_embedded_map_does_not_depend_on_the_runner(
    measure_embedded: Measure, runner_beside_torch: str, pytestconfig: pytest.Config
) -> None:
    """Every runner reaches torch's mAP with the same weights."""
    _for_the_embedded_alone(pytestconfig)
    torch_points = points(measure_embedded("torch", None))
    assert points(measure_embedded(runner_beside_torch, None)) == pytest.approx(
        torch_points, abs=_between(runner_beside_torch)
    )


@pytest.mark.stage("evaluate")
def test_pycocotools_confirms_the_metrics(
    measure_embedded: Measure, runner_name: str, pytestconfig: pytest.Config
) -> None:
    """The twelve numbers and AP of each class are pycocotools' of the same detections."""
    _for_the_scenes(pytestconfig)
    _confirm(measure_embedded(runner_name, None))


def _confirm(measured: Evaluation) -> None:
    """Raise `Broken` unless pycocotools makes the same of the same detections."""
    theirs = pycocotools_metrics(measured.dataset, measured.found, measured.spec)
    if theirs != measured.metrics:
        raise Broken(
            f"effd0's AP is {measured.metrics.ap}, but pycocotools' {theirs.ap}",
            "effd0's own scoring: pycocotools makes other numbers of the same detections",
        )


@pytest.mark.slow
def test_embedded_map_does_not_depend_on_the_batch(
    measure_embedded: Measure, runner_beside_torch: str, pytestconfig: pytest.Config
) -> None:
    """Seven images a batch, which does not divide 48, change nothing beyond rounding."""
    _for_the_embedded_alone(pytestconfig)
    one_by_one = points(measure_embedded(runner_beside_torch, None))
    assert points(measure_embedded(runner_beside_torch, 7)) == pytest.approx(
        one_by_one, abs=BETWEEN_RUNNERS.limit
    )


@pytest.mark.coco
def test_the_checkpoint_itself_knows_the_data(
    measure_coco: Measure, spec: ModelSpec, pytestconfig: pytest.Config
) -> None:
    """In torch, the checkpoint finds what is annotated: else the data are wrong, not the build."""
    reference = measure_coco("torch", None)
    check_reference(reference.matches, spec, pytestconfig.getoption("--expected-map"))


@pytest.mark.coco
def test_coco_map_reaches_the_gate(
    measure_coco: Measure,
    dataset_under_test: Dataset,
    spec: ModelSpec,
    runner_name: str,
    given_batch: int | None,
    note_figure: NoteFigure,
    record_property: Callable[[str, object], None],
    request: pytest.FixtureRequest,
) -> None:
    """On all images of --coco, mAP is at least --min-map."""
    measured, config = measure_coco(runner_name, given_batch), request.config
    ap = measured.metrics.ap
    note_figure(None if ap is None else 100 * ap, least_map(config), "%")

    def diagnose() -> str | None:
        weights: Path | None = config.getoption("--checkpoint")
        if weights is None:
            return None
        options = runner_options(config, "torch")
        return diagnose_architecture(points_in(dataset_under_test, weights, options), spec)

    said = settle(measured.checks, required=_required(config), diagnose=diagnose)
    record_property("evidence", said)


@pytest.mark.coco
@pytest.mark.stage("evaluate")
def test_pycocotools_confirms_the_metrics_of_coco(
    measure_coco: Measure, runner_name: str, given_batch: int | None
) -> None:
    """On all images of --coco, the figures are pycocotools'; 5000 images take a minute."""
    _confirm(measure_coco(runner_name, given_batch))


@pytest.fixture
def check_drop(
    session_record: SuiteRecord,
    note_evaluation: NoteEvaluation,
    note_figure: NoteFigure,
    record_property: Callable[[str, object], None],
    pytestconfig: pytest.Config,
) -> CheckDrop:
    """Return what checks a runner's mAP against torch's on the same images, by --max-drop."""

    def check(measure: Measure, runner_name: str, batch: int | None) -> None:
        max_drop = pytestconfig.getoption("--max-drop")
        declared = pytestconfig.getoption("--declared-precision")
        if max_drop is None and runner_name in MAY_ROUND:
            max_drop = max_drop_of(declared)
        limits = max_drop, pytestconfig.getoption("--max-class-drop")
        evaluation = compared(measure(runner_name, batch), measure("torch", None), *limits)
        against = evaluation.accuracy.against
        assert against is not None
        backend = evaluation.accuracy.backend
        session_record.lines.append(f"{backend}: {against.drop}; {against.parity}")
        if worst := against.drop.worst_classes:
            session_record.lines.append(f"{backend}: classes that lose most, in points: {worst}")
        note_evaluation(evaluation)
        note_figure(against.drop.high, against.max_drop, "points")
        mine = evaluation.checks[len(measure(runner_name, batch).checks) :]
        said = msgspec.structs.replace(mine[0], evidence=f"{mine[0].evidence}; {against.parity}")
        settle((said, *mine[1:]), required=_required(pytestconfig))
        record_property("evidence", mine[0].evidence)

    return check


@pytest.mark.coco
def test_coco_map_does_not_drop_against_torch(
    measure_coco: Measure, runner_beside_torch: str, given_batch: int | None, check_drop: CheckDrop
) -> None:
    """On the same images of --coco, a runner surely loses no more than --max-drop against torch."""
    check_drop(measure_coco, runner_beside_torch, given_batch)


def test_own_model_does_not_drop_on_the_scenes(
    measure_embedded: Measure,
    runner_beside_torch: str,
    given_batch: int | None,
    check_drop: CheckDrop,
    pytestconfig: pytest.Config,
) -> None:
    """Without --coco, a runner surely loses no more than --max-drop on the embedded scenes."""
    _for_the_scenes(pytestconfig)
    if all(pytestconfig.getoption(option) is None for option in ("--model", "--checkpoint")):
        pytest.skip("needs a model of your own: no --model or --checkpoint was given")
    check_drop(measure_embedded, runner_beside_torch, given_batch)


def _required(config: pytest.Config) -> bool:
    """Whether what is not decided shall fail."""
    return "coco" in config.getoption("--require")
