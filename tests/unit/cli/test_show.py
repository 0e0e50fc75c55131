"""Tests for `effd0.cli.show`: what tables hold."""

from __future__ import annotations

import msgspec
import pytest

from effd0.cli.show import class_table, show_classes
from effd0.results.run import Accuracy
from tests.helpers import runs


def test_the_reference_stands_in_the_table_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    """Each figure is of its own side, and the terminal names the score threshold of both."""
    accuracy = msgspec.convert(runs.pictured(0.6, pictures=0, jitter=1, seed=0), Accuracy)
    assert accuracy.against is not None
    assert accuracy.operating_point is not None
    theirs = accuracy.operating_point.reference
    assert theirs is not None
    *rows, total = class_table(accuracy)
    for row in rows:
        name = row["class"]
        of = accuracy.per_class[name], accuracy.against.metrics.per_class[name]
        assert (row["ap"], row["reference_ap"]) == of
        mine = accuracy.operating_point.candidate.per_class[name]
        assert (row["recall"], row["detections"]) == (mine.recall, mine.detections)
        if name in theirs.per_class:
            assert row["reference_recall"] == theirs.per_class[name].recall != row["recall"]
    assert (total["class"], total["reference_ap"]) == ("all", accuracy.against.metrics.ap)
    assert total["reference_f1"] == theirs.total.f1
    show_classes(accuracy)
    thresholds = [accuracy.operating_point.candidate.threshold, theirs.threshold]
    printed = "score {:.2f}, the reference's score {:.2f}\n".format(*thresholds)
    assert capsys.readouterr().out.endswith(printed)
