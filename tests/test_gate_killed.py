"""``pytest -m accuracy --out`` killed with no time to clean up, and gone on with."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest

from effd0.data import fixture as embedded
from effd0.evaluation.run_dir import RECORDS

from .killed import ended, killed_at
from .rundir_runs import outcome

pytestmark = pytest.mark.slow

SCENES = 10
POINTS = 3


def few_scenes(root: Path) -> Path:
    """Write the first embedded scenes as the COCO folder *root*; return it."""
    name = "annotations/instances_val2017.json"
    content = json.loads((embedded.coco_root() / name).read_text())
    images = sorted(content["images"], key=lambda image: int(image["id"]))[:SCENES]
    ids = {image["id"] for image in images}
    annotations = [a for a in content["annotations"] if a["image_id"] in ids]
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    (root / name).write_text(json.dumps({**content, "images": images, "annotations": annotations}))
    for image in images:
        file = Path("val2017") / image["file_name"]
        shutil.copyfile(embedded.coco_root() / file, root / file)
    return root


def test_pytest_killed_at_random_points_ends_as_the_whole_one(
    onnx_model: Path, tmp_path: Path
) -> None:
    """Killed three times in one run, and resumed, it ends in the detections of a whole one."""
    root = few_scenes(tmp_path / "coco")
    weights = [f"--model={onnx_model}", f"--checkpoint={embedded.checkpoint()}"]
    options = ["--runner=ort", "--batch-size=2", f"--coco={root}", "--min-map=1", *weights]
    suite = [sys.executable, "-m", "pytest", "-q", "-m", "accuracy", "-k", "reaches_the_gate"]

    def command(out: Path, *more: str) -> list[str]:
        return [*suite, "tests/test_accuracy.py", *options, f"--out={out}", *more]

    place = "coco-ort-batch2"
    ended(command(tmp_path / "whole"))
    expected = outcome(tmp_path / "whole" / place)
    size = (tmp_path / "whole" / place / RECORDS).stat().st_size
    rng = random.Random(4)  # noqa: S311  # places to look at, no secret
    records = tmp_path / "run" / place / RECORDS
    # A whole batch is kept, so that each start has less to do than the one before.
    for point, at in enumerate(sorted(rng.randrange(size) for _ in range(POINTS))):
        resume = ["--resume"] if point else []
        assert killed_at(command(tmp_path / "run", *resume), records, at) == -signal.SIGKILL
    ended(command(tmp_path / "run", "--resume"))
    assert outcome(tmp_path / "run" / place) == expected
