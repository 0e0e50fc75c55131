"""Tests for `effd0.runners.checkpoint`: files that are no checkpoint, and weights that are none."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from effd0.errors import CheckpointError
from effd0.runners.checkpoint import build_model, check_weights, load_model, read_weights
from effd0.spec import SPECS, ModelSpec

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def wanted(spec: ModelSpec) -> State:
    """The names and shapes of the architecture under test, with untrained weights."""
    state: State = build_model(spec).state_dict()
    return state


class Trap:
    """An object whose unpickling would make a file."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.sprung,))


def saved(content: object) -> bytes:
    """Return *content* as torch writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_a_missing_file_says_where_to_get_one(tmp_path: Path) -> None:
    """The next step is the command that downloads the weights."""
    with pytest.raises(CheckpointError, match=r"d0\.pth does not exist; .*'effd0 fetch checkpoi"):
        read_weights(tmp_path / "d0.pth")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("d0.pth", b"not weights\n", "is not a file of plain tensors", id="text"),
        pytest.param("d0.pth", b"", "is not a readable checkpoint", id="empty"),
        pytest.param(
            "d0.pth",
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a Git LFS pointer",
            id="lfs-pointer",
        ),
        pytest.param(
            "d0.pth", saved({"w": torch.ones(9)})[:-100], "is not a readable checkp", id="cut-off"
        ),
        pytest.param(
            "d0.safetensors", b"not weights\n", "is not a readable checkpoint", id="safetensors"
        ),
        pytest.param(
            "d0.pth", saved([torch.ones(1)]), "holds a list, but a state dict was", id="list"
        ),
        pytest.param("d0.pth", saved({}), r"holds \[\], but a state dict was", id="empty-dict"),
        pytest.param(
            "d0.pth", saved({"epoch": 3}), r"holds \['epoch'\], but a state dict", id="no-tensor"
        ),
    ],
)
def test_a_file_without_weights_is_refused(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    """The message says what the file holds and what was wanted."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} {message}"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("save", [torch.save, None], ids=["torch-file", "bare-pickle"])
def test_code_in_a_file_is_not_run(save: Callable[..., None] | None, tmp_path: Path) -> None:
    """A file that would run code on loading is refused, and its code has not run."""
    path, sprung = tmp_path / "d0.pth", tmp_path / "sprung"
    content = {"w": torch.ones(1), "trap": Trap(sprung)}
    if save is None:
        path.write_bytes(pickle.dumps({"trap": Trap(sprung)}))
    else:
        save(content, path)
    with pytest.raises(CheckpointError, match=r"nothing else is loaded, since it could run code"):
        read_weights(path)
    assert not sprung.exists()


def without_first(state: State) -> State:
    """Leave out the first weight."""
    return dict(list(state.items())[1:])


def with_stranger(state: State) -> State:
    """Add a weight that the network has not."""
    return state | {"stranger.weight": torch.ones(1)}


def reshaped(state: State) -> State:
    """Give the first weight one output channel more."""
    name, first = next(iter(state.items()))
    return state | {name: torch.cat([first, first[:1]])}


def holding(value: float) -> Callable[[State], State]:
    """Return a change that puts *value* into the first weight."""

    def change(state: State) -> State:
        name, first = next(iter(state.items()))
        broken = first.clone()
        broken.view(-1)[0] = value
        return state | {name: broken}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_first, "is not a checkpoint of {arch}: 1 keys are missing: {first}; check the"),
        (with_stranger, "1 keys are unexpected: stranger.weight; check the file, or give --arch"),
        (reshaped, r"{first} is (33, 3, 3, 3), but (32, 3, 3, 3) was wanted"),
        (holding(float("nan")), "holds NaN or infinity in {first}, but every weight must be"),
        (holding(float("inf")), "holds NaN or infinity in {first}"),
        (holding(float("-inf")), "holds NaN or infinity in {first}"),
    ],
    ids=["missing", "unexpected", "shape", "nan", "inf", "minus-inf"],
)
def test_weights_that_do_not_fit_are_named(
    change: Callable[[State], State], message: str, wanted: State, spec: ModelSpec, tmp_path: Path
) -> None:
    """One wrong weight among hundreds is found and called by its name."""
    with pytest.raises(CheckpointError) as caught:
        check_weights(tmp_path / "d0.pth", change(wanted), wanted, spec)
    assert message.format(arch=spec.arch, first=next(iter(wanted))) in str(caught.value)


def test_many_problems_are_counted_and_some_are_shown(
    wanted: State, spec: ModelSpec, tmp_path: Path
) -> None:
    """A file of something else does not fill the screen with names."""
    strangers = {f"s{n}": torch.ones(1) for n in range(20)}
    with pytest.raises(CheckpointError, match=r"20 keys are unexpected: s0, s1, s2, s3, s4 \.\.\."):
        check_weights(tmp_path / "d0.pth", wanted | strangers, wanted, spec)


def test_the_weights_of_another_architecture_are_refused(checkpoint: Path, spec: ModelSpec) -> None:
    """Architectures with other weights are told apart, and the message offers --arch."""
    other = next(s for s in SPECS.values() if ("tf_" in s.arch) != ("tf_" in spec.arch))
    with pytest.raises(CheckpointError, match=rf"is not a checkpoint of {other.arch}: .*--arch"):
        load_model(checkpoint, other)


def test_a_fresh_network_is_refused(wanted: State, spec: ModelSpec, tmp_path: Path) -> None:
    """Freshly initialised weights fit in every way, but any comparison would pass on them."""
    torch.save(wanted, tmp_path / "fresh.pth")
    with pytest.raises(CheckpointError, match=r"fresh\.pth is untrained: its class logits vary"):
        load_model(tmp_path / "fresh.pth", spec)
