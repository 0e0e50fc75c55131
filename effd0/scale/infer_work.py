"""Inferring a unit of input files: the stages of `infer.run`, into the folder that all share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import OutputError
from ..evaluation.infer import InferSettings, Performance, infer_files, together
from ..evaluation.pipeline import StageTimes
from ..runners.base import Runner
from ..tensors.inputs import InputFiles
from ..tensors.writer import ResultWriter
from .unit import Unit
from .units import places
from .worker import Announce


@dataclass(frozen=True)
class FileUnit:
    """The *inputs* from place *first* of all on, with their own part of the manifest."""

    first: int
    inputs: InputFiles

    @property
    def stop(self) -> int:
        """The place behind the last input."""
        return self.first + len(self.inputs.files)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The files' names, in order."""
        return tuple(file.name for file in self.inputs.files)

    @property
    def remedy(self) -> str:
        """What to do about an input that ends each process."""
        return "try each by itself with 'effd0 infer --input', and write it again or leave it out"


def cut_inputs(inputs: InputFiles, batch_size: int, workers: int) -> list[FileUnit]:
    """Units of all *inputs*, in whole batches."""
    return [
        FileUnit(start, _part(inputs, start, stop))
        for start, stop in places(len(inputs.files), batch_size, workers)
    ]


def _part(inputs: InputFiles, start: int, stop: int) -> InputFiles:
    """The *inputs* from *start* to *stop*, by paths that hold wherever a worker stands."""
    files, manifest = inputs.files[start:stop], inputs.manifest
    if manifest is not None:
        # Their images are in the order of the files.
        manifest = replace(manifest, images=manifest.images[start:stop])
    return replace(inputs, files=tuple(file.absolute() for file in files), manifest=manifest)


@dataclass
class InferWork:
    """
    How units are inferred, and where results go: as *writer* does, if there is one.

    Each runner is warmed up by the first batch that it gets.
    """

    batch_size: int
    settings: InferSettings
    writer: ResultWriter | None
    _warm: Runner | None = field(default=None, init=False)

    def do(
        self, runner: Runner, unit: Unit, stages: StageTimes, announce: Announce | None
    ) -> bytes:
        """As `Work.do`; gives back an `Inferred`.  Raises what `infer_files` raises."""
        assert isinstance(unit, FileUnit)
        del stages  # batches are timed, as ais_bench does, and not images
        if self.writer is not None and not self.writer.place.is_dir():
            raise OutputError(
                f"{self.writer.place} is not there on a worker's host; "
                "give --output a folder that all hosts share"
            )
        parts = [self._infer(runner, part) for part in self._parts(unit.inputs, announce)]
        total_s = sum(part.total_s for part in parts)
        whole = together([(None, part) for part in parts], total_s, 1)
        return Inferred(len(runner.outputs), whole).to_bytes()

    def _parts(self, inputs: InputFiles, announce: Announce | None) -> Iterator[InputFiles]:
        if announce is None:
            yield inputs
            return
        for start in range(0, len(inputs.files), self.batch_size):
            part = _part(inputs, start, start + self.batch_size)
            announce([file.name for file in part.files])
            yield part

    def _infer(self, runner: Runner, inputs: InputFiles) -> Performance:
        warmup = 0 if self._warm is runner else self.settings.warmup
        settings = replace(self.settings, batch_size=self.batch_size, warmup=warmup)
        # The names of a unit's results are for the driver to note, in order.
        writer = None if self.writer is None else replace(self.writer, filesinfo={})
        performance = infer_files(runner, inputs, writer, settings)
        self._warm = runner
        return performance


@dataclass(frozen=True)
class Inferred:
    """What inferring a unit took, and how many *outputs* each of its inputs has."""

    outputs: int
    performance: Performance

    def to_bytes(self) -> bytes:
        """It as JSON."""
        return json.dumps(asdict(self)).encode()


def inferred(data: bytes) -> Inferred:
    """What `Inferred.to_bytes` was made of."""
    content: Mapping[str, Any] = json.loads(data)
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content["performance"].items()
    }
    return Inferred(content["outputs"], Performance(**values))


def check_there(unit: FileUnit, outputs: int, writer: ResultWriter, worker: object) -> None:
    """Raise `OutputError` where a result that *worker* wrote is not to be seen from here."""
    for file in unit.inputs.files:
        for output in range(outputs):
            path: Path = writer.path(file.stem, output)
            if not path.is_file():
                raise OutputError(
                    f"{worker} wrote {path.name} to {path.parent}, but it is not there on the "
                    "driver's host; give --output a folder that all hosts share"
                )
