"""Head outputs that were computed elsewhere, given as if they were computed here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import RunnerError
from ..spec import ModelSpec
from ..tensors.inputs import input_shape
from ..tensors.results import Results, find_manifest, open_results
from ..types import Tensors
from .base import TensorInfo, check_feed, head_infos


class RecordedRunner:
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
        self.folder, self.spec, self.bins, self.digests = results, spec, bins, digests
        self.description = f"results in {results}"
        self._results: Results | None = None
        self._stems: dict[str, str] = {}
        self._dtype: np.dtype[Any] = np.dtype(np.float32)

    def __enter__(self) -> Self:
        manifest = find_manifest(self.folder, self.bins)
        digests = self.digests if manifest is None else manifest.digests
        if digests is None:
            raise RunnerError(
                f"{self.folder} has no manifest of its inputs beside it; give their folder, "
                "which 'effd0 preprocess' made, by --bins"
            )
        results = open_results(self.folder, self.spec, list(digests), bins=self.bins)
        self._stems = {digest: stem for stem, digest in digests.items()}
        self._results = results
        self._dtype = np.dtype(np.float32 if manifest is None else manifest.dtype)
        self.description = results.description
        return self

    def __exit__(self, *_: object) -> None:
        self._results = None

    @property
    def inputs(self) -> list[TensorInfo]:
        """The one input, as the manifest describes it; any number of rows."""
        self._opened()
        shape = (None, *input_shape(self._dtype.name, self.spec))
        return [TensorInfo(self.spec.input_name, shape, self._dtype)]

    @property
    def outputs(self) -> list[TensorInfo]:
        """The heads, in the recipe's order."""
        self._opened()
        return head_infos(self.spec)

    def infer(self, feed: Tensors) -> Tensors:
        """Look up the outputs of each row of *feed*; see `Runner.infer`."""
        results, inputs = self._opened(), self.inputs
        check_feed(feed, inputs)
        rows = [results.heads(self._stem(row, n)) for n, row in enumerate(feed[inputs[0].name])]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _stem(self, row: np.ndarray, number: int) -> str:
        digest = digest_of(row)
        try:
            return self._stems[digest]
        except KeyError:
            raise RunnerError(
                f"row {number} (sha256 {digest[:12]}) is none of the {len(self._stems)} inputs "
                f"that {self.folder} has results of; feed these, preprocessed by the same --arch"
            ) from None

    def _opened(self) -> Results:
        if self._results is None:
            raise RunnerError(f"{self.folder} is not open; use the runner in a 'with' block")
        return self._results


def digest_of(row: np.ndarray) -> str:
    """SHA-256 of one input as it stands in a file: little-endian, row by row."""
    raw = row.astype(row.dtype.newbyteorder("<"), copy=False).tobytes()
    return hashlib.sha256(raw).hexdigest()
