"""Small COCO folders, specs and heads; effd0 called in this process, and commands in others."""

import contextlib
import copy
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from effd0.cli import main as cli
from effd0.cli import pytest_suite
from effd0.detection.heads import HeadOutputs
from effd0.errors import Effd0Error
from effd0.spec import D0, SPECS, ModelSpec
from effd0.types import Floats

#: A D0 in all but size: 3,069 anchors, so that a test can look at every logit.
SMALL = replace(D0, image_size=(128, 128), num_classes=5, max_candidates=50)
#: Smaller still, 45 anchors and 135 logits: Hypothesis can draw each of them.
TINY = replace(D0, image_size=(128, 128), levels=(6, 7), num_classes=3, max_candidates=20)

#: One of each way to feed a network: the recipe's, AdvProp's, and lite's, whose P7 is rounded up.
FED_APART = {
    arch: SPECS[arch] for arch in (D0.arch, "tf_efficientdet_d0_ap", "tf_efficientdet_lite0")
}
#: No square: 512 rows of 384 columns.
OBLONG = replace(D0, image_size=(512, 384))


def noise(size: tuple[int, int], channels: int = 3, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return random pixels of *size* (width, height): whatever moves a pixel shows in them."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size[1], size[0], channels), np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return *image* as the bytes of a file of *kind*, ``JPEG`` or ``PNG``."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def names_in(folder: Path) -> list[str]:
    """Return the names of all that lies in *folder*, sorted."""
    return sorted(path.name for path in folder.iterdir())


def coco_content(images: int = 3, size: tuple[int, int] = (40, 30)) -> dict[str, Any]:
    """Return a valid annotation file: image ids 10, 20, ..., one annotation each, two classes."""
    return {
        "images": [
            {"id": 10 * n, "file_name": f"{n}.png", "width": size[0], "height": size[1]}
            for n in range(1, images + 1)
        ],
        "annotations": [
            {
                "id": n, "image_id": 10 * n, "category_id": 1 + n % 2, "area": 80.0, "iscrowd": 0,
                "bbox": [2.0, 3.0, 10.0, 8.0],
            }
            for n in range(1, images + 1)
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}],
    }  # fmt: skip


def write_coco(
    root: Path, content: dict[str, Any] | None = None, colours: Sequence[int] | None = None
) -> Path:
    """
    Write *content* and its pictures as the COCO folder *root*; return it.

    Pictures are noise, or of one red each where *colours* are given.
    """
    content = coco_content() if content is None else content
    write_annotations(root, content)
    folder = root / "val2017"
    folder.mkdir(parents=True, exist_ok=True)
    for n, entry in enumerate(content["images"]):
        size = (entry["width"], entry["height"])
        pixels = noise(size, seed=n)
        if colours is not None:
            pixels[:] = (colours[n], 0, 0)
        Image.fromarray(pixels).save(folder / entry["file_name"])
    return root


def write_annotations(root: Path, content: object) -> Path:
    """Write *content*, or bytes as they are, as the annotation file of *root*; return it."""
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def synthetic_heads(seed: int, spec: ModelSpec = D0, shift: float = -6.0) -> HeadOutputs:
    """Return heads of normal spread: logits around *shift*, by 2.5, box codes around 0, by 0.3."""
    rng = np.random.default_rng(seed)

    def normal(name: str, mean: float, spread: float) -> Floats:
        # Shared by tests, so that any write into them is an error.
        head = rng.standard_normal(spec.head_shapes[name], np.float32) * np.float32(spread)
        head += np.float32(mean)
        head.setflags(write=False)
        return head

    return HeadOutputs(
        tuple(normal(name, shift, 2.5) for name in spec.class_names),
        tuple(normal(name, 0, 0.3) for name in spec.box_names),
    )


#: What a field may hold that is not what was meant.
ODD: tuple[object, ...] = (
    None, "", "1", "NaN", "\0", "\ud800", "x" * 300, True, False, 0, -1, 0.5, 1000.0, 2**31, 2**53,
    2.0**53, 2**63, -(2**64), 10**400, 1e15, 1e200, -1e308, float("nan"), float("inf"), [], {},
    [[]], {"id": 1},
)  # fmt: skip
#: The seeds of mutated files: a few by default, 2,000 in all.
EVERY_SEED = pytest.mark.parametrize(
    "seeds",
    [range(30), pytest.param(range(30, 2000), marks=pytest.mark.slow)],
    ids=["30-files", "1970-more"],
)
#: What Python says of a mistake in its own code.
_PYTHONS_WORDS = re.compile(
    r"NoneType|has no attribute|unhashable|unpack|invalid literal|not subscriptable|not iterable|"
    r"object is not|argument must be|codec can't|Expecting |recursion|too large to convert|"
    r"unsupported operand|not supported between|integer string conversion|\bdict\b"
)


def as_toml(content: Any) -> str:
    """The TOML of *content*, which has no null: empty text stands for it."""
    if isinstance(content, dict):
        return f"{{{', '.join(f'{json.dumps(k)} = {as_toml(v)}' for k, v in content.items())}}}"
    if isinstance(content, list):
        return f"[{', '.join(map(as_toml, content))}]"
    text = json.dumps("" if content is None else content)
    return {"NaN": "nan", "Infinity": "inf"}.get(text, text)


