"""Tests for the hall: files, progress, the facts of each architecture, times and memory."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from effdet import get_efficientdet_config
from effdet.data import resolve_input_config
from effdet.data.transforms import resolve_fill_color
from rich.console import Console

from effd0 import progress as module
from effd0.errors import OutputError, SpecError
from effd0.io import check_writable, sha256, written_whole
from effd0.progress import download_progress, progress
from effd0.spec import D0, SPECS, ModelSpec, spec_for
from effd0.timing import Latency, let_threads_sleep, peak_rss_mb
from tests.helpers import names_in


def test_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    """Folders are made, nothing has the name before the end, and nothing else is left after."""
    path = tmp_path / "new" / "folder" / "out.txt"
    with written_whole(path) as temporary:
        temporary.write_text("whole")
        assert temporary.name == "out.txt"
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names_in(path.parent) == ["out.txt"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_crash_leaves_the_old_file_and_no_litter(kind: type[BaseException], tmp_path: Path) -> None:
    """Whatever ends the block early, half a file is never seen and the crash comes out."""
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(kind), written_whole(path) as temporary:  # noqa: PT012  # it is what crashes
        temporary.write_text("half")
        temporary.with_suffix(".data").write_text("half")
        raise kind
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["out.txt"]


def test_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    """The file's rights are those of any new file, not those of a private temporary one."""
    with written_whole(tmp_path / "out.txt") as temporary:
        temporary.write_text("whole")
    (tmp_path / "plain.txt").write_text("plain")
    assert (tmp_path / "out.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("file/out.txt", "File exists|Not a directory", id="below-a-file"),
        pytest.param("folder", "directory", id="name-of-a-folder"),
    ],
)
def test_place_that_cannot_be_written_is_named(name: str, reason: str, tmp_path: Path) -> None:
    """The message shows the path and the system's reason, and what was there is left alone."""
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    with (
        pytest.raises(OutputError, match=f"{re.escape(str(path))} cannot be written: .*({reason})"),
        written_whole(path) as temporary,
    ):
        temporary.write_text("whole")
    assert names_in(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "not a folder"


def test_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    """A promise of a file that was not kept does not pass as success."""
    with (
        pytest.raises(OutputError, match=r"out\.txt cannot be written: .*choose another place"),
        written_whole(tmp_path / "out.txt"),
    ):
        pass
    assert names_in(tmp_path) == []


def test_fingerprint_is_the_published_one(tmp_path: Path) -> None:
    """The digest of FIPS 180-2's own example comes out."""
    (tmp_path / "file").write_bytes(b"abc")
    published = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "file") == published


@pytest.mark.parametrize(
    ("place", "message"),
    [
        pytest.param("file/out.json", "out.json cannot be written: .*; choose another", id="file"),
        pytest.param("folder", "folder is a folder, but a file is to be written", id="folder"),
    ],
)
def test_place_that_cannot_be_written_is_said_before_the_work(
    place: str, message: str, tmp_path: Path
) -> None:
    """The error comes before hours of work, not in place of their result."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=message):
        check_writable(tmp_path / place)


PLAIN = re.compile(r"^checking: \d+/\d+, [\d.]+/s, \d+ s left$")


def console_of(*, terminal: bool) -> tuple[Console, io.StringIO]:
    """Return a console that writes to memory, and that memory."""
    written = io.StringIO()
    return Console(file=written, force_terminal=terminal, width=80), written


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that takes longer than the interval is heard of before its end."""
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.0)
    console, written = console_of(terminal=False)
    with progress("checking", 6, console) as advance:
        for _ in range(3):
            advance(2)
    lines = written.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [f"checking: {n}/6" for n in (2, 4, 6)]
    assert all(PLAIN.match(line) for line in lines)


def test_a_terminal_gets_a_bar() -> None:
    """The bar is drawn in place, with the count, and ends at the whole."""
    console, written = console_of(terminal=True)
    with progress("checking", 4, console) as advance:
        advance(3)
        advance(1)
    shown = written.getvalue()
    assert "\x1b[" in shown
    assert "4/4" in shown
    assert not any(PLAIN.match(line) for line in shown.splitlines())


def test_progress_leaves_results_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a console of its own, progress goes to stderr, so that stdout can be piped."""
    with progress("checking", 1) as advance:
        advance(1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "checking: 1/1" in captured.err


def test_a_download_log_shows_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines show the bytes that are there, of the whole where the host says how much it is."""
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.0)
    console, written = console_of(terminal=False)
    with download_progress("coco", console) as on_bytes:
        on_bytes(5_000_000, 20_000_000)
        on_bytes(20_000_000, 20_000_000)
        on_bytes(1_000_000, None)  # the next file starts anew
    assert [line for line in written.getvalue().splitlines() if line] == [
        "coco: 5 of 20 MB",
        "coco: 20 of 20 MB",
        "coco: 1 MB",
    ]


