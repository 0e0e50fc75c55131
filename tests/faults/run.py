"""A pipeline without a fault, a fault planted in it, and what the suite says of it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from effd0.cli.pytest_suite import RECORD
from effd0.data import fixture
from effd0.data.coco import Dataset, labelled, load_coco
from effd0.data.preprocess import preprocess
from effd0.detection.postprocess import Detections
from effd0.diagnosis.parity import fresh_export
from effd0.evaluation.pipeline import run_dataset
from effd0.metrics.coco import entries_of, to_coco_results
from effd0.metrics.summary import coco_metrics
from effd0.results.check import Check, Verdict, verdict_of
from effd0.runners.base import Runner
from effd0.runners.registry import RunnerOptions, open_runner
from effd0.spec import D0, ModelSpec
from effd0.tensors.inputs import write_inputs

ROOT = Path(__file__).parents[2]
#: Scenes: enough for a mAP, few enough for their heads to be kept on disk.
SCENES = 12
#: The gate's documented threshold, in percent: far below what the good model has on the scenes.
MIN_MAP = 33.4
Found = Mapping[int, Detections]


@dataclass(frozen=True)
class Good:
    """
    What is right, and stays so: a fault is planted in a copy.

    *dataset* lies in *root*, the first of *scenes*; *model* is the export of *checkpoint* with a
    free batch; *bins* are its inputs and *results* the model's outputs for them, both with their
    manifests; *detections* is what was found, in COCO's result format; *points* is its mAP in
    percent.
    """

    scenes: Path
    root: Path
    dataset: Dataset
    checkpoint: Path
    model: Path
    bins: Path
    results: Path
    detections: Path
    spec: ModelSpec
    points: float


@dataclass(frozen=True)
class Planted:
    """
    A pipeline with a fault: the *options* of pytest that name it, and what is *patched* meanwhile.

    *found* gives the detections that come of it in *dataset* (None: the good one), for the effect
    on mAP, asked for while the patch is on; None where none can.  *points* is the mAP of what the
    fault was planted in (None: the good one's).
    """

    options: tuple[str, ...]
    patched: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    found: Callable[[], Found] | None = None
    dataset: Path | None = None
    points: float | None = None


#: What is right and an empty folder for what is not -> the pipeline with the fault.
Plant = Callable[[Good, Path], Planted]


@dataclass(frozen=True)
class Fault:
    """
    A fault called *id* of *stage*, seen in *source*.

    *diagnosis* is a pattern that the verdict's diagnosis has to match; empty where no cause can be
    named, because the effect is all there is.  *in_part*: some images or rows are right.
    """

    id: str
    stage: str
    source: str
    diagnosis: str
    plant: Plant = field(repr=False)
    in_part: bool = False

    @property
    def kind(self) -> str:
        """Precision of the build that it is planted in, or that it is wrong in part."""
        precision, dash, _ = self.id.partition("-")
        return precision if dash and precision in ("int8", "fp16") else "part" * self.in_part


def base_options(
    good: Good, *, root: Path | None = None, checkpoint: Path | None = None
) -> tuple[str, ...]:
    """The options by which a run is about the scenes, or others, and some weights."""
    return (
        f"--coco={good.root if root is None else root}",
        f"--checkpoint={good.checkpoint if checkpoint is None else checkpoint}",
        f"--min-map={MIN_MAP}",
    )


def with_model(good: Good, path: Path, *, runs: bool = True) -> Planted:
    """The good pipeline with the ONNX file *path*."""
    return Planted(
        (*base_options(good), f"--model={path}", "--runner=ort"),
        found=(lambda: detections_of(path, good.dataset, good.spec)) if runs else None,
    )


def make_good(
    folder: Path,
    spec: ModelSpec = D0,
    scenes: Path | None = None,
    checkpoint: Path | None = None,
) -> Good:
    """Make all that is right, in *folder*: of *spec*, or of the embedded D0 and its scenes."""
    scenes, checkpoint = scenes or fixture.coco_root(), checkpoint or fixture.checkpoint()
    root, model, bins = folder / "coco", folder / "d0.onnx", folder / "bins"
    dataset = load_coco(copy_scenes(scenes, root, SCENES))
    spec = labelled(spec, dataset)
    shutil.copy(fresh_export(checkpoint, spec), model)
    list(write_inputs(dataset, bins, spec))
    found = detections_of(model, dataset, spec)
    points = coco_metrics(dataset, found, spec).ap
    assert points is not None
    # The heads by the model as ais_bench writes them, with the inputs' manifest.
    results, detections = folder / "result", folder / "detections.json"
    results.mkdir()
    with open_runner("ort", model, spec, RunnerOptions()) as runner:
        for sample in dataset.samples:
            tensor = preprocess(sample.path, spec).tensor[None].astype(np.float32)
            heads = runner.infer({runner.inputs[0].name: tensor})
            for n, name in enumerate(spec.output_names):
                heads[name].tofile(results / f"{sample.path.stem}_{n}.bin")
    shutil.copy(bins / "manifest.json", folder / "result_manifest.json")
    rows = [*entries_of(to_coco_results(found, spec))]
    detections.write_text(json.dumps(rows))
    files = (scenes, root, dataset, checkpoint, model, bins, results, detections)
    return Good(*files, spec, 100 * points)


def copy_scenes(scenes: Path, root: Path, count: int) -> Path:
    """Copy the first *count* of *scenes*, in COCO's layout, to *root*; return it."""
    dataset = load_coco(scenes, image_limit=count)
    content = json.loads(dataset.annotation_file.read_text())
    ids = set(dataset.image_ids)
    content["images"] = [image for image in content["images"] if image["id"] in ids]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / dataset.annotation_file.name).write_text(json.dumps(content))
    (root / "val2017").mkdir()
    for sample in dataset.samples:
        shutil.copy(sample.path, root / "val2017")
    return root


