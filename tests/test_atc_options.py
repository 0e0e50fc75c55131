"""`effd0.ascend.atc_options`: what cannot be meant is refused before ATC is looked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.ascend.atc_options import AtcOptions, input_shape, parse_gears
from effd0.errors import AtcError

MODEL = Path("d0.onnx")


def test_what_is_not_asked_for_is_the_recipes() -> None:
    """The recipe compiles in mixed precision, with its log at debug."""
    options = AtcOptions()
    assert options.precision == ("precision_mode", "allow_mix_precision")
    assert (options.mixed, options.log) == (True, "debug")


@pytest.mark.parametrize(
    ("mode", "mixed"),
    [
        ({"precision_mode": "allow_mix_precision_fp16"}, True),
        ({"precision_mode": "allow_mix_precision_bf16"}, True),
        ({"precision_mode": "force_fp16"}, False),
        ({"precision_mode": "must_keep_origin_dtype"}, False),
        ({"precision_mode": "allow_fp32_to_fp16"}, False),
        ({"precision_mode_v2": "mixed_float16"}, True),
        ({"precision_mode_v2": "mixed_hif8"}, True),
        ({"precision_mode_v2": "origin"}, False),
        ({"precision_mode_v2": "cube_fp16in_fp32out"}, False),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else None,
)
def test_mixed_modes_are_those_of_the_manual(mode: dict[str, str], mixed: bool) -> None:
    """Lists of operators are read in the modes that choose operator by operator, no other."""
    assert AtcOptions(**mode).mixed is mixed  # type: ignore[arg-type]  # strings all
    assert AtcOptions(**mode).precision == next(iter(mode.items()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"precision_mode": "fp16"},
            "--precision-mode is 'fp16', but ATC knows allow_mix_precision, .*; choose one",
            id="value-of-v2",
        ),
        pytest.param(
            {"precision_mode_v2": "force_fp16"}, "--precision-mode-v2 is 'force_fp16', but", id="v1"
        ),
        pytest.param({"log": "verbose"}, "--log is 'verbose', but .* debug, info", id="log"),
        pytest.param({"output_type": "INT8"}, "'INT8', but ATC knows FP32, FP16", id="output-type"),
        pytest.param({"soc_version": "310P3"}, "is '310P3', but .* as Ascend310P3", id="soc-bare"),
        pytest.param({"soc_version": "Ascend310P3 "}, "is 'Ascend310P3 ', but", id="soc-blank"),
        pytest.param({"batch_size": 0}, "--batch-size is 0, but at least 1", id="batch-none"),
        pytest.param({"gears": (4,)}, "is 4, but 2 to 100 positive", id="one-gear"),
        pytest.param({"gears": tuple(range(1, 102))}, "but 2 to 100", id="gears-101"),
        pytest.param({"gears": (4, 1)}, "is 4,1, but .* larger than", id="gears-falling"),
        pytest.param({"gears": (1, 1)}, "is 1,1, but", id="gears-twice"),
        pytest.param({"gears": (0, 1)}, "is 0,1, but .* positive", id="gears-zero"),
        pytest.param(
            {"modify_mixlist": Path("no.json")}, "--modify-mixlist is no.json, which", id="no-list"
        ),
        pytest.param(
            {"insert_op_conf": Path("no.cfg")}, "--insert-op-conf is no.cfg, which", id="no-aipp"
        ),
        pytest.param(
            {"modify_mixlist": Path(__file__), "precision_mode": "force_fp16"},
            "--modify-mixlist is given, but --precision-mode force_fp16 does not read it; leave",
            id="list-unread",
        ),
    ],
)
def test_wrong_values_are_refused(options: dict[str, Any], message: str) -> None:
    """The message shows the option, what came and what is possible."""
    with pytest.raises(AtcError, match=message):
        AtcOptions(**options)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"precision_mode": "force_fp16"}, {"precision_mode_v2": "fp16"}),
        ({"batch_size": 4}, {"gears": (1, 4)}),
        ({"aipp": True}, {"insert_op_conf": Path(__file__)}),
        ({"aipp": True}, {"input_fp16": True}),
        ({"insert_op_conf": Path(__file__)}, {"input_fp16": True}),
    ],
    ids=["precisions", "batches", "aipps", "aipp-and-fp16", "aipp-file-and-fp16"],
)
def test_exclusive_options_are_refused(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Each alone is taken, both together are an error and not a question of precedence."""
    AtcOptions(**one)
    AtcOptions(**other)
    wanted = r"--[\w-]+ and --[\w-]+ are both given, but exclude each other; give one"
    with pytest.raises(AtcError, match=wanted):
        AtcOptions(**one, **other)


@given(st.sets(st.integers(1, 2048), min_size=2, max_size=100))
def test_gears_are_read_as_written(sizes: set[int]) -> None:
    """Any 2 to 100 rising sizes are taken, with blanks or without."""
    gears = tuple(sorted(sizes))
    assert parse_gears(",".join(map(str, gears))) == gears
    assert AtcOptions(gears=parse_gears(" , ".join(map(str, gears)))).gears == gears


@pytest.mark.parametrize("text", ["", "1,", "1;4", "1,-4", "1.5,2", "one,two", "1,٤"], ids=repr)
def test_what_is_no_list_of_sizes_is_refused(text: str) -> None:
    """The text that came is shown beside the form that is wanted."""
    with pytest.raises(AtcError, match=re.escape(repr(text)) + ", but .* write them as 1,4,8"):
        parse_gears(text)


@pytest.mark.parametrize(
    ("dims", "options", "shape"),
    [
        pytest.param([1, 3, 512, 512], AtcOptions(), (1, 3, 512, 512), id="fixed"),
        pytest.param([4, 3, 8, 8], AtcOptions(batch_size=4), (4, 3, 8, 8), id="fixed-and-asked"),
        pytest.param([None, 3, 8, 8], AtcOptions(batch_size=7), (7, 3, 8, 8), id="free-and-asked"),
        pytest.param([None, 3, 8, 8], AtcOptions(gears=(1, 4)), (-1, 3, 8, 8), id="free-and-gears"),
    ],
)
def test_the_shape_joins_file_and_options(
    dims: list[int | None], options: AtcOptions, shape: tuple[int, ...]
) -> None:
    """A fixed batch is the file's, a free one is asked for, and gears set it at run time."""
    assert input_shape(MODEL, dims, options) == shape


@pytest.mark.parametrize(
    ("dims", "options", "message"),
    [
        pytest.param(
            [None, 3, 8, 8],
            AtcOptions(),
            "batch of d0.onnx is free, but .*; give --batch-size 1, or --dynamic-batch-size",
            id="free",
        ),
        pytest.param(
            [1, 3, 8, 8],
            AtcOptions(batch_size=4),
            "is fixed to 1, but --batch-size is 4; .*export with --batch-size 4 or --dynamic-batch",
            id="fixed-otherwise",
        ),
        pytest.param(
            [4, 3, 8, 8],
            AtcOptions(gears=(1, 4)),
            "is fixed to 4, but --dynamic-batch-size wants it free; export it with",
            id="fixed-and-gears",
        ),
        pytest.param(
            [1, 3, None, 8], AtcOptions(), r"is \[1, 3, None, 8\], but only its batch", id="side"
        ),
    ],
)
def test_file_and_options_that_disagree_are_refused(
    dims: list[int | None], options: AtcOptions, message: str
) -> None:
    """What the file holds stands beside what was asked, with the way to make them agree."""
    with pytest.raises(AtcError, match=message):
        input_shape(MODEL, dims, options)
