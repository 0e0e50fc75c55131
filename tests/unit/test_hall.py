"""Tests for the hall: files, progress, the facts of each architecture, times and memory."""

from __future__ import annotations

import io
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import onnx
import pytest
from effdet import get_efficientdet_config
from effdet.data import resolve_input_config
from effdet.data.transforms import resolve_fill_color
from rich.console import Console

from effd0 import kernels
from effd0 import progress as module
from effd0.errors import GraphError, OutputError, SpecError
from effd0.evaluation.model import ArchOptions
from effd0.io import check_writable, model_sha256, sha256, written_whole
from effd0.progress import download_progress, progress
from effd0.spec import D0, SPECS, ModelSpec, spec_for
from effd0.timing import Latency, let_threads_sleep, peak_rss_mb
from tests.helpers import names_in
from tests.meta import architectures


def test_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    """Nothing has the name before, nothing else is left, and its rights are any new file's."""
    path = tmp_path / "new" / "folder" / "out.txt"
    with written_whole(path) as temporary:
        temporary.write_text("whole")
        assert temporary.name == "out.txt"
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names_in(path.parent) == ["out.txt"]
    (tmp_path / "plain.txt").touch()
    assert path.stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("file/out.txt", "cannot be written: .*; choose another", id="below-a-file"),
        pytest.param("folder", "folder is a folder|folder cannot be written", id="a-folder"),
    ],
)
def test_place_that_cannot_be_written_is_named(name: str, reason: str, tmp_path: Path) -> None:
    """So it is before hours of work and after; what was there is left alone."""
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=reason):
        check_writable(tmp_path / name)
    with pytest.raises(OutputError, match=reason), written_whole(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert names_in(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_is_no_regular_file_stays_what_it_is(kind: str, tmp_path: Path) -> None:
    """A reader of the pipe gets the whole content, and so does the file that a link leads to."""
    path, file = tmp_path / kind, tmp_path / "file"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to(file)
    before = path.lstat().st_ino
    reader = subprocess.Popen(["/bin/cat", path if kind == "pipe" else "/dev/null"], stdout=-1)
    check_writable(path)
    with written_whole(path) as temporary:
        temporary.write_text("whole")
    read, _ = reader.communicate(timeout=60)
    assert (read.decode() if kind == "pipe" else file.read_text()) == "whole"
    assert path.lstat().st_ino == before
    assert set(names_in(tmp_path)) <= {kind, "file"}


def test_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    """A promise of a file that was not kept does not pass as success."""
    message = r"out\.txt cannot be written: .*choose another place"
    with pytest.raises(OutputError, match=message), written_whole(tmp_path / "out.txt"):
        pass
    assert names_in(tmp_path) == []


def test_fingerprint_is_the_published_one(tmp_path: Path) -> None:
    """The digest of FIPS 180-2's own example comes out."""
    (tmp_path / "file").write_bytes(b"abc")
    published = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "file") == published


@pytest.mark.parametrize("name", ["d0.data", "data/d0", "é" * 90], ids=["beside", "below", "long"])
@pytest.mark.parametrize("held", ["initializer", "constant"])
def test_weights_beside_a_model_are_part_of_its_fingerprint(
    name: str, held: str, tmp_path: Path
) -> None:
    """Other weights are another model; a model that holds its own is known by its file alone."""
    weights = onnx.numpy_helper.from_array(np.ones(64, np.float32), "w")
    node = onnx.helper.make_node("Constant", [], ["w"], value=weights)
    constant = held == "constant"
    graph = onnx.helper.make_graph([node] * constant, "g", [], [], [weights] * (not constant))
    model, path = onnx.helper.make_model(graph), tmp_path / "m.onnx"
    onnx.save(model, path)
    assert model_sha256(path) == sha256(path)
    (tmp_path / "data").mkdir()
    onnx.external_data_helper.convert_model_to_external_data(
        model, location=name, size_threshold=0, convert_attribute=True
    )
    onnx.save(model, path)
    before = sha256(path), model_sha256(path)
    (tmp_path / name).write_bytes(bytes(256))
    assert sha256(path) == before[0]
    assert model_sha256(path) != before[1]
    (tmp_path / name).unlink()
    with pytest.raises(GraphError, match=rf"m\.onnx has weights in .*{name}, but no such file"):
        model_sha256(path)


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


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Work that takes long is heard of before its end, on stderr, so that stdout can be piped."""
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.0)
    with progress("checking", 6) as advance:
        for _ in range(3):
            advance(2)
    with download_progress("coco") as on_bytes:
        on_bytes(5_000_000, 20_000_000)
        on_bytes(1_000_000, None)  # the next file starts anew
    out, err = capsys.readouterr()
    assert out == ""
    *lines, part, unknown = (line for line in err.splitlines() if line)
    assert (part, unknown) == ("coco: 5 of 20 MB", "coco: 1 MB")
    assert [line.split(",")[0] for line in lines] == [f"checking: {n}/6" for n in (2, 4, 6)]
    assert all(re.match(r"^checking: \d+/\d+, [\d.]+/s, \d+ s left$", line) for line in lines)


def test_a_terminal_gets_a_bar() -> None:
    """The bar is drawn in place, with the count, and ends at the whole."""
    written = io.StringIO()
    with progress("checking", 4, Console(file=written, force_terminal=True, width=80)) as advance:
        advance(3)
        advance(1)
    assert "\x1b[" in written.getvalue()
    assert "4/4" in written.getvalue()
    assert "s left" not in written.getvalue()


def test_heads_are_named_and_shaped_in_the_order_of_the_recipe() -> None:
    """Class heads P3 to P7 of 810 channels come first, then box heads of 36."""
    assert list(D0.head_shapes.items()) == [
        (f"{kind}_p{level}", (channels, 512 >> level, 512 >> level))
        for kind, channels in (("class", 810), ("box", 36))
        for level in (3, 4, 5, 6, 7)
    ]
    assert D0.output_names == tuple(D0.head_shapes)


@pytest.mark.parametrize("spec", SPECS.values(), ids=[f"arch={name}" for name in SPECS])
def test_model_is_the_one_that_effdet_configures(spec: ModelSpec) -> None:
    """All that shapes inputs, heads, anchors and detections is effdet's number."""
    config = get_efficientdet_config(spec.arch)
    assert tuple(config.image_size) == spec.image_size
    assert (config.min_level, config.max_level) == (spec.levels[0], spec.levels[-1])
    assert config.num_levels == len(spec.levels)
    assert config.num_classes == spec.num_classes
    assert config.num_scales == spec.scales_per_octave
    assert config.anchor_scale == spec.anchor_scale
    ratios = [
        (math.sqrt(one), 1 / math.sqrt(one)) if isinstance(one, float) else tuple(one)
        for one in config.aspect_ratios
    ]
    assert tuple(ratios) == spec.aspect_ratios
    assert config.max_detection_points == spec.max_candidates
    assert config.max_det_per_image == spec.max_detections
    assert config.soft_nms is False
    fed = resolve_input_config({}, config)
    assert (tuple(fed["mean"]), tuple(fed["std"])) == (spec.mean, spec.std)
    assert tuple(resolve_fill_color(fed["fill_color"], fed["mean"])) == spec.fill


def test_the_table_is_effdets() -> None:
    """No architecture that effdet configures is missing in the file, and none was made by hand."""
    assert architectures.FILE.read_text() == architectures.table()


def test_unknown_architecture_is_refused_with_the_nearest_ones() -> None:
    """The message shows what was asked for and names like it that would do."""
    message = (
        "--arch is 'efficientdet-d1', but effd0 knows the 47 of effdet, such as "
        "efficientdet_d1, efficientdet_q1, efficientdet_d5"
    )
    with pytest.raises(SpecError, match=f"^{re.escape(message)}$"):
        spec_for("efficientdet-d1")


@pytest.mark.parametrize(
    ("arch", "given", "size"),
    [
        pytest.param("tf_efficientdet_d0", "640", (640, 640), id="square"),
        pytest.param("tf_efficientdet_d0", "512x384", (512, 384), id="oblong"),
        pytest.param("tf_efficientdet_lite0", "320", (320, 320), id="its-own"),
        pytest.param("tf_efficientdet_d0", "500", None, id="no-multiple"),
        pytest.param("tf_efficientdet_d7x", "640", None, id="no-multiple-of-p8"),
        pytest.param("tf_efficientdet_d0", "0", None, id="zero"),
        pytest.param("tf_efficientdet_d0", "512*384", None, id="no-size"),
    ],
)
def test_a_size_is_a_multiple_of_the_last_stride(
    arch: str, given: str, size: tuple[int, int] | None
) -> None:
    """Rows come first; what the feature pyramid cannot halve evenly is refused."""
    if size is None:
        with pytest.raises(SpecError, match=f"--image-size is {re.escape(given)}, but N or"):
            spec_for(arch).sized(given)
    else:
        assert spec_for(arch).sized(given).image_size == size


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        pytest.param(D0, {}, id="default"),
        pytest.param(
            replace(SPECS["efficientdet_d1"].sized("512x384"), num_classes=5),
            {"--arch": "efficientdet_d1", "--num-classes": "5", "--image-size": "512x384"},
            id="all",
        ),
        pytest.param(
            SPECS["tf_efficientdet_lite0"], {"--arch": "tf_efficientdet_lite0"}, id="its-own-size"
        ),
    ],
)
def test_a_spec_is_named_by_few_options(spec: ModelSpec, wanted: dict[str, str]) -> None:
    """What is the default needs no option, and the options lead back to the spec."""
    assert spec.options == wanted
    given: dict[str, Any] = {
        option[2:].replace("-", "_"): value for option, value in wanted.items()
    }
    if "num_classes" in given:
        given["num_classes"] = int(given["num_classes"])
    assert ArchOptions(**given).spec() == spec


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


def test_peak_memory_of_children_is_that_of_the_largest() -> None:
    """What a process held that has ended counts, and not as the memory of who started it."""
    code = (
        "import subprocess, sys; from effd0.timing import children_peak_rss_mb, peak_rss_mb; "
        "subprocess.run([sys.executable, '-c', 'held = b\"x\" * 400_000_000']);"
        "print(children_peak_rss_mb(), peak_rss_mb())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    children, own = map(float, told.stdout.split())
    assert own < 400 < children < 500


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "nowhere-to-keep"])
def test_kernel_is_compiled_where_it_is_defined(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its one signature before it is called, and works where no folder can be written."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path) if kept else "")
    if not kept:
        monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    kernel: Any = kernels._kernel(numba.float32, numba.float32, numba.float32)(_divided)
    assert kernel.nopython_signatures == [numba.float32(numba.float32, numba.float32)]
    assert (kernel.stats.cache_path is not None) == kept
    assert kernel(1, 0) == np.inf  # as in numpy, no error


def _divided(one: Any, other: Any) -> Any:
    return one / other
