"""
The options of ATC, checked before it runs.

Defaults are the recipe's: mixed precision with ReduceMeanD kept in float32, the only mode with a
published accuracy of this network on an Ascend chip (33.4 mAP on a 310P3).  ATC's own default,
float16 throughout, overflowed at some batch sizes.  Mixed modes have ruined another feature
pyramid (Ascend/pytorch, issue 125), so the accuracy of any choice has to be measured.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import AtcError, refuse
from ..types import check_choices, option

PRECISION_MODES = (
    "allow_mix_precision", "allow_mix_precision_fp16", "allow_mix_precision_bf16", "force_fp16",
    "force_fp32", "cube_fp16in_fp32out", "allow_fp32_to_fp16", "allow_fp32_to_bf16",
    "must_keep_origin_dtype",
)  # fmt: skip
PRECISION_MODES_V2 = (
    "mixed_float16", "mixed_bfloat16", "mixed_hif8", "fp16", "origin", "cube_fp16in_fp32out",
    "cube_hif8",
)  # fmt: skip
MIN_GEARS, MAX_GEARS = 2, 100
#: Pairs of options of which one may be given; with AIPP the input is uint8, never float16.
EXCLUSIVE = (
    ("--precision-mode", "--precision-mode-v2"),
    ("--batch-size", "--dynamic-batch-size"),
    ("--aipp", "--insert-op-conf"),
    ("--aipp", "--input-fp16"),
    ("--insert-op-conf", "--input-fp16"),
)


@dataclass(frozen=True)
class AtcOptions:
    """
    Options of a compilation, checked when made; None is "not given".

    *soc_version* is the chip, by default that of this host.  *gears* are the batch sizes of one
    model, rising.  *aipp* folds the normalisation in, by a file of our own; *insert_op_conf* is
    another such file.  *input_fp16* and *output_type* are the dtypes of the .om's tensors.
    Raises `AtcError` for values that ATC does not know and options that exclude each other.
    """

    soc_version: str | None = option(
        "Target chip: Ascend310P3, ...", "NAME", shown="this host's, by npu-smi"
    )
    batch_size: int | None = option("Fixed batch size.", shown="the model's")
    precision_mode: str | None = option(
        f"{', '.join(PRECISION_MODES)}.",
        "MODE",
        shown=f"{PRECISION_MODES[0]}, as the recipe",
        choices=PRECISION_MODES,
    )
    precision_mode_v2: str | None = option(
        f"In place of --precision-mode: {', '.join(PRECISION_MODES_V2)}.",
        "MODE",
        choices=PRECISION_MODES_V2,
    )
    modify_mixlist: Path | None = option(
        "List of operators with a precision of their own in mixed modes.",
        shown="ops_info.json beside the output: ReduceMeanD in float32",
    )
    aipp: bool = option("Include the normalisation; the input is uint8 pixels.", default=False)
    insert_op_conf: Path | None = option("Your own AIPP file.")
    input_fp16: bool = option("Take float16 input.", default=False)
    output_type: str | None = option("Type of the outputs.", shown="FP32", choices=("FP32", "FP16"))
    log: str = option(
        "ATC's log level.", default="debug", choices=("debug", "info", "warning", "error", "null")
    )
    gears: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self, AtcError)
        soc, gears, (name, mode) = self.soc_version, self.gears, self.precision
        rising = all(a < b for a, b in zip((0, *gears), gears, strict=False))
        files = {"--modify-mixlist": self.modify_mixlist, "--insert-op-conf": self.insert_op_conf}
        given = {f"--{key.replace('_', '-')}": value for key, value in vars(self).items()}
        given["--dynamic-batch-size"] = gears
        refuse({
            f"--dynamic-batch-size is {','.join(map(str, gears))}, but {MIN_GEARS} to {MAX_GEARS} "
            "positive sizes, each larger than the one before, are wanted; write them as 1,4,8":
                gears and not (rising and MIN_GEARS <= len(gears) <= MAX_GEARS),
            f"--soc-version is {soc!r}, but 'Ascend' and the Name that 'npu-smi info' shows is "
            "wanted; write it as Ascend310P3":
                soc is not None and not re.fullmatch(r"Ascend\w[\w-]*", soc, re.ASCII),
            f"--batch-size is {self.batch_size}, but at least 1 is wanted; give 1":
                self.batch_size is not None and self.batch_size < 1,
            **{f"{flag} is {file}, which is not a file; check the path": not file.is_file()
               for flag, file in files.items() if file is not None},
            **{f"{one} and {other} are both given, but exclude each other; give one":
                given[one] and given[other] for one, other in EXCLUSIVE},
            f"--modify-mixlist is given, but --{name.replace('_', '-')} {mode} does not read it; "
            "leave it out, or take --precision-mode allow_mix_precision":
                self.modify_mixlist and not self.mixed,
        }, AtcError)  # fmt: skip

    @property
    def precision(self) -> tuple[str, str]:
        """The option that sets the precision, and its value."""
        if self.precision_mode_v2 is not None:
            return "precision_mode_v2", self.precision_mode_v2
        mode = self.precision_mode
        return "precision_mode", PRECISION_MODES[0] if mode is None else mode

    @property
    def mixed(self) -> bool:
        """Whether ATC chooses the precision operator by operator, and so reads a list."""
        return self.precision[1].startswith(("allow_mix", "mixed"))


def parse_gears(text: str) -> tuple[int, ...]:
    """Read batch sizes written as ``1,4,8``; raise `AtcError` if that is not what *text* is."""
    if not re.fullmatch(r"\s*\d{1,6}\s*(,\s*\d{1,6}\s*)*", text, re.ASCII):
        raise AtcError(
            f"--dynamic-batch-size is {text!r}, but batch sizes are wanted; write them as 1,4,8"
        )
    return tuple(int(word) for word in text.split(","))


def compiled_shape(model: Path, dims: Sequence[int | None], options: AtcOptions) -> tuple[int, ...]:
    """
    The input's shape for ATC; a batch of -1 is set by the gears.

    *dims* are the sides that the ONNX file *model* declares, None for a free one.  Raises
    `AtcError` where they and *options* do not agree.
    """
    batch, *rest = dims
    sides = tuple(side for side in rest if side is not None)
    asked = options.batch_size
    fixed = f"the batch of {model} is fixed to {batch}, but"
    refuse({
        f"the input of {model} is {list(dims)}, but only its batch may be free; export it again "
        "with 'effd0 export'": len(sides) != len(rest),
        f"{fixed} --dynamic-batch-size wants it free; export it with --dynamic-batch":
            options.gears and batch is not None,
        f"the batch of {model} is free, but ATC has to know it; give --batch-size 1, or "
        "--dynamic-batch-size 1,4,8": (batch, asked, options.gears) == (None, None, ()),
        f"{fixed} --batch-size is {asked}; leave that out, or export with --batch-size {asked} or "
        "--dynamic-batch": batch is not None and asked not in (None, batch),
    }, AtcError)  # fmt: skip
    given = batch if asked is None else asked
    return (-1 if given is None else given, *sides)