def detections_of(model: Path, dataset: Dataset, spec: ModelSpec) -> Found:
    """What the ONNX file *model* finds in *dataset*."""
    with open_runner("ort", model, spec, RunnerOptions()) as runner:
        return detections_by(runner, dataset, spec)


def detections_by(runner: Runner, dataset: Dataset, spec: ModelSpec) -> Found:
    """What *runner*, which is open, finds in *dataset*."""
    found = run_dataset(dataset.samples, runner, spec, batch_size=1)
    return {sample.image_id: detections for sample, detections in found}


@dataclass(frozen=True)
class Outcome:
    """Whether a run passed, its verdict, its *seconds*, and its whole output."""

    passed: bool
    verdict: Verdict
    seconds: float
    output: str


@dataclass(frozen=True)
class Row:
    """How a fault fared, and the points of mAP that it moves; None where nothing can be scored."""

    fault: Fault
    outcome: Outcome
    map_change: float | None

    @property
    def stage_right(self) -> bool:
        """Whether the first broken stage is the one that the fault was planted in."""
        return self.outcome.verdict.stage == self.fault.stage

    @property
    def named(self) -> bool | None:
        """Whether the diagnosis names the fault; None where no cause can be named."""
        if not self.fault.diagnosis:
            return None
        return re.search(self.fault.diagnosis, self.outcome.verdict.diagnosis) is not None

    @property
    def right(self) -> bool:
        """Whether the fault was caught, in its stage, under its name."""
        return not self.outcome.passed and self.stage_right and self.named is not False


class _Ended:
    """What a session found, taken from it at its end: None of one that did not begin."""

    checks: list[Check] | None = None

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Take the checks of *session*."""
        self.checks = session.config.stash[RECORD].checks


def run_suite(planted: Planted, *, first_only: bool = True) -> Outcome:
    """Run the suite on *planted*; with *first_only* no further than the first failure."""
    words = [
        str(ROOT / "tests/suite"), f"--rootdir={ROOT}", "-q", "-p", "no:cacheprovider",
        # This process has run the suite before, and uses effd0 itself.
        "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning",
        "--threads=1",  # other runs go on beside this one
        *planted.options, *(["-x"] if first_only else []),
    ]  # fmt: skip
    ended, start = _Ended(), time.perf_counter()
    with planted.patched(), contextlib.redirect_stdout(io.StringIO()) as shown:
        code = pytest.main(words, plugins=[ended])
    seconds, output = time.perf_counter() - start, shown.getvalue()
    if ended.checks is None:
        usage = Verdict("fail", check="usage", evidence=output[-500:])
        return Outcome(passed=False, verdict=usage, seconds=seconds, output=output)
    verdict = verdict_of(ended.checks)
    # What stays undecided is no false alarm.
    undecided = verdict.status == "undecided"
    wanted = pytest.ExitCode.TESTS_FAILED if undecided else pytest.ExitCode.OK
    passed = verdict.status != "fail" and code == wanted
    return Outcome(passed, verdict, seconds, output)