def mutated(content: Any, rng: random.Random, *, toml: bool = False) -> bytes:
    """The JSON or TOML of *content*, with up to three faults in values, keys, entries or bytes."""
    content = [copy.deepcopy(content)]
    for _ in range(rng.randint(1, 3)):
        place, key = content, 0
        while isinstance(place[key], dict | list) and place[key] and rng.random() < 0.9:
            place = place[key]
            key = rng.choice([*place] if isinstance(place, dict) else range(len(place)))
        match rng.randrange(5):
            case 0 if place is not content:
                del place[key]
            case 1 if isinstance(place, list) and place is not content:
                place.append(copy.deepcopy(place[key]))
            case 2 if isinstance(place[key], int) and abs(place[key]) < 2**64:
                place[key] *= rng.choice([-1, 1.5, 10**30])
            case _:
                place[key] = rng.choice(ODD)
    data = json.dumps(content[0]).encode()
    if toml:
        lines = content[0].items() if isinstance(content[0], dict) else []
        data = "".join(f"{json.dumps(k)} = {as_toml(v)}\n" for k, v in lines).encode()
    if rng.random() < 0.1 and data:
        at = rng.randrange(len(data))
        data = data[:at] + rng.choice([b"", b"\xff", b"[" * 9999, b"9" * 5000]) + data[at + 1 :]
    return data[: rng.randrange(len(data))] if rng.random() < 0.02 and data else data


def assert_read_or_refused(
    path: Path, content: Any, seeds: range, read: Callable[[], object], *, toml: bool = False
) -> None:
    """
    Each file at *path* that is mutated from *content* is read, or refused in effd0's words.

    What *read* returns holds no number that is not finite.
    """
    taken = 0
    for seed in seeds:
        path.write_bytes(mutated(content, random.Random(seed), toml=toml))  # noqa: S311
        try:
            found = read()
        except Effd0Error as error:
            message = str(error)
            message.encode()
            assert not _PYTHONS_WORDS.search(message), f"seed {seed}: {message}"
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        taken += 1
        shown = msgspec.to_builtins(found, str_keys=True, enc_hook=str)
        json.dumps(shown, allow_nan=False)
    assert 0 < taken < len(seeds)


_ERROR = re.compile(r"^[A-Z]\w+(Error|Extra): ")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that tell an error."""
        return [line for line in self.err.splitlines() if _ERROR.match(line)]


def effd0(*arguments: object, columns: int | None = None) -> Outcome:
    """Run ``effd0`` with *arguments* as the installed command does, *columns* wide where given."""
    words = ["effd0", *(str(argument) for argument in arguments)]
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        mock.patch.object(sys, "argv", words),
        mock.patch.dict(os.environ),
    ):
        os.environ.pop("COLUMNS", None)  # workers of pytest-xdist have it: tables would wrap
        if columns is not None:
            os.environ["COLUMNS"] = str(columns)
        try:
            cli.main()
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def assert_one_error(message: str, *arguments: object) -> None:
    """The command ends with code 2 and one line that tells the error; no traceback is shown."""
    outcome = effd0(*arguments)
    assert outcome.code == 2, outcome.out
    assert len(outcome.errors) == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert re.search(message, outcome.err), outcome.err


ROOT = Path(__file__).parents[2]


def session_config(words: str) -> pytest.Config:
    """What pytest's hooks are given in a session of the suite in the clone with *words*."""
    parser = pytest.Parser(_ispytest=True)
    pytest_suite.pytest_addoption(parser)
    given = parser.parse_known_args(words.split())
    config = SimpleNamespace(
        getoption=lambda flag: getattr(given, flag[2:].replace("-", "_")),
        option=given,
        inipath=ROOT / "pyproject.toml",
        invocation_params=SimpleNamespace(args=words.split()),
        rootpath=ROOT,
    )
    return cast(pytest.Config, config)


def run_pytest(*words: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run pytest with *words* in *cwd* to its end."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, words)]
    # In a worker of pytest-xdist, pytest-benchmark would measure nothing.
    env = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start *command* in the clone, so that it finds the tests' fakes."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet)


def ended(command: Sequence[str]) -> None:
    """Run *command* to its end, which is a good one."""
    assert start(command).wait(timeout=120) == 0


def killed_at(command: Sequence[str], records: Path, size: int) -> int:
    """Kill *command* once *records* has *size* bytes; return its exit code."""
    process = start(command)
    while process.poll() is None and not (records.exists() and records.stat().st_size >= size):
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    return process.wait()


@dataclass
class FakeHost:
    """
    Files by path, how to fail, and what was asked.

    Each answer takes the next entry of *break_after*: so many bytes are sent and the connection
    is cut.  When the list is used up, answers are whole.
    """

    files: dict[str, bytes]
    break_after: list[int] = field(default_factory=list)
    ranges: bool = True
    #: (path, Range header or None) of each request, in order.
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def asked(self) -> list[str | None]:
        """The Range header of each request."""
        return [wanted for _, wanted in self.requests]


@contextmanager
def serving(host: FakeHost) -> Iterator[FakeHost]:
    """Serve *host* on a free port of 127.0.0.1 for the time of the block; fill in its URL."""

    class Handler(BaseHTTPRequestHandler):
        """Answer from *host*."""

        def do_GET(self) -> None:
            """Send the file, or what is missing of it, or less."""
            wanted, body, start = self.headers.get("Range"), host.files.get(self.path), 0
            host.requests.append((self.path, wanted))
            if wanted is not None and host.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if body is None or 0 < len(body) <= start:
                self.send_error(404 if body is None else 416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            stop = start + host.break_after.pop(0) if host.break_after else len(body)
            self.wfile.write(body[start:stop])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    host.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
