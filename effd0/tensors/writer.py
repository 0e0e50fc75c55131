"""
A folder of results, written whole or not at all.

Beside it lie ``NAME_summary.json`` and, where the inputs have one, ``NAME_manifest.json``: the
folder itself holds results only, as other tools expect.
"""

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError
from ..io import write_json, writing_to
from ..types import Tensors
from .inputs import Manifest

PURE = "pure_infer_data"


@dataclass
class ResultWriter:
    """Files of heads in *place* that will lie in *folder*; which input each is of, in order."""

    place: Path
    folder: Path
    outfmt: str
    filesinfo: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def name(self, stem: str, outputs: int, source: Path | None) -> None:
        """Note that *source* will have *outputs* files that begin with *stem*."""
        names = [f"{stem}_{i}.{self.outfmt.lower()}" for i in range(outputs)]
        self.filesinfo[str(len(self.filesinfo))] = {
            "infiles": [] if source is None else [str(source)],
            "outfiles": [str(self.folder / name) for name in names],
        }

    def save(self, stem: str, outputs: Tensors, order: Sequence[str]) -> None:
        """
        Write *outputs*, in *order*, as float32 in C order, little endian.

        Several may write the same files, and be killed: each file is whole, and the last stays.
        """
        for i, name in enumerate(order):
            tensor, path = np.ascontiguousarray(outputs[name], "<f4"), self.path(stem, i)
            # Beside the folder: what is left of a killed one is no result.
            temporary = self.place / f"{uuid.uuid4().hex}{path.suffix}"
            with writing_to(self.folder):
                if self.outfmt == "NPY":
                    np.save(temporary, tensor)
                else:
                    tensor.tofile(temporary)
                temporary.replace(path)

    def path(self, stem: str, output: int) -> Path:
        """Where the file of an *output* of *stem* is until the folder is whole."""
        return self.place / self.folder.name / f"{stem}_{output}.{self.outfmt.lower()}"

    def close(self, summary: Mapping[str, Any], manifest: Manifest | None) -> None:
        """Write *summary* and a copy of the inputs' *manifest*."""
        place = str(self.place / self.folder.name)
        write_json({"filesinfo": self.filesinfo, **summary}, Path(f"{place}_summary.json"))
        if manifest is not None:
            shutil.copyfile(manifest.path, f"{place}_manifest.json")


@contextlib.contextmanager
def results_whole(folder: Path, outfmt: str, *, overwrite: bool) -> Iterator[ResultWriter]:
    """
    Yield a writer of results that become *folder* once the block has succeeded.

    Raises `OutputError` where *folder* exists, unless *overwrite*: it is then replaced at the end.
    """
    check_free(folder, overwrite=overwrite)
    with writing_to(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        new, old = place / "new", place / "old"
        with writing_to(folder):
            (new / folder.name).mkdir(parents=True)
            old.mkdir()
        yield ResultWriter(new, folder, outfmt)
        check_free(folder, overwrite=overwrite)
        with writing_to(folder):
            # The folder comes last: where it is, all that belongs to it is.
            for name in (f"{folder.name}{end}" for end in ("_summary.json", "_manifest.json", "")):
                for source, target in ((folder.parent, old), (new, folder.parent)):
                    if (source / name).exists():
                        (source / name).rename(target / name)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raise `OutputError` where results may not become *folder*."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, but a folder of results is to be written; move it")
    if folder.exists() and not overwrite:
        raise OutputError(
            f"{folder} exists, but results of two runs must not mix; give another "
            "--output-dirname, or --overwrite to replace it"
        )
