"""What each worker runs, and what it says of itself once it is open."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ..errors import RunnerError
from ..io import sha256
from ..results.environment import installed_version
from ..runners.base import Runner, TensorInfo, choose_batch_size
from ..runners.registry import RunnerOptions, open_runner
from ..spec import ModelSpec
from .ledger import Book, WorkerId
from .pool import worker_options

#: Must be the same in all workers, since they decide what is found.
PACKAGES = ("effd0", "numpy", "pillow", "torch", "onnxruntime", "openvino", "effdet")


@dataclass(frozen=True)
class Subject:
    """What each worker runs: the file *name* with the contents *sha256*, and how."""

    runner: str
    spec: ModelSpec
    options: RunnerOptions
    name: str
    sha256: str

    def opened(self, path: Path, number: int | None) -> AbstractContextManager[Runner]:
        """The runner of the model file *path*, on the device *number*."""
        return open_runner(
            self.runner, path, self.spec, worker_options(self.runner, self.options, number)
        )


@dataclass(frozen=True)
class Opened:
    """What a runner says of itself once it is open; all workers must say the same."""

    description: str
    inputs: tuple[TensorInfo, ...]
    batch_size: int
    packages: Mapping[str, str | None]


def describe(runner: Runner, batch_size: int | None) -> Opened:
    """What the open *runner* is, fed *batch_size* images at a time if it takes them."""
    packages = {name: installed_version(name) for name in PACKAGES}
    size = choose_batch_size(runner, batch_size)
    return Opened(runner.description, tuple(runner.inputs), size, packages)


def check_alike(expected: Opened, here: Opened, worker: WorkerId) -> None:
    """Raise `RunnerError` where *worker* is not what the others are: results would mix."""
    pairs = [
        ("backend", without_device(expected.description), without_device(here.description)),
        ("inputs", ", ".join(map(str, expected.inputs)), ", ".join(map(str, here.inputs))),
        *((name, expected.packages[name], here.packages[name]) for name in PACKAGES),
    ]
    for name, wanted, got in pairs:
        if wanted != got:
            raise RunnerError(
                f"{worker} has {name} {got}, but the first worker has {wanted}; all hosts must "
                "give the same results: install the same on each"
            )


def without_device(description: str) -> str:
    """*description* of a runner without the number of its device."""
    parts = description.split(", ")
    return ", ".join(part for part in parts if not part.startswith("device "))


@contextlib.contextmanager
def model_file(subject: Subject, book: Book) -> Iterator[Path]:
    """The model on this host, as a file for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="effd0-") as folder:
        path = Path(folder, subject.name)
        path.write_bytes(book.model())
        if sha256(path) != subject.sha256:
            raise RunnerError(f"{subject.name} did not come whole to this host; run it again")
        yield path
