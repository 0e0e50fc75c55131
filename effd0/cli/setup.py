"""Commands that prepare a machine or a folder: doctor, fetch, init."""

import importlib.util
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Set
from importlib.metadata import requires
from pathlib import Path
from typing import TypeAlias

from rich.text import Text

from ..ascend import npu_smi
from ..data import fixture
from ..data.preprocess import resizes_as_pillow
from ..errors import AtcError, DatasetError, OutputError, pip_install
from ..evaluation.model import ArchOptions
from ..export import cache
from ..io import write_text
from ..progress import download_progress
from ..results.environment import installed_version
from ..types import option
from . import settings
from .command import ARGUMENT, command
from .show import show_lines, show_table

#: One line of the doctor's table: the part, what was found, whether that is well, what to do.
Finding: TypeAlias = tuple[str, str, bool, str]


#: What can be done -> what it needs beside the base: extras, CANN's compiler, CANN's pyACL.
TASKS = {
    "score what any tool found: score, postprocess, merge, compare": (),
    "run .onnx: --model FILE.onnx; simplify, modify": ("onnx",),
    "run weights in PyTorch: detect, --runner torch": ("torch",),
    "export weights, run them in ONNX Runtime; bisect": ("torch", "onnx"),
    "run in OpenVINO: --runner openvino": ("openvino",),
    "share a run among processes and hosts: --workers": ("ray",),
    "write the page of a run: report": ("report",),
    "check an artefact stage by stage: check, pytest": ("torch", "onnx"),
    "compile an .om: compile": ("onnx", "atc"),
    "run an .om on an Ascend NPU: --model FILE.om": ("acl",),
}


@command()
def doctor() -> None:
    """Show versions, devices, and what can and cannot be done, with the command that adds it."""
    ok, lacking = Text("ok", "green"), Text("--", "yellow")
    findings = [*packages(), *devices()]
    rows = [
        (ok if well else lacking, part, found, remedy) for part, found, well, remedy in findings
    ]
    show_table("", ("", "part", "found", "to do"), rows)
    absent = {part.partition(":")[0] for part, _, well, _ in findings if not well}
    done = [(lacking if remedy else ok, task, remedy) for task, remedy in tasks(absent)]
    show_table("what can be done here", ("", "task", "the command that adds it"), done)


def tasks(absent: Set[str]) -> Iterator[tuple[str, str]]:
    """Yield each task with the command that makes it possible, empty if it is, without *absent*."""
    cann = {"atc": shutil.which("atc"), "acl": importlib.util.find_spec("acl")}
    for task, needs in TASKS.items():
        extras = [extra for extra in needs if extra in absent]
        remedies = [pip_install(extras)] if extras else []
        if any(name in needs and found is None for name, found in cann.items()):
            remedies.append("source CANN's set_env.sh")
        yield task, " && ".join(remedies)


def packages() -> Iterator[Finding]:
    """Yield a finding for every declared dependency, by the extra that brings it."""
    from packaging.requirements import Requirement  # which no other command needs

    for wanted in map(Requirement, requires("effd0") or []):
        marked = re.search(r"extra == ['\"]([\w-]+)", str(wanted.marker))
        extra = marked[1] if marked else ""
        if wanted.name == "effd0" or extra == "all":
            continue
        part, found = f"{extra or 'base'}: {wanted.name}", installed_version(wanted.name)
        if found is not None and wanted.specifier.contains(found, prereleases=True):
            yield part, found, True, ""
            continue
        found = "not installed" if found is None else f"{found}, but {wanted.specifier} is needed"
        yield part, found, False, pip_install([extra]) if extra else "pip install effd0"


