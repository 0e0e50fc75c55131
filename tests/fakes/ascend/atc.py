"""
The emulated ``atc``: an ONNX file and options in, an emulated .om out, or a coded refusal.

It is written from ATC's manual (options, values, error codes), not from `effd0.ascend.atc`, and
takes less than the real one: an option that no manual knows and an option that is not emulated are
both refused.  It litters its working directory as ATC does.

Known differences from the real one:

- float16 modes round every weight; the real mixed modes choose operator by operator, so that
  the list of ``--modify_mixlist`` is checked and recorded, but changes nothing here.
- ``force_fp32`` computes in float32; the real one feeds matrix units float16 where it can.
- An unmodified float32 convolution is taken for every chip; 310-class chips have none.
- A refusal that the manual gives no code for comes as E19999.

``EFFD0_FAKE_ATC`` holds misbehaviours, separated by commas: see `MISBEHAVIOURS`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .aippfile import InvalidAipp, read_aipp
from .atcmodel import (
    Refused,
    check_nodes,
    given,
    load,
    read_gears,
    read_input,
    read_outputs,
    round_weights,
)
from .om import OmModel, write_om

START = "ATC start working now, please wait for a moment."
SUCCESS = "ATC run success, welcome to the next use."
FAILURE = "ATC run failed, Please check the detail log, Try 'atc --help' for more information"
FAILED = 255  # -1, as a shell sees it

MISBEHAVIOURS = {
    "no-success-line": "the model is written and the exit code 0, but success is not said",
    "no-file": "success is said, but nothing is written",
    "empty-file": "success is said, but the file is empty",
    "exit-code": "success is said and the model written, but the exit code is 1",
    "suffix-linux": "the host's system and processor are added to the name",
    "kernel-missing": "the operator package of the chip is not installed",
    "killed": "the kernel kills it for memory after half of the model is written",
    "hang": "half of the model is written, then nothing happens any more",
    "noisy": "twenty thousand lines of debug log come first",
}
OPTIONS = frozenset(
    """
    framework model output input_format input_shape dynamic_batch_size log soc_version
    precision_mode precision_mode_v2 modify_mixlist insert_op_conf output_type input_fp16_nodes
    """.split()  # noqa: SIM905  # a list of names
)
NOT_EMULATED = frozenset(
    """
    mode weight out_nodes dynamic_image_size dynamic_dims input_shape_range keep_dtype
    customize_dtypes op_precision_mode op_select_implmode optypelist_for_implmode op_debug_level
    op_compiler_cache_mode op_compiler_cache_dir fusion_switch_file singleop json om check_report
    core_type aicore_num buffer_optimize enable_small_channel debug_dir virtual_type host_env_os
    host_env_cpu op_name_map compression_optimize_conf status_check deterministic
    """.split()  # noqa: SIM905  # a list of names
)
MODES = {
    **dict.fromkeys(
        ("force_fp16", "allow_mix_precision", "allow_mix_precision_fp16", "allow_fp32_to_fp16"),
        "fp16",
    ),
    **dict.fromkeys(("force_fp32", "cube_fp16in_fp32out", "must_keep_origin_dtype"), "fp32"),
}
MODES_V2 = {
    "fp16": "fp16",
    "mixed_float16": "fp16",
    "origin": "fp32",
    "cube_fp16in_fp32out": "fp32",
}
#: bfloat16 and hifloat8 exist, but are emulated on no chip.
MODES_ELSEWHERE = frozenset(
    {"allow_mix_precision_bf16", "allow_fp32_to_bf16", "mixed_bfloat16", "mixed_hif8", "cube_hif8"}
)
MIXED = frozenset({"allow_mix_precision", "allow_mix_precision_fp16", "mixed_float16"})
SOC = r"Ascend(310(B[1-4]|P[1-7])?|910(A|B|Pro[AB]|B[1-4](-1)?|B2C)?|910_93\d\d|950(PR|DT)_\d+)"
LOGS = ("debug", "info", "warning", "error", "null")


def main(arguments: Sequence[str]) -> int:
    """Run the emulated ``atc`` with *arguments*; print what ATC prints, return its exit code."""
    odd = set(filter(None, os.environ.get("EFFD0_FAKE_ATC", "").split(",")))
    if unknown := odd - MISBEHAVIOURS.keys():
        raise ValueError(f"EFFD0_FAKE_ATC holds {unknown}, but knows {list(MISBEHAVIOURS)}")
    options = _parse(arguments)
    _say(START)
    if "noisy" in odd:
        for number in range(20_000):
            _say(f"[DEBUG] GE(1,atc):2026-11-23 ... [op.cc:{number}] value E10001 is no error here")
    try:
        om = _compile(options, tuple(arguments), odd)
    except Refused as refusal:
        _say(FAILURE)
        _say(f"{refusal.code}: {refusal}")
        return FAILED
    output = Path(given(options, "output"))
    suffix = "_linux_aarch64.om" if "suffix-linux" in odd else ".om"
    path = output.with_name(output.name + suffix)
    if "killed" in odd or "hang" in odd:
        path.write_bytes(b"IMOD half")
        _stop(odd)
    if "empty-file" in odd:
        path.touch()
    elif "no-file" not in odd:
        write_om(om, path)
    if "no-success-line" not in odd:
        _say(SUCCESS)
    return 1 if "exit-code" in odd else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _stop(odd: set[str]) -> NoReturn:
    sys.stdout.flush()
    if "killed" in odd:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(1)


def _parse(arguments: Sequence[str]) -> dict[str, str]:
    """Options as ATC's flag parser takes them: ``--key=value`` or ``--key value``."""
    options: dict[str, str] = {}
    words = list(arguments)
    while words:
        match = re.fullmatch(r"--?(\w+)(?:=(.*))?", words.pop(0), re.DOTALL)
        if match is None or match[1] not in OPTIONS | NOT_EMULATED:
            name = match[1] if match else "?"
            _say(f"ERROR: unknown command line flag '{name}'")
            sys.exit(1)
        value = match[2] if match[2] is not None else (words.pop(0) if words else "")
        options[match[1]] = value
    return options


