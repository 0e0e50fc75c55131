"""Head outputs that were computed elsewhere, given as if they were computed here."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..detection.heads import named_heads
from ..errors import RunnerError
from ..spec import ModelSpec
from ..tensors.inputs import find_manifest, input_shape
from ..tensors.results import open_results
from ..types import Tensors
from .base import Runner, TensorInfo, head_infos


class RecordedRunner(Runner):
    """
    A folder of results, asked by input: each row that is fed is known by its SHA-256.

    The fingerprints come from the manifest of the inputs, beside *results* or in *bins*; without
    one, as with another tool's inputs, from *digests*, stem -> SHA-256 of its float32 input.
    """

    def __init__(
        self,
        results: Path,
        spec: ModelSpec,
        *,
        bins: Path | None = None,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(results, f"results in {results}")
        self.spec, self.bins, self.digests = spec, bins, digests

    def open(self) -> tuple[Any, list[TensorInfo], list[TensorInfo]]:
        """Find the files of each input; the one input is as the manifest describes it."""
        manifest = find_manifest(self.model, self.bins)
        digests = self.digests if manifest is None else manifest.digests
        if digests is None:
            raise RunnerError(
                f"{self.model} has no manifest of its inputs beside it; give their folder, "
                "which 'effd0 preprocess' made, by --bins"
            )
        results = open_results(self.model, self.spec, list(digests), bins=self.bins)
        self.description = results.description
        dtype = "float32" if manifest is None else manifest.dtype
        shape = (None, *input_shape(dtype, self.spec))
        info = TensorInfo(self.spec.input_name, shape, np.dtype(dtype))
        stems = {digest: stem for stem, digest in digests.items()}
        return (results, stems), [info], head_infos(self.spec)

    def run(self, session: Any, feed: Tensors) -> Sequence[np.ndarray]:
        """Look up the outputs of each row of *feed*; see `Runner.run`."""
        (results, stems), heads = session, []
        for number, row in enumerate(feed[self.spec.input_name]):
            digest = digest_of(row)
            if digest not in stems:
                raise RunnerError(
                    f"row {number} (sha256 {digest[:12]}) is none of the {len(stems)} inputs "
                    f"that {self.model} has results of; feed these, preprocessed by the same --arch"
                )
            heads.append(named_heads(results.heads(stems[digest]), self.spec))
        return [np.concatenate([of[name] for of in heads]) for name in self.spec.output_names]


def digest_of(row: np.ndarray) -> str:
    """SHA-256 of one input as it stands in a file: little-endian, row by row."""
    raw = row.astype(row.dtype.newbyteorder("<"), copy=False).tobytes()
    return hashlib.sha256(raw).hexdigest()
