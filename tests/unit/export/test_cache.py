"""effd0.export.cache: a checkpoint is converted once, and nothing else is run for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effd0.data import fixture
from effd0.errors import ExportError
from effd0.export import cache, verify
from effd0.export.to_onnx import ExportSettings
from effd0.graph.rewrites import ORT_EDITS
from effd0.io import sha256
from effd0.spec import D0, SPECS

MODEL, OTHER = b"a model" * 1000, b"made of other weights"
#: What a conversion said, with the checkpoint's name in it.
SAID = "{}: the weights of ema were taken\n"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A checkpoint; what is in it is the conversion's affair."""
    path = tmp_path / "d0.pth"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The checkpoints that were converted, to `MODEL`, or to `OTHER` if they are other.pth."""
    made: list[Path] = []

    def convert(checkpoint: Path, out: Path, *_: Any) -> str:
        made.append(checkpoint)
        out.write_bytes(OTHER if checkpoint.name == "other.pth" else MODEL)
        return SAID.format(checkpoint)

    monkeypatch.setattr(verify, "_convert_in_child", convert)
    return made


def converted(checkpoint: Path, *form: Any, cached: bool = True) -> bytes:
    """What is in the file that is run for *checkpoint*."""
    with verify.exported(checkpoint, *(form or (D0, 1)), cached=cached) as path:
        assert path.name == f"{checkpoint.stem}.onnx"
        return path.read_bytes()


def entry() -> Path:
    """The only entry."""
    ((_, _, path),) = cache.entries()
    return path


def place(checkpoint: Path, batch: int, *edits: str) -> Path:
    """Where the entry of *checkpoint* for batches of *batch* lies."""
    key = cache.key_of(checkpoint, D0, ExportSettings(batch_size=batch), edits)
    return cache.folder() / f"{key}.converted"


def test_a_checkpoint_is_converted_once(
    weights: Path, conversions: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same content by another name is taken from the cache, which is said with what was."""
    again = weights.rename(weights.with_name("moved.pth"))
    weights.write_bytes(again.read_bytes())
    assert converted(weights) == MODEL
    capsys.readouterr()
    assert converted(again) == MODEL
    assert conversions == [weights]
    said = capsys.readouterr().err.replace("\n", " ").split("moved.pth")
    assert said[1:] == [
        " was converted before; --no-cache converts it anew " + said[0],
        ": the weights of ema were taken ",
    ]


@pytest.mark.parametrize(
    "form",
    [
        pytest.param((SPECS["efficientdet_d0"], 1), id="architecture"),
        pytest.param((replace(D0, fill=(0, 0, 0)), 1), id="spec"),
        pytest.param((D0, 8), id="batch"),
        pytest.param((D0, None), id="free-batch"),
        pytest.param((D0, 1, ORT_EDITS), id="edits"),
        pytest.param((D0, 1, (), "ema"), id="weights"),
    ],
)
def test_another_form_is_another_entry(
    form: tuple[Any, ...], weights: Path, conversions: list[Path]
) -> None:
    """Whatever the ONNX file depends on is in the name of its entry."""
    converted(weights)
    converted(weights, *form)
    assert len(conversions) == len(cache.entries()) == 2


def test_other_weights_are_another_entry(weights: Path, conversions: list[Path]) -> None:
    """It is the content of a checkpoint that counts, not its name."""
    assert converted(weights) == MODEL
    weights.write_bytes(b"trained on")
    assert converted(weights) == MODEL
    assert conversions == [weights, weights]


def test_another_version_is_another_entry(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of any package that takes part, of effd0's source in a clone, and of the machine."""
    source = tmp_path / "effd0" / "room" / "code.py"
    source.parent.mkdir(parents=True)
    source.write_text("1")
    monkeypatch.setattr(cache, "_PACKAGE", tmp_path / "effd0")
    keys = [cache.key_of(weights)]
    assert cache.key_of(weights) == keys[0]
    source.write_text("2")
    keys.append(cache.key_of(weights))
    for package in cache.PACKAGES:
        with monkeypatch.context() as patch:
            patch.setattr(cache, "_version", lambda name, new=package: "9.9" * (name == new))
            keys.append(cache.key_of(weights))
    with monkeypatch.context() as patch:
        patch.setattr("platform.machine", lambda: "another")
        keys.append(cache.key_of(weights))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[:-1], id="cut-off"),
        pytest.param(lambda content: content[:0], id="empty"),
        pytest.param(lambda content: content[:50] + b"?" + content[51:], id="changed"),
    ],
)
def test_a_damaged_entry_is_made_anew(damage: Any, weights: Path, conversions: list[Path]) -> None:
    """It is never run, and does not stay."""
    converted(weights)
    whole = entry().read_bytes()
    entry().write_bytes(damage(whole))
    assert converted(weights) == MODEL
    assert conversions == [weights, weights]
    assert entry().read_bytes() == whole