def _compile(options: dict[str, str], arguments: tuple[str, ...], odd: set[str]) -> OmModel:
    if away := sorted(options.keys() & NOT_EMULATED):
        raise Refused("E10055", f"The operation is not supported. Reason: --{away[0]}, emulated")
    precision = _check_options(options)
    model = load(options)
    Path("kernel_meta").mkdir(exist_ok=True)
    Path("fusion_result.json").write_text("[]\n")
    if "kernel-missing" in odd:
        _say("[ERROR] GE(1,atc): No supported Ops kernel and engine are found for Conv_0, "
             "optype [Conv2D]")  # fmt: skip
        raise Refused("EZ9999", "Inner Error!")
    check_nodes(model)
    gears = read_gears(options)
    source, shape = read_input(model, options, gears)
    batch = gears[-1] if gears else shape[0]
    outputs = read_outputs(model, batch, options, free=bool(gears))
    if precision == "fp16":
        round_weights(model)
    return OmModel(
        onnx=model.SerializeToString(),
        inputs=(source,),
        outputs=outputs,
        soc_version=options["soc_version"],
        precision=precision,
        gears=gears,
        aipp=_aipp(options, shape),
        command=("atc", *arguments),
    )


def _choice(options: dict[str, str], key: str, known: Sequence[str]) -> None:
    value = options.get(key)
    if value is not None and value not in known:
        raise Refused(
            "E10001",
            f"Value {value} for parameter --{key} is invalid. "
            "Reason: The current value is not within the valid range.",
        )


def _check_options(options: dict[str, str]) -> str:
    """Check what can be checked without the model; return how the network computes."""
    if options.get("framework") != "5":
        raise Refused("E10007", "--framework is required. The value must be 5(Onnx).")
    _choice(options, "input_format", ("NCHW", "ND"))
    _choice(options, "log", LOGS)
    _choice(options, "output_type", ("FP32", "FP16"))
    if not re.fullmatch(SOC, given(options, "soc_version")):
        _choice(options, "soc_version", ())
    if not Path(given(options, "output")).parent.is_dir():
        raise Refused("E13000", f"Path {options['output']} is invalid. Reason: no such directory.")
    if {"precision_mode", "precision_mode_v2"} <= options.keys():
        raise Refused("E10047", "--precision_mode and --precision_mode_v2 are mutually exclusive.")
    _choice(options, "precision_mode", [*MODES, *MODES_ELSEWHERE])
    _choice(options, "precision_mode_v2", [*MODES_V2, *MODES_ELSEWHERE])
    mode = options.get("precision_mode", options.get("precision_mode_v2", "force_fp16"))
    if mode in MODES_ELSEWHERE:
        raise Refused("E10055", f"The operation is not supported. Reason: {mode} on this chip")
    if "modify_mixlist" in options:
        _check_mixlist(Path(options["modify_mixlist"]), mode)
    return {**MODES, **MODES_V2}[mode]


def _check_mixlist(path: Path, mode: str) -> None:
    if mode not in MIXED:
        raise Refused(
            "E10001",
            f"Value {path} for parameter --modify_mixlist is invalid. "
            "Reason: It is read in mixed precision modes only.",
        )
    if not path.is_file():
        raise Refused("E10410", f"File {path} does not exist.")
    try:
        lists = json.loads(path.read_text())
        for name, changes in lists.items():
            types = [kind for kinds in changes.values() for kind in kinds]
            if (
                name not in ("black-list", "white-list", "gray-list")
                or not changes.keys() <= {"to-add", "to-remove"}
                or not all(re.fullmatch(r"[A-Z]\w*", kind) for kind in types)
            ):
                raise TypeError(f"unknown key or operator type below {name}")
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused("E10032", f"Failed to parse JSON file {path}. Reason: {error}.") from error


def _aipp(options: dict[str, str], shape: tuple[int, ...]) -> dict[str, Any] | None:
    name = options.get("insert_op_conf")
    if name is None:
        return None
    if not Path(name).is_file():
        raise Refused("E10410", f"File {name} does not exist.")
    try:
        aipp = read_aipp(Path(name).read_text())
    except InvalidAipp as error:
        raise Refused("E10052", f"AIPP configuration is invalid. Reason: {error}.") from error
    size = (aipp["src_image_size_h"], aipp["src_image_size_w"])
    if shape[1] != 3 or size not in ((0, 0), shape[2:]):
        raise Refused(
            "E10052",
            f"AIPP configuration is invalid. Reason: {size} pixels do not become {shape}.",
        )
    return aipp
