"""Who may import whom: values flow one way, and each backend has one home."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import effd0

PACKAGE = Path(effd0.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

#: Module -> the modules of this package that it may import.
LAYERS: dict[str, set[str]] = {
    "__init__": set(),
    "arrays": set(),
    "categories": set(),
    "errors": set(),
    "measure": set(),
    "progress": set(),
    "files": {"errors"},
    "spec": {"errors"},
    "stages": set(),
    "threads": set(),
    "modelfile": {"errors", "graph.base", "spec"},
    "parity": {
        "arrays", "compare", "precision", "spec", "stages", "suspicions.heads", "tolerances",
    },
    "blame": {"bisect.job", "bisect.search"},
    "known": {
        "categories", "dataset", "embedded", "errors", "files", "stages", "tensorfiles.manifest",
    },
    "preprocess": {"arrays", "errors", "files", "spec"},
    "annotations": {"errors"},
    "dataset": {"annotations", "errors", "preprocess"},
    "anchors": {"arrays", "spec"},
    "embedded": {"arrays", "dataset", "errors", "preprocess", "spec"},
    "checkpoint": {"errors", "files", "spec", "tolerances"},
    "runners.base": {"arrays", "errors", "measure", "postprocess", "preprocess"},
    "runners.acl_codes": set(),
    "runners.acl_api": {"errors", "runners.acl_codes"},
    "runners.acl_session": {"errors", "runners.acl_api", "runners.acl_codes"},
    "runners.acl_model": {"errors", "runners.acl_api", "runners.base"},
    "runners.acl_memory": {"arrays", "runners.acl_api", "runners.acl_model"},
    "runners.acl_stream": {
        "arrays", "runners.acl_api", "runners.acl_memory", "runners.acl_model", "runners.base",
    },
    "runners.acl": {
        "arrays", "errors", "runners.acl_api", "runners.acl_memory", "runners.acl_model",
        "runners.acl_session", "runners.acl_stream", "runners.base",
    },
    "runners.recorded": {
        "arrays", "errors", "runners.base", "spec", "tensorfiles.inputs", "tensorfiles.results",
    },
    "runners.named": {"arrays", "heads", "runners.base", "spec"},
    "runners.ort": {"arrays", "errors", "runners.base"},
    "runners.openvino": {"arrays", "errors", "runners.base"},
    "runners.torch": {"arrays", "checkpoint", "errors", "runners.base", "spec"},
    "runners.torch_detector": {
        "device_steps", "errors", "postprocess", "preprocess", "runners.torch",
        "runners.torch_lanes", "spec",
    },
    "runners.torch_lanes": {"arrays", "errors", "preprocess", "spec"},
    "runners.__init__": {
        "errors", "runners.acl", "runners.base", "runners.openvino", "runners.ort",
        "runners.recorded", "runners.torch", "runners.torch_detector", "spec",
    },
    "heads": {"arrays", "errors", "spec"},
    "boxes": {"arrays"},
    "postprocess": {"anchors", "arrays", "boxes", "heads", "spec"},
    "device_nms": {"errors", "spec"},
    "device_steps": {
        "anchors", "arrays", "device_nms", "errors", "heads", "postprocess", "spec",
    },
    "feed": {"arrays", "errors", "preprocess", "runners.base"},
    "batches": {"arrays", "dataset", "errors", "preprocess"},
    "pipeline": {
        "arrays", "batches", "dataset", "errors", "feed", "heads", "measure", "postprocess",
        "preprocess", "runners.base", "spec",
    },
    "overlaps": {"arrays", "dataset"},
    "hits": {"arrays", "dataset", "overlaps"},
    "curves": {"arrays", "dataset", "hits", "overlaps"},
    "complete": {"dataset", "errors"},
    "evaluate": {
        "arrays", "complete", "curves", "dataset", "errors", "hits", "postprocess", "spec",
    },
    "matches": {
        "arrays", "dataset", "errors", "evaluate", "hits", "overlaps", "postprocess", "spec",
        "twins",
    },
    "tolerances": set(),
    "compare": {"arrays", "errors"},
    "precision": {"arrays", "compare"},
    "suspicions.__init__": set(),
    "suspicions.base": set(),
    "suspicions.head_fault": {"arrays", "spec"},
    "suspicions.head_orders": {"arrays", "categories", "spec", "suspicions.head_fault"},
    "suspicions.head_values": {"arrays", "spec", "suspicions.head_fault"},
    "suspicions.heads": {
        "arrays", "compare", "errors", "spec", "suspicions.base", "suspicions.head_fault",
        "suspicions.head_orders", "suspicions.head_values",
    },
    "suspicions.resample": {"arrays"},
    "suspicions.source": {"arrays", "preprocess", "spec"},
    "suspicions.mistakes": {
        "arrays", "preprocess", "spec", "suspicions.resample", "suspicions.source",
    },
    "suspicions.inputs": {
        "arrays", "dataset", "errors", "preprocess", "spec", "suspicions.base",
        "suspicions.mistakes", "suspicions.source",
    },
    "suspicions.architecture": {"spec"},
    "suspicions.fed": {
        "arrays", "compare", "spec", "suspicions.base", "suspicions.heads", "suspicions.mistakes",
        "suspicions.source",
    },
    "suspicions.folder": {
        "arrays", "dataset", "preprocess", "spec", "suspicions.base", "suspicions.inputs",
        "tensorfiles.inputs", "tensorfiles.manifest", "tolerances",
    },
    "twins": {"dataset", "errors", "postprocess", "preprocess", "remote", "spec"},
    "match": {"arrays", "errors", "postprocess"},
    "results_json": {"arrays", "errors"},
    "suspicions.detection_steps": {
        "anchors", "arrays", "boxes", "heads", "postprocess", "spec",
    },
    "suspicions.detection_rows": {"arrays", "evaluate", "postprocess", "spec"},
    "suspicions.detection_mistake": {
        "arrays", "spec", "suspicions.detection_rows", "suspicions.detection_steps",
    },
    "suspicions.detection_making": {
        "anchors", "arrays", "boxes", "postprocess", "spec", "suspicions.detection_mistake",
        "suspicions.detection_steps",
    },
    "suspicions.detection_writing": {
        "arrays", "categories", "spec", "suspicions.detection_mistake",
        "suspicions.detection_steps",
    },
    "suspicions.detection_search": {
        "spec", "suspicions.detection_making", "suspicions.detection_mistake",
        "suspicions.detection_rows", "suspicions.detection_writing",
    },
    "suspicions.detection_images": {
        "dataset", "results_json", "suspicions.base", "suspicions.detection_rows",
        "tensorfiles.manifest",
    },
    "suspicions.detection_fault": {
        "suspicions.base", "suspicions.detection_mistake", "suspicions.detection_rows",
        "suspicions.detection_search",
    },
    "suspicions.detections": {
        "arrays", "categories", "dataset", "match", "postprocess", "results_json", "spec",
        "suspicions.base", "suspicions.detection_fault", "suspicions.detection_images",
        "suspicions.detection_mistake", "suspicions.detection_rows",
        "suspicions.detection_search", "suspicions.detection_steps", "tensorfiles.manifest",
    },
    "accumulate": {
        "arrays", "complete", "curves", "dataset", "evaluate", "hits", "postprocess", "spec",
    },
    "paired": {"accumulate", "arrays", "dataset", "errors", "postprocess", "spec"},
    "against": {"dataset", "evaluate", "match", "paired", "postprocess", "spec"},
    "reach": {"accumulate", "dataset", "hits"},
    "insight.tide": {"arrays", "curves", "dataset", "hits", "overlaps"},
    "insight.thumbnail": {"errors", "preprocess"},
    "insight.gallery": {
        "arrays", "categories", "dataset", "evaluate", "insight.thumbnail", "insight.tide", "match",
        "overlaps", "postprocess", "spec",
    },
    "insight.__init__": {
        "arrays", "complete", "curves", "dataset", "evaluate", "hits", "insight.gallery",
        "insight.tide", "postprocess", "spec",
    },
    "report": {"against", "evaluate", "files", "measure", "paired", "tolerances"},
    "tensorfiles.__init__": set(),
    "tensorfiles.manifest": {"errors", "files", "spec"},
    "tensorfiles.inputs": {
        "dataset", "errors", "files", "preprocess", "spec", "tensorfiles.manifest",
    },
    "tensorfiles.heads": {"arrays", "errors", "spec"},
    "tensorfiles.names": {"errors", "tensorfiles.manifest"},
    "tensorfiles.origin": {
        "errors", "files", "spec", "tensorfiles.manifest", "tensorfiles.names",
    },
    "tensorfiles.rows": {"spec", "tensorfiles.heads", "tensorfiles.inputs", "tensorfiles.names"},
    "tensorfiles.results": {
        "arrays", "errors", "spec", "tensorfiles.heads", "tensorfiles.inputs",
        "tensorfiles.manifest", "tensorfiles.names", "tensorfiles.origin", "tensorfiles.rows",
    },
    "tensorfiles.writer": {"arrays", "errors", "files", "tensorfiles.manifest"},
    "infer.__init__": set(),
    "infer.throughput": set(),
    "infer.clock": {"arrays", "errors", "infer.throughput", "runners.base"},
    "infer.run": {
        "arrays", "errors", "feed", "infer.clock", "infer.throughput", "runners.base",
        "tensorfiles.inputs", "tensorfiles.writer",
    },
    "infer.job": {
        "choice", "feed", "files", "infer.run", "infer.throughput", "runners.base",
        "tensorfiles.inputs", "tensorfiles.writer", "progress",
    },
    "remote": {"annotations", "dataset", "errors", "files"},
    "scale.__init__": set(),
    "scale.tables": {"errors", "postprocess"},
    "scale.shards": {"errors", "files", "scale.tables"},
    "scale.ledger": set(),
    "scale.pool": {"errors", "runners.__init__"},
    "scale.quiet": set(),
    "scale.unit": set(),
    "scale.units": {"dataset", "remote"},
    "scale.line": {"errors", "scale.unit"},
    "scale.subject": {
        "errors", "feed", "files", "report", "runners.__init__", "runners.base", "scale.ledger",
        "scale.pool", "spec",
    },
    "scale.station": {"errors", "runners.base", "scale.ledger", "scale.subject"},
    "scale.worker": {
        "arrays", "errors", "pipeline", "runners.base", "scale.ledger", "scale.line",
        "scale.station", "scale.unit",
    },
    "scale.detect_work": {
        "dataset", "errors", "identity", "matches", "pipeline", "postprocess", "remote",
        "runners.base", "scale.shards", "scale.tables", "scale.unit", "scale.units", "scale.worker",
        "spec",
    },
    "scale.infer_work": {
        "errors", "infer.run", "infer.throughput", "pipeline", "runners.base", "scale.unit",
        "scale.units", "scale.worker", "tensorfiles.inputs", "tensorfiles.writer",
    },
    "scale.kept": {
        "dataset", "errors", "evaluate", "files", "rundir", "scale.shards", "scale.tables",
        "scale.worker", "spec",
    },
    "scale.ray_process": {
        "errors", "scale.ledger", "scale.pool", "scale.station", "scale.subject", "scale.worker",
    },
    "scale.rounds": {"errors", "scale.ledger", "scale.unit", "scale.worker"},
    "scale.summary": {"scale.ledger", "scale.worker"},
    "scale.stream": {"scale.worker"},
    "scale.nodes": set(),
    "scale.cluster": {
        "errors", "scale.ledger", "scale.line", "scale.pool", "scale.ray_process", "scale.rounds",
        "scale.nodes", "scale.stream", "scale.subject", "scale.unit", "scale.worker",
    },
    "scale.tally": {"arrays", "measure", "scale.summary", "scale.worker"},
    "scale.drive": {
        "errors", "measure", "progress", "scale.cluster", "scale.ledger", "scale.rounds",
        "scale.subject", "scale.summary", "scale.tally", "scale.unit", "scale.worker",
    },
    "scale.ray_start": {"errors", "scale.cluster", "scale.pool", "scale.quiet", "scale.stream"},
    "scale.run": {
        "dataset", "identity", "matches", "measure", "postprocess", "progress", "rundir",
        "scale.cluster", "scale.detect_work", "scale.drive", "scale.kept", "scale.subject",
        "scale.summary", "scale.tables", "scale.units", "scale.worker",
    },
    "scale.start": {"choice", "progress", "scale.cluster", "scale.pool", "scale.ray_start"},
    "scale.evaluation": {
        "against", "choice", "dataset", "evaluate", "identity", "insight.__init__", "job",
        "postprocess", "reference", "remote", "report", "rundir", "scale.cluster", "scale.kept",
        "scale.pool", "scale.quiet", "scale.run", "scale.start", "score",
    },
    "scale.inference": {
        "errors", "files", "infer.job", "infer.run", "infer.throughput", "progress", "runners.base",
        "scale.drive", "scale.infer_work", "scale.ledger", "scale.pool", "scale.quiet",
        "scale.start", "scale.subject", "scale.summary", "scale.worker", "tensorfiles.inputs",
        "tensorfiles.writer",
    },
    "score": {
        "against", "complete", "dataset", "errors", "evaluate", "files", "hits", "matches",
        "measure", "postprocess", "reach", "report", "spec", "twins",
    },
    "reference": {
        "against", "choice", "dataset", "errors", "evaluate", "feed", "files", "pipeline",
        "postprocess", "runners.__init__", "progress",
    },
    "resultjob": {
        "dataset", "embedded", "errors", "evaluate", "files", "heads", "insight.__init__",
        "measure", "postprocess", "preprocess", "progress", "report", "score", "spec",
        "tensorfiles.manifest", "tensorfiles.origin", "tensorfiles.results",
    },
    "draw": {"categories", "errors", "files", "postprocess", "preprocess"},
    "fetch": {"errors", "files", "spec"},
    "doctor": {"atc.__init__", "atc.npusmi", "embedded", "errors", "report"},
    "graph.base": {"errors"},
    "graph.pads": {"errors", "graph.base"},
    "graph.fusion": {"errors", "graph.base"},
    "graph.reduce": {"errors", "graph.base"},
    "graph.blocked": {"errors", "graph.base"},
    "graph.precision": {"errors", "graph.base"},
    "graph.support": {"errors", "graph.base"},
    "graph.__init__": {
        "errors", "graph.base", "graph.blocked", "graph.fusion", "graph.pads", "graph.precision",
        "graph.reduce", "graph.support",
    },
    "atc.npusmi": {"errors"},
    "atc.aipp": {"spec"},
    "atc.log": set(),
    "atc.options": {"errors"},
    "atc.__init__": {
        "atc.aipp", "atc.log", "atc.npusmi", "atc.options", "errors", "files", "graph.__init__",
        "spec",
    },
    "export": {"checkpoint", "errors", "files", "graph.__init__", "spec"},
    # The build line runs what it made before it names it, so it stands above the runners.
    "build": {
        "arrays", "compare", "embedded", "errors", "export", "files", "graph.__init__",
        "runners.__init__", "runners.base", "spec", "tolerances",
    },
    "bisect.__init__": set(),
    "bisect.network": {"errors", "graph.base", "runners.base"},
    "bisect.tensors": {"bisect.network", "errors", "graph.base"},
    "bisect.pairs": {"bisect.network", "bisect.tensors"},
    "bisect.pairing": {"bisect.network", "bisect.pairs", "bisect.tensors"},
    "bisect.differences": {"bisect.network", "bisect.pairs"},
    "bisect.search": {"bisect.differences", "bisect.network", "bisect.pairs", "tolerances"},
    "bisect.job": {
        "arrays", "bisect.network", "bisect.pairing", "bisect.pairs", "bisect.search",
        "bisect.tensors", "build", "embedded", "graph.base", "preprocess", "spec",
    },
    "pytest_options": {
        "errors", "rundir", "runfile.suite", "runners.__init__", "runners.ort", "scale.pool",
        "spec", "tensorfiles.origin", "tolerances",
    },
    "runfile.schema": {"errors"},
    "runfile.file": {"errors", "files", "runfile.schema"},
    "runfile.merge": {"errors", "runfile.schema", "runfile.verdict"},
    "runfile.speed": {"bench.ratio", "runfile.schema"},
    "runfile.pairs": {"runfile.schema", "runfile.speed"},
    "runfile.compare": {
        "bench.baseline", "errors", "evaluate", "runfile.pairs", "runfile.schema", "runfile.speed",
        "tolerances",
    },
    "runfile.__init__": {
        "runfile.compare", "runfile.file", "runfile.merge", "runfile.schema",
    },
    "runfile.checks": {"bench.baseline", "errors", "stages"},
    "runfile.verdict": {"report", "runfile.schema", "stages"},
    "runfile.parts": {
        "bench.accuracy", "bench.job", "bench.rows", "evaluate", "files", "fingerprint", "measure",
        "report", "runfile.checks", "runfile.schema", "runfile.verdict", "stages",
    },
    "runfile.commands": {
        "bench.accuracy", "bench.job", "bench.rows", "choice", "embedded", "job", "report",
        "resultjob", "runfile.parts", "runfile.schema", "runfile.verdict", "stages",
    },
    "runfile.suite": {
        "bench.accuracy", "bench.rows", "dataset", "embedded", "files", "report", "runfile.parts",
        "runfile.schema", "stages",
    },
    "fingerprint": {"atc.npusmi", "errors", "report", "runners.__init__"},
    "bench.__init__": set(),
    "bench.ratio": {"errors"},
    "bench.targets": {"bench.ratio"},
    "bench.rows": {"bench.ratio", "bench.targets", "errors", "fingerprint", "measure"},
    "bench.gpu": {"bench.rows"},
    "bench.timing": {"measure", "runners.base"},
    "bench.published": {"bench.rows"},
    "bench.accuracy": {"errors"},
    "bench.session": {"bench.rows"},
    "page.text": set(),
    "page.verdict": {"page.text", "runfile.__init__", "runfile.verdict", "stages"},
    "page.accuracy": {"runfile.__init__", "runfile.pairs"},
    "page.parity": {"page.text", "runfile.__init__"},
    "page.speed": {"bench.published", "bench.rows", "runfile.__init__"},
    "page.beside": {"errors", "runfile.__init__"},
    "page.plots": {"errors", "page.speed"},
    "page.legend": {"page.plots", "page.speed"},
    "page.render": {
        "bench.published", "errors", "evaluate", "files", "page.accuracy", "page.beside",
        "page.legend", "page.parity", "page.plots", "page.speed", "page.text", "page.verdict",
        "runfile.__init__", "stages",
    },
    "page.__init__": {"page.render"},
    "bench.baseline": {"bench.ratio", "bench.rows", "errors"},
    "bench.tables": {"bench.accuracy", "bench.baseline", "bench.published", "bench.rows"},
    "bench.page": {
        "bench.baseline", "bench.gpu", "bench.rows", "bench.tables", "errors", "files",
    },
    "bench.precision": {"graph.__init__", "runners.__init__"},
    "bench.subject": {"bench.precision", "choice", "files", "fingerprint", "runners.base"},
    "bench.scenarios": {
        "arrays", "bench.timing", "dataset", "feed", "heads", "postprocess", "preprocess",
        "runners.base", "spec",
    },
    "bench.job": {
        "arrays", "bench.accuracy", "bench.rows", "bench.scenarios", "bench.subject",
        "bench.timing", "choice", "compare", "dataset", "embedded", "errors", "feed", "heads",
        "measure", "progress", "runners.base",
    },
    "choice": {
        "build", "embedded", "errors", "graph.__init__", "runners.__init__", "runners.base", "spec",
    },
    "records": {"postprocess"},
    "identity": {
        "choice", "dataset", "embedded", "files", "report", "runners.__init__", "runners.base",
        "spec",
    },
    "rundir": {
        "errors", "files", "identity", "postprocess", "records", "tensorfiles.manifest",
    },
    "detecting": {
        "dataset", "identity", "measure", "pipeline", "postprocess", "progress", "rundir",
        "runners.base",
    },
    "job": {
        "choice", "dataset", "detecting", "embedded", "errors", "evaluate", "feed", "identity",
        "insight.__init__", "progress", "reference", "remote", "report", "rundir", "score",
        "tolerances",
    },
}  # fmt: skip
#: The command line and its parts stand above everything.
CONTROL_PANELS = {name for name in MODULES if name.startswith("cli.") or name == "__main__"}

#: Third-party package -> the modules that may name it.
HOMES: dict[str, set[str]] = {
    "PIL": {
        "draw", "insight.thumbnail", "preprocess", "suspicions.mistakes", "suspicions.resample",
        "suspicions.source",
    },
    "effdet": {"checkpoint"},
    "fsspec": {"remote"},
    "jinja2": {"page.render"},
    "jsonschema": {"runfile.schema"},
    "markupsafe": {"page.render"},
    "matplotlib": {"page.plots"},
    "faster_coco_eval": {"evaluate"},
    "acl": {"runners.acl_api"},
    "onnx": {
        "bisect.network", "bisect.tensors", "graph.base", "graph.blocked", "graph.fusion",
        "graph.pads", "graph.precision", "graph.reduce", "modelfile",
    },
    "onnxruntime": {"bisect.tensors", "runners.ort"},
    "onnxscript": {"export"},
    "onnxsim": {"export"},
    "openvino": {"runners.openvino"},
    "packaging": {"doctor"},
    "pyarrow": {"scale.shards", "scale.tables"},
    "pycocotools": {"evaluate"},
    "pytest": {"pytest_options"},
    "ray": {
        "scale.cluster", "scale.nodes", "scale.ray_process", "scale.ray_start", "scale.stream",
    },
    "requests": {"fetch"},
    "rich": {
        "bench.page", "bench.tables", "cli.__init__", "cli.bisect", "cli.build", "cli.atc",
        "cli.files", "cli.page", "cli.run", "cli.runs", "cli.setup", "cli.show", "cli.show_pool",
        "cli.show_runs", "progress",
    },
    "safetensors": {"checkpoint"},
    "torch": {
        "checkpoint", "device_nms", "device_steps", "export", "runners.torch",
        "runners.torch_detector",
    },
    "torch_npu": {"runners.torch"},
    "typer": {
        "cli.__init__", "cli.benchmark", "cli.bisect", "cli.build", "cli.atc", "cli.files",
        "cli.options", "cli.page", "cli.run", "cli.runs", "cli.setup",
    },
}  # fmt: skip
HEAVY = {
    "acl", "effdet", "fsspec", "jinja2", "jsonschema", "markupsafe", "matplotlib", "onnx",
    "onnxruntime", "onnxscript", "onnxsim", "openvino", "pyarrow", "ray", "safetensors", "torch",
}  # fmt: skip


def _internal(name: str) -> set[str]:
    """The modules of this package that module *name* imports."""
    package = name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                found.add(_resolve([*base, alias.name]) or _resolve(base))
    return {module for module in found if module is not None}


def _resolve(parts: list[str]) -> str | None:
    for candidate in (".".join(parts), ".".join([*parts, "__init__"])):
        if candidate in MODULES:
            return candidate
    return None


def _third_party(name: str) -> dict[str, bool]:
    """Third-party packages that module *name* imports, and whether at its top level."""
    tree = ast.parse(MODULES[name].read_text())
    found: dict[str, bool] = {}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        elif _is_late_import(node):
            assert isinstance(node, ast.Call)
            assert isinstance(node.args[0], ast.Constant)
            names = [str(node.args[0].value)]
        for imported in names:
            package = imported.partition(".")[0]
            if package in HOMES:
                found[package] = found.get(package, False) or node in tree.body
    return found


def _is_late_import(node: ast.AST) -> bool:
    """Whether *node* is ``require("package", ...)`` or ``import_module("package")``."""
    if not isinstance(node, ast.Call) or not node.args:
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("require", "import_module") and isinstance(node.args[0], ast.Constant)


def test_every_module_has_a_layer() -> None:
    """A new module is placed in the table before it is used, and no place is left empty."""
    assert set(MODULES) - CONTROL_PANELS == set(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_imports_point_upstream_only(name: str) -> None:
    """A module imports only what its layer allows."""
    forbidden = _internal(name) - LAYERS[name] - {"__init__"}
    assert not forbidden, f"{name} imports {sorted(forbidden)}, but may not"


@pytest.mark.parametrize("name", MODULES)
def test_third_party_packages_stay_at_home(name: str) -> None:
    """A third-party package is named only in the modules that own it, and a heavy one late."""
    for package, at_top in _third_party(name).items():
        assert name in HOMES[package], f"{name} imports {package}, the affair of {HOMES[package]}"
        assert not (at_top and package in HEAVY), f"{name} imports {package} at its top level"


def test_layers_have_no_cycle() -> None:
    """The table itself can be put in an order in which everything points back."""
    placed: set[str] = set()
    while len(placed) < len(LAYERS):
        ready = {name for name in LAYERS if name not in placed and LAYERS[name] <= placed}
        assert ready, f"a cycle among {sorted(set(LAYERS) - placed)}"
        placed |= ready
