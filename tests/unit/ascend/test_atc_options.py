"""Tests for `effd0.ascend.atc_options`: wrong options are refused before ATC is looked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effd0.ascend.atc import AtcOptions, compiled_shape, parse_gears
from effd0.errors import AtcError

HERE = Path(__file__)


@pytest.mark.parametrize(
    ("mode", "mixed"),
    [
        ({"precision_mode": "allow_mix_precision"}, True),
        ({"precision_mode": "force_fp16"}, False),
        ({"precision_mode": "allow_fp32_to_fp16"}, False),
        ({"precision_mode_v2": "mixed_float16"}, True),
        ({"precision_mode_v2": "origin"}, False),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else None,
)
def test_mixed_modes_are_those_of_the_manual(mode: dict[str, Any], mixed: bool) -> None:
    """Lists of operators are read in the modes that choose operator by operator, no other."""
    options = AtcOptions(**mode)
    assert (options.mixed, options.precision) == (mixed, next(iter(mode.items())))
    # The recipe's, where no mode is given.
    assert AtcOptions().precision == ("precision_mode", "allow_mix_precision")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision_mode": "fp16"}, "--precision-mode is 'fp16', but allow_.*; choose"),
        ({"precision_mode_v2": "force_fp16"}, "--precision-mode-v2 is 'force_fp16', but"),
        ({"output_type": "INT8"}, "'INT8', but FP32, FP16 exist"),
        ({"soc_version": "310P3"}, "is '310P3', but .* as Ascend310P3"),
        ({"batch_size": 0}, "--batch-size is 0, but at least 1"),
        ({"gears": (4,)}, "is 4, but 2 to 100 positive"),
        ({"gears": tuple(range(1, 102))}, "but 2 to 100"),
        ({"gears": (4, 1)}, "is 4,1, but .* larger than"),
        ({"gears": (0, 1)}, "is 0,1, but .* positive"),
        ({"modify_mixlist": Path("no.json")}, "--modify-mixlist is no.json, which"),
        (
            {"modify_mixlist": HERE, "precision_mode": "force_fp16"},
            "--modify-mixlist is given, but --precision-mode force_fp16 does not read it; leave",
        ),
        ({"precision_mode": "force_fp16", "precision_mode_v2": "fp16"}, "exclude each other"),
        ({"batch_size": 4, "gears": (1, 4)}, "--batch-size and --dynamic-batch-size are both"),
        ({"aipp": True, "insert_op_conf": HERE}, "--aipp and --insert-op-conf are both given"),
        ({"aipp": True, "input_fp16": True}, "--aipp and --input-fp16 are both given"),
        ({"insert_op_conf": HERE, "input_fp16": True}, "and --input-fp16 are both given"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """The message shows the option, what came and what is possible; none silently wins."""
    with pytest.raises(AtcError, match=message):
        AtcOptions(**options)


@given(st.sets(st.integers(1, 2048), min_size=2, max_size=100))
def test_gears_are_read_as_written(sizes: set[int]) -> None:
    """Any 2 to 100 rising sizes are taken, with blanks or without."""
    gears = tuple(sorted(sizes))
    assert parse_gears(",".join(map(str, gears))) == gears
    assert AtcOptions(gears=parse_gears(" , ".join(map(str, gears)))).gears == gears


@pytest.mark.parametrize("text", ["", "1,", "1;4", "1,-4", "1.5,2", "one,two", "1,٤"], ids=repr)
def test_other_texts_are_no_gears(text: str) -> None:
    """The text that came is shown beside the form that is wanted."""
    with pytest.raises(AtcError, match=re.escape(repr(text)) + ", but .* write them as 1,4,8"):
        parse_gears(text)


@pytest.mark.parametrize(
    ("dims", "options", "expected"),
    [
        ([1, 3, 512, 512], {}, (1, 3, 512, 512)),
        ([4, 3, 8, 8], {"batch_size": 4}, (4, 3, 8, 8)),
        ([None, 3, 8, 8], {"batch_size": 7}, (7, 3, 8, 8)),
        ([None, 3, 8, 8], {"gears": (1, 4)}, (-1, 3, 8, 8)),
        ([None, 3, 8, 8], {}, "batch of d0.onnx is free, but .*; give --batch-size 1, or --dyn"),
        ([1, 3, 8, 8], {"batch_size": 4}, "is fixed to 1, but --batch-size is 4; .*export with"),
        ([4, 3, 8, 8], {"gears": (1, 4)}, "is fixed to 4, but --dynamic-batch-size wants it free"),
        ([1, 3, None, 8], {}, r"is \[1, 3, None, 8\], but only its batch"),
    ],
    ids=["fixed", "same", "free", "gears", "unknown", "other", "gears-on-fixed", "free-side"],
)
def test_the_shape_joins_file_and_options(
    dims: list[int | None], options: dict[str, Any], expected: tuple[int, ...] | str
) -> None:
    """A fixed batch is the file's, a free one the option's; both are named where they disagree."""
    model, asked = Path("d0.onnx"), AtcOptions(**options)
    if isinstance(expected, tuple):
        assert compiled_shape(model, dims, asked) == expected
    else:
        with pytest.raises(AtcError, match=expected):
            compiled_shape(model, dims, asked)
