"""The command check: it runs the suite, and its exit code and files say what came of it."""

from pathlib import Path

import pytest

from effd0.cli import check as module
from effd0.cli.settings import OPTIONS
from effd0.data import fixture
from effd0.graph.onnx_info import load_graph
from effd0.graph.rewrites import save_graph
from effd0.results.run import read_run
from tests.helpers import assert_one_error, effd0, names_in, write_coco
from tests.helpers.onnx_models import nodes_of

WEIGHTS = ("--checkpoint", fixture.checkpoint())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that pytest is called with; it does nothing."""
    words: list[str] = []

    def main(given: list[str], **_: object) -> int:
        words.extend(given)
        return 0

    monkeypatch.setattr(pytest, "main", main)
    return words


def test_options_are_handed_on_as_they_were_given(asked: list[str], tmp_path: Path) -> None:
    """What is not given is not handed on; a switch has no value, what repeats is repeated."""
    model = tmp_path / "d0.onnx"
    model.write_bytes(b"a model")
    given = ("--runner", "ort", "--runner", "torch", "--keep-going", "--min-map", 30)
    assert effd0("check", model, *WEIGHTS, *given).code == 0
    ours = {one.flag for one in OPTIONS}
    assert [word for word in asked if word.partition("=")[0] in ours] == [
        f"--model={model}", f"--checkpoint={fixture.checkpoint()}", "--runner=ort",
        "--runner=torch", "--min-map=30.0", "--keep-going",
    ]  # fmt: skip
    assert "tests.suite" in asked


def test_every_option_reaches_the_suite(asked: list[str], tmp_path: Path) -> None:
    """No option of check is lost between the command line and pytest."""
    values = {"arch": "efficientdet_d0", "min_map": 30, "max_drop": 1, "devices": "0,1"}
    of_kind: dict[str | None, Path] = {"model": tmp_path / "d0.onnx", "onnx": tmp_path / "d0.onnx"}
    of_kind |= {"weights": tmp_path / "d0.pth", "json": tmp_path / "found.json"}
    for file in of_kind.values():
        file.write_bytes(b"any")
    for kind, sizes in (("inputs", [64] * 10), ("results", range(64, 74))):
        of_kind[kind] = tmp_path / kind
        of_kind[kind].mkdir()
        for number, size in enumerate(sizes):
            (of_kind[kind] / f"image_{number}.bin").write_bytes(bytes(size))
    of_kind["images"] = write_coco(tmp_path / "coco")
    words: list[object] = []
    flags = set()
    for one in module.check.options:  # type: ignore[attr-defined]  # of the decorator
        if one.name in ("out", "overwrite", "model"):
            continue
        flags.add(one.flag)
        value = values.get(one.name, of_kind.get(one.takes, (*one.choices, 3)[0]))
        words += [one.flag] if one.kind is bool else [one.flag, value]
    done = effd0("check", of_kind["model"], *words)
    assert (done.code, done.err) == (0, "")
    assert {word.partition("=")[0] for word in asked} >= flags | {"--model"}


@pytest.mark.parametrize(
    ("of_pytest", "code"),
    [(0, 0), (1, 1), (2, 2), (3, 70), (4, 2), (5, 2)],
    ids=["passed", "failed", "interrupted", "internal-error", "usage", "nothing-collected"],
)
def test_only_a_failure_is_1(of_pytest: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pytest could not do says nothing of a build: exit code 2, or 70 for a fault of effd0."""
    monkeypatch.setattr(pytest, "main", lambda *_, **__: of_pytest)
    assert effd0("check").code == code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "check no.onnx",
            "MODEL is no.onnx, which does not exist; make one with 'effd0",
        ),
        ("check --min-map 0.334", "--min-map is 0.334, but it is in percent; 33.4 was"),
    ],
    ids=["no-model", "fraction"],
)
def test_a_wrong_value_is_refused_before_the_suite(
    words: str, message: str, asked: list[str]
) -> None:
    """One error names the option; pytest is not called."""
    assert_one_error(message, *words.split())
    assert asked == []


@pytest.mark.slow
def test_a_broken_build_is_named_and_written(onnx_model: Path, tmp_path: Path) -> None:
    """The verdict is FAIL in the stage that is broken, what is behind it waits for --keep-going."""
    graph = load_graph(onnx_model)
    (mode,) = [one for one in nodes_of(graph, "Resize")[0].attribute if one.name == "mode"]
    mode.s = b"linear"
    model, out = tmp_path / "broken.onnx", tmp_path / "gate"
    save_graph(graph, model)
    done = effd0("check", model, *WEIGHTS, "--out", out)
    run = read_run(out / module.RUN)
    assert done.code == run.exit_status == 1
    assert {module.RUN, module.PAGE} <= set(names_in(out))
    assert (run.verdict.status, run.verdict.stage) == ("fail", "graph")
    assert {"runner", "gate"} <= set(run.verdict.untested)
    assert done.out.index("graph       FAILED") < done.out.index("gate        not tested")
    whole = effd0("check", model, *WEIGHTS, "--keep-going", "--runner", "ort")
    assert whole.code == 1
    assert "gate        not tested" not in whole.out