EVERY_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=[f"arch={name}" for name in SPECS])


def test_d0_has_the_published_anchors() -> None:
    """Five levels of 64 to 4 cells a side, nine anchors each, make 49,104."""
    assert D0.feature_sizes == (64, 32, 16, 8, 4)
    assert D0.anchors_per_cell == 9
    assert D0.num_anchors == 49_104
    assert D0.input_shape == (3, 512, 512)


def test_heads_are_named_and_shaped_in_the_order_of_the_recipe() -> None:
    """Class heads P3 to P7 of 810 channels come first, then box heads of 36."""
    assert list(D0.head_shapes.items()) == [
        (f"{kind}_p{level}", (channels, 512 >> level, 512 >> level))
        for kind, channels in (("class", 810), ("box", 36))
        for level in (3, 4, 5, 6, 7)
    ]
    assert D0.output_names == tuple(D0.head_shapes)


@EVERY_SPEC
def test_model_is_the_one_that_effdet_configures(spec: ModelSpec) -> None:
    """Everything that shapes heads, anchors and detections is effdet's number."""
    config = get_efficientdet_config(spec.arch)
    assert tuple(config.image_size) == (spec.image_size, spec.image_size)
    assert (config.min_level, config.max_level) == (spec.levels[0], spec.levels[-1])
    assert config.num_levels == len(spec.levels)
    assert config.num_classes == spec.num_classes
    assert config.num_scales == spec.scales_per_octave
    assert config.anchor_scale == spec.anchor_scale
    assert tuple(map(tuple, config.aspect_ratios)) == spec.aspect_ratios
    assert config.max_detection_points == spec.max_candidates
    assert config.max_det_per_image == spec.max_detections
    assert config.soft_nms is False


@EVERY_SPEC
def test_input_is_the_one_that_effdet_resolves(spec: ModelSpec) -> None:
    """Mean, deviation and fill colour are those that effdet's validation feeds the model."""
    config = resolve_input_config({}, get_efficientdet_config(spec.arch))
    assert tuple(config["mean"]) == spec.mean
    assert tuple(config["std"]) == spec.std
    assert tuple(resolve_fill_color(config["fill_color"], config["mean"])) == spec.fill


def test_unknown_architecture_is_refused_with_the_known_ones() -> None:
    """The message shows what was asked for and every name that would do."""
    message = (
        "--arch is 'efficientdet_d1', but effd0 knows "
        "tf_efficientdet_d0, efficientdet_d0, tf_efficientdet_d0_ap"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        spec_for("efficientdet_d1")


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        pytest.param({}, "10000", id="nothing"),
        pytest.param({"GOMP_SPINCOUNT": "7"}, "7", id="spins"),
        pytest.param({"OMP_WAIT_POLICY": "ACTIVE"}, None, id="policy"),
    ],
)
def test_threads_spin_briefly_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], spins: str | None
) -> None:
    """A waiting thread spins for less than an operator takes; what the user has set stands."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    let_threads_sleep()
    assert os.environ.get("GOMP_SPINCOUNT") == spins
    assert os.environ.get("OMP_WAIT_POLICY") == given.get("OMP_WAIT_POLICY")


def test_percentiles_of_a_hundred_and_one_samples() -> None:
    """Of 0, 1, ..., 100 ms, in whatever order, each percentile is its own number."""
    latency = Latency(tuple(float(n) for n in reversed(range(101))))
    assert (latency.mean_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms) == (50, 50, 90, 99)


def test_peak_memory_is_in_megabytes_and_never_falls() -> None:
    """Memory that was in use once counts on after it is freed, in units of 10^6 bytes."""
    before = peak_rss_mb()
    block = np.ones(25_000_000)  # 200 MB, each page of it written
    held = peak_rss_mb()
    del block
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    assert 200 < held < installed
    # The kernel counts pages in lots; measured 2026-11-25: lower by up to 0.23 MB.
    assert before <= held <= peak_rss_mb() + 1


def test_peak_memory_is_not_that_of_the_parent() -> None:
    """A process that a large one starts tells its own memory."""
    block = np.ones(50_000_000)  # 400 MB, each page of it written
    code = "from effd0.timing import peak_rss_mb; print(peak_rss_mb())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert 5 < float(told.stdout) < block.nbytes / 1e6
