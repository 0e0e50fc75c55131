"""Real processes, killed with no time to clean up: nothing is lost and nothing is different."""

import random
import signal
import sys
from pathlib import Path

import pytest

from effd0.evaluation.run_dir import RECORDS
from tests.helpers import coco_content, ended, killed_at, write_coco
from tests.helpers.runners import outcome

pytestmark = pytest.mark.slow

IMAGES = 40
POINTS = 20
#: A run on the fake backend, slow enough to be hit between any two records.
FAKE = """
import sys, time
from pathlib import Path
from effd0.evaluation import model as choice
from effd0.evaluation.evaluate import EvaluationJob, evaluate
from tests.helpers.runners import NeighbourRunner, small_engine

runner = NeighbourRunner()
runner.on_infer = lambda: time.sleep(0.01)
choice.open_runner = lambda *_: runner
model, root, out, resume = sys.argv[1:]
job = EvaluationJob(Path(root), out=Path(out), resume=resume == "yes")
evaluate(job, small_engine(Path(model)))
"""


def test_a_run_killed_at_random_points_ends_as_the_whole_one(tmp_path: Path) -> None:
    """Killed at 20 places, of a new run and of a resumed one, each ends in the same files."""
    model = tmp_path / "d0.onnx"
    model.write_bytes(b"a model")
    root = write_coco(tmp_path / "coco", coco_content(IMAGES))

    def command(out: Path, resume: str = "no") -> list[str]:
        return [sys.executable, "-c", FAKE, str(model), str(root), str(out), resume]

    ended(command(tmp_path / "whole"))
    expected = outcome(tmp_path / "whole")
    size = (tmp_path / "whole" / RECORDS).stat().st_size
    rng = random.Random(4)  # noqa: S311  # places to look at, no secret
    killed = 0
    for point in range(0, POINTS, 2):
        folder = tmp_path / f"killed-{point}"
        first, second = sorted(rng.randrange(size + 1) for _ in range(2))
        killed += killed_at(command(folder), folder / RECORDS, first) == -signal.SIGKILL
        killed += killed_at(command(folder, "yes"), folder / RECORDS, second) == -signal.SIGKILL
        ended(command(folder, "yes"))
        assert outcome(folder) == expected
    assert killed == POINTS, "a run was over before it was killed"
