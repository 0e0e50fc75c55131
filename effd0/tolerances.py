"""
Every number by which a verdict may forgive a difference: what it is, why, and what was measured.

Measured on trained weights, the embedded ones where nothing else is said.  ``docs/tolerances.md``
is made of this table.  The bands that tell one precision from another are in `precision`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Tolerance:
    """
    How large a difference may be: *limit*, in *unit*.

    *spread* is the largest that was measured, on *measured*, where nothing is wrong; *reason* says
    where it comes from and what would be wrong.
    """

    name: str
    limit: float
    unit: str
    reason: str
    spread: float
    measured: date


POINTS = "points of mAP"
MAX_ABS = "largest difference in a head"
RELATIVE_L2 = "relative L2 of a head"
_FIRST, _SECOND = date(2026, 11, 23), date(2026, 11, 25)

#: What the paired gate takes where --max-drop does not say otherwise.
MAX_DROP = Tolerance(
    "drop against the reference", 0.2, POINTS,
    "Float16 weights moved the mAP of 80 photographs by 0.09; the recipe tells 33.4 of an NPU "
    "where its weights had 33.6.",
    0.09, _FIRST,
)  # fmt: skip
TO_RECORD = Tolerance(
    "float32 against effdet's record", 0.1, POINTS,
    "On the embedded scenes torch, ONNX Runtime and OpenVINO are the record's at batch 1 and 7; "
    "another machine's float32 may reorder near-equal scores.",
    0.0, _FIRST,
)  # fmt: skip
BETWEEN_RUNNERS = Tolerance(
    "between two float32 runners", 0.05, POINTS,
    "None on the embedded scenes and on 80 photographs.",
    0.0, _FIRST,
)  # fmt: skip
ROUNDED = Tolerance(
    "where float16 may have been used", 0.3, POINTS,
    "Emulated chips: 0.04 on the embedded scenes, 0.02 on 80 photographs, 0.09 with float16 "
    "weights in torch; the recipe lost 0.2.",
    0.09, _FIRST,
)  # fmt: skip
ROUNDED_BY_AIPP = Tolerance(
    "float16, with the normalisation in AIPP", 0.3, POINTS,
    "An emulated chip, on 80 photographs.",
    0.135, _FIRST,
)  # fmt: skip
AP_ARITHMETIC = Tolerance(
    "the same AP, summed in another order", 1e-9, POINTS,
    "Float64 fractions; a floor that is beyond reach by less is not called so.",
    2.9e-14, _SECOND,
)  # fmt: skip
SAME_FLOAT32 = Tolerance(
    "float32 in another order of sums", 2e-3, MAX_ABS,
    "Fused batch norms, both exporters, opsets 11 to 18, simplified or not, batch 1 to 8: 8.4e-5 "
    "on real images and 1.3e-4 on noise, for logits that reach -36.  Float16 arithmetic differs "
    "by 2.5e-2, bfloat16 by 0.27.",
    1.3e-4, _FIRST,
)  # fmt: skip
ROUNDED_L2 = Tolerance(
    "heads where float16 may have been used", 2e-2, RELATIVE_L2,
    "All of it in float16 on the CPU: 5.4e-3 in torch, 3.1e-3 in ONNX Runtime, both in the boxes "
    "of P7.  A chip sums in other orders and has not been measured.",
    5.4e-3, _SECOND,
)  # fmt: skip
INT8_L2 = Tolerance(
    "heads of an int8 model", 0.6, RELATIVE_L2,
    "Weights and activations in 8 bits, emulated in torch: 0.07 to 0.34.  That many a fault is "
    "smaller is why such a model is judged by its mAP.",
    0.34, _FIRST,
)  # fmt: skip
#: Runners whose model was compiled for a chip, or that others ran: perhaps in float16.
MAY_ROUND = ("acl", "recorded")

_SCENES = "Twelve embedded scenes against torch in float32, one by one"
#: What each runner's heads may differ by, by its name and precision; held by a test of its own.
HEADS = {
    ("torch", "fp32"): Tolerance(
        "torch, fp32", SAME_FLOAT32.limit, MAX_ABS,
        "Batches of 4 against one by one.", 1.2e-5, _SECOND,
    ),
    ("torch", "fp16"): Tolerance(
        "torch, fp16", ROUNDED_L2.limit, RELATIVE_L2,
        f"{_SCENES}; 4.9e-2 at most.", 5.4e-3, _SECOND,
    ),
    ("torch", "bf16"): Tolerance(
        "torch, bf16", 1e-1, RELATIVE_L2, f"{_SCENES}; 0.4 at most.", 4.2e-2, _SECOND,
    ),
    ("ort", "fp32"): Tolerance(
        "ort, fp32", SAME_FLOAT32.limit, MAX_ABS,
        f"{_SCENES}; graph optimisation off, basic, extended and all.", 6.7e-5, _SECOND,
    ),
    ("ort", "fp16"): Tolerance(
        "ort, fp16 weights", ROUNDED_L2.limit, RELATIVE_L2,
        f"{_SCENES}; 2.6e-2 at most, 3.3e-2 with inputs and outputs rounded too.",
        3.2e-3, _SECOND,
    ),
    ("openvino", "fp32"): Tolerance(
        "openvino, f32", SAME_FLOAT32.limit, MAX_ABS,
        f"{_SCENES}, and batches of 1 to 8.", 3.1e-5, _SECOND,
    ),
    ("openvino", "fp16"): Tolerance(
        "openvino, fp16 weights", ROUNDED_L2.limit, RELATIVE_L2,
        f"{_SCENES}; 2.6e-2 at most.", 3.1e-3, _SECOND,
    ),
    ("emulated", "fp16"): Tolerance(
        "acl (emulated), force_fp16", ROUNDED_L2.limit, RELATIVE_L2,
        "Five embedded scenes against torch in float32; allow_mix_precision the same.",
        4.8e-3, _SECOND,
    ),
}  # fmt: skip
#: Torch on an accelerator against torch on the CPU, each in the precision.
DEVICES = {
    "fp32": Tolerance(
        "torch on a device, fp32", 1e-4, RELATIVE_L2,
        "Two CPU backends.  Accelerators sum in other orders and have not been measured: ten times "
        "as much is allowed; TF32 in place of float32, about 1e-3, is not.",
        7.7e-6, _SECOND,
    ),
    "fp16": Tolerance(
        "torch on a device, fp16", HEADS["torch", "fp16"].limit, RELATIVE_L2,
        "On the CPU, against float32.", HEADS["torch", "fp16"].spread, _SECOND,
    ),
    "bf16": Tolerance(
        "torch on a device, bf16", HEADS["torch", "bf16"].limit, RELATIVE_L2,
        "On the CPU, against float32.", HEADS["torch", "bf16"].spread, _SECOND,
    ),
}  # fmt: skip
#: Inputs that another tool made, by their type; where effd0's manifest lies beside them, none.
INPUTS = {
    "float32": Tolerance(
        "an input in float32", 1e-5, "largest difference of an element",
        "The division by 255 first; a grey level is 0.0175.", 2.4e-7, _FIRST,
    ),
    "float16": Tolerance(
        "an input in float16", 2e-3, "largest difference of an element",
        "One step from 2 on is 0.00195.", 1.95e-3, _FIRST,
    ),
    "uint8": Tolerance(
        "an input in uint8", 0.0, "largest difference of an element",
        "Pixels are whole.", 0.0, _FIRST,
    ),
}  # fmt: skip
NOISE = Tolerance(
    "nodes in float32 (bisect)", 1e-5, "relative L2 of a tensor",
    "Heads of a raw and of a simplified D0.", 3.7e-7, _FIRST,
)  # fmt: skip
NOISE_FLOAT16 = Tolerance(
    "nodes in float16 (bisect)", 2e-2, "relative L2 of a tensor",
    "Tensors of two graphs in float16.", 3.1e-3, _FIRST,
)  # fmt: skip
UNTRAINED = Tolerance(
    "logits of an untrained network", 0.01, "standard deviation over an image",
    "All are the prior, -4.595; trained ones spread by 2.0 and more.", 4e-5, _FIRST,
)  # fmt: skip
BOXES = Tolerance(
    "boxes against effdet's", 2e-6, "part of the image's longer side",
    "numpy and torch differ in the last bit of exp(), so that a corner errs by a part of its box's "
    "size, which may be several times the picture's; 72 pairs of synthetic heads and sizes.",
    1.4e-7, _FIRST,
)  # fmt: skip
SCORES = Tolerance(
    "scores against effdet's", 5e-7, "difference",
    "Scores are below 1, where a last bit is 6e-8; over the same pairs.", 1.2e-7, _FIRST,
)  # fmt: skip

TABLE = (
    MAX_DROP, TO_RECORD, BETWEEN_RUNNERS, ROUNDED, ROUNDED_BY_AIPP, AP_ARITHMETIC, SAME_FLOAT32,
    ROUNDED_L2, INT8_L2, *HEADS.values(), *DEVICES.values(), *INPUTS.values(), NOISE, NOISE_FLOAT16,
    UNTRAINED, BOXES, SCORES,
)  # fmt: skip

_HEAD = """# Tolerances

Every number by which a verdict forgives a difference, in the one place where it stands,
`effd0/tolerances.py`. This page is made of it; after a change there:

    python -c "from effd0 import tolerances; print(tolerances.page(), end='')" > docs/tolerances.md

*Measured* is the largest difference that was seen where nothing is wrong, on trained weights. The
bands by which `effd0/precision.py` names a precision are there, with what was measured.

| tolerance | allowed | in | measured | on | reason |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The table as ``docs/tolerances.md``."""
    return _HEAD + "".join(
        f"| {row.name} | {row.limit:g} | {row.unit} | {row.spread:g} | {row.measured} | "
        f"{row.reason.replace('  ', ' ')} |\n"
        for row in TABLE
    )