def devices() -> Iterator[Finding]:
    """Yield a finding for each kind of device, kernels, the cache and the embedded default."""
    parts = {"onnxruntime": "ONNX Runtime providers", "torch": "CUDA (torch)"}
    for name, part in parts.items():
        names = [f"unknown: {name} is not installed"]
        if importlib.util.find_spec(name) is not None:
            module = importlib.import_module(name)
            if name == "torch":
                names = [*map(module.cuda.get_device_name, range(module.cuda.device_count()))]
            else:
                names = module.get_available_providers()
        yield f"device: {part}", ", ".join(names) or "none", True, ""
    yield from _kernels()
    yield "device: Ascend NPU", *_ascend(), ""
    kept = cache.entries()
    found = f"{cache.folder()}: {len(kept)} files, {sum(size for _, size, _ in kept) / 1e6:.0f} MB"
    yield "cache: converted checkpoints", found, True, ""
    try:
        yield "data: embedded default", str(fixture.folder()), True, ""
    except DatasetError as error:
        yield "data: embedded default", str(error), False, "pip install effd0"


def _kernels() -> Iterator[Finding]:
    """Yield whether compiled kernels are kept for the next process, and whose resizing is used."""
    from .. import kernels

    stats = [kernel.stats for kernel in vars(kernels).values() if hasattr(kernel, "stats")]
    new, folder = sum(not one.cache_hits for one in stats), stats[0].cache_path
    found = f"{len(stats)}, {new} of them compiled now, ready in {kernels.READY_S:.2f} s"
    if folder is None:
        yield "kernels: compiled", f"{found}; not kept", False, "export NUMBA_CACHE_DIR=FOLDER"
    else:
        yield "kernels: compiled", f"{found}; kept in {folder}", True, ""
    pillow = f"Pillow {installed_version('pillow')}"
    same, other = f"compiled, to the bit as {pillow}", f"{pillow}, which rounds otherwise than ours"
    yield "kernels: resizing", same if resizes_as_pillow() else other, True, ""


def _ascend() -> tuple[str, bool]:
    """The chips that npu-smi lists, whether they are well, and whether pyACL can be found."""
    if shutil.which("npu-smi") is None:
        return "none (no npu-smi on the PATH)", True
    try:
        chips = npu_smi.installed()
    except AtcError as error:
        return str(error), False
    counts = Counter(chip.short_name for chip in chips)
    found = ", ".join(f"{count} x {name}" for name, count in counts.items()) or "no chip"
    ill = [f"NPU {c.npu} chip {c.chip}: {c.health}" for c in chips if c.health != "OK"]
    acl = "pyACL found" if importlib.util.find_spec("acl") else "no pyACL: source set_env.sh"
    return "; ".join([found, *ill, acl]), bool(chips) and not ill


@command("num_classes", "image_size")
def fetch(
    *,
    what: str = option(
        "COCO val2017, or the published weights.", choices=("coco", "checkpoint"), **ARGUMENT
    ),
    root: Path = option("Folder for COCO.", "DIR", Path("coco_data")),
    out: Path | None = option("File for the weights.", shown="d0.pth, or as --arch is called"),
    arch: ArchOptions,
    mirror: str | None = option("URL in place of the official host.", "URL"),
) -> None:
    """Download from the official sources: resumed if interrupted, verified by checksum."""
    from ..data import download  # which imports requests

    spec = arch.spec()
    with download_progress(what) as on_bytes:
        if what == "coco":
            path = download.fetch_coco(root, on_bytes, mirror)
        else:
            named = Path(f"{spec.arch.removeprefix('tf_efficientdet_')}.pth")
            path = download.fetch_checkpoint(spec, out or named, on_bytes, mirror)
    show_lines(f"{what} is in {path}")


@command()
def init() -> None:
    """Write effd0.toml with every option of a check, and fill in what the working directory has."""
    path = Path(settings.NAME)
    if path.exists():
        raise OutputError(f"{path} is there; edit it, or remove it for a new one")
    text = settings.template(settings.OPTION_GROUPS, Path())
    write_text(text, path)
    filled = [line for line in text.splitlines() if line and not line.startswith("#")]
    show_lines(f"wrote {path}", *(filled or ["no model, weights or data set found; name yours"]))