def test_what_was_unused_for_longest_goes_first(
    weights: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All entries stay below a bound; a use counts, and so does what was never finished."""
    converted(weights, D0, 1)
    size = entry().stat().st_size
    unfinished = cache.folder() / ".x" / entry().name
    unfinished.parent.mkdir()
    unfinished.write_bytes(bytes(size))
    os.utime(unfinished, (0, 0))
    os.utime(place(weights, 1), (10, 10))
    monkeypatch.setattr(cache, "MAX_BYTES", 3 * size + size // 2)
    for batch in (2, 3):
        converted(weights, D0, batch)
        os.utime(place(weights, batch), (10 * batch, 10 * batch))
    assert not unfinished.exists()
    converted(weights, D0, 1)  # of all the last that was used
    converted(weights, D0, 4)
    assert not place(weights, 2).exists()
    converted(weights, D0, 3)
    assert (len(conversions), len(cache.entries())) == (4, 3)


def test_many_at_once_take_and_keep_whole_models(
    weights: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads, writes or makes room beside others has the model, and no error."""
    converted(weights)
    monkeypatch.setattr(cache, "MAX_BYTES", 2 * entry().stat().st_size)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda turn: converted(weights, D0, turn % 5 + 1), range(200)))
    assert found == [MODEL] * 200
    assert len(conversions) > 5  # some were removed


def test_what_was_not_proved_is_not_kept(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion that computes something else leaves no entry."""

    def convert(_: Path, out: Path, *__: Any) -> str:
        out.write_bytes(MODEL)
        raise ExportError("class_p3 differs by 0.3")

    monkeypatch.setattr(verify, "_convert_in_child", convert)
    with pytest.raises(ExportError, match="differs by"):
        converted(weights)
    assert cache.entries() == []


def test_without_cache_nothing_is_read_or_kept(weights: Path, conversions: list[Path]) -> None:
    """With --no-cache, and where an export itself is looked at, a checkpoint is converted anew."""
    converted(weights, cached=False)
    assert cache.entries() == []
    converted(weights)
    converted(weights, cached=False)
    assert conversions == [weights] * 3


@pytest.fixture(params=["file", "relative", "no-home"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """An environment in which no folder of a cache can be written."""
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "file").touch()
        named = {"file": str(tmp_path / "file"), "relative": "cache", "no-home": ""}
        patch.setenv("XDG_CACHE_HOME", named[request.param])
        patch.setattr("os.path.expanduser", lambda path: path)
        patch.chdir(tmp_path)
        yield


@pytest.mark.usefixtures("unwritable")
def test_without_a_folder_each_run_converts(
    weights: Path, conversions: list[Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """That is said, with what would lift it, and nothing lies in the working directory."""
    before = sorted(tmp_path.iterdir())
    assert [converted(weights), converted(weights)] == [MODEL] * 2
    assert conversions == [weights] * 2
    said = capsys.readouterr().err
    assert said.count("is converted by each run, since ") == 2
    assert "name another folder in XDG_CACHE_HOME, or give --no-cache" in said
    assert sorted(tmp_path.iterdir()) == before


SECOND = """
import sys
from effd0.cli.main import main
sys.argv = ["effd0", "evaluate", "--image-limit", "1"]
try:
    main()
finally:
    slow = {"torch", "effdet", "onnx", "onnxsim", "pytest", "requests"}
    assert not slow & set(sys.modules)
"""


def test_the_second_run_needs_no_torch(onnx_model: Path) -> None:
    """Whoever runs a checkpoint again waits for ONNX Runtime alone."""
    checkpoint = fixture.checkpoint()
    cache.write(place(checkpoint, 1, *ORT_EDITS).stem, checkpoint, onnx_model, "")
    done = subprocess.run(
        [sys.executable, "-c", SECOND], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
    assert f"{checkpoint} was converted before; --no-cache converts it anew\n" in done.stderr
    assert f"model {sha256(onnx_model)[:12]}" in done.stdout
