"""Makes effd0/architectures.json of effdet: ``python -m tests.meta.architectures``."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

with warnings.catch_warnings():  # effdet still calls torch.jit.script
    warnings.simplefilter("ignore")
    from effdet.config import get_efficientdet_config
    from effdet.config.model_config import efficientdet_model_param_dict
    from effdet.data import resolve_input_config
    from effdet.data.transforms import resolve_fill_color

import effd0
from effd0.spec import ModelSpec

FILE = Path(effd0.__file__).with_name("architectures.json")
#: What effd0 computes with in one way, and so must be alike in all.
ALIKE = {
    "num_classes": 90,
    "num_scales": 3,
    "max_detection_points": 5000,
    "max_det_per_image": 100,
    "soft_nms": False,
}


def facts_of(arch: str) -> dict[str, Any]:
    """What effdet's configuration of *arch* says beside D0's."""
    config = get_efficientdet_config(arch)
    odd = {key: config[key] for key, value in ALIKE.items() if config[key] != value}
    assert not odd, f"{arch} differs in {odd}, which effd0 does not follow"
    fed = resolve_input_config({}, config)
    ratios = [
        [math.sqrt(one), 1 / math.sqrt(one)] if isinstance(one, float) else list(one)
        for one in config.aspect_ratios
    ]
    facts = {
        "mean": list(fed["mean"]),
        "std": list(fed["std"]),
        "fill": list(resolve_fill_color(fed["fill_color"], fed["mean"])),
        "image_size": list(config.image_size),
        "levels": list(range(config.min_level, config.max_level + 1)),
        "anchor_scale": config.anchor_scale,
        "aspect_ratios": ratios,
    }
    plain = vars(ModelSpec(arch))
    listed = {key: json.loads(json.dumps(plain[key])) for key in facts}
    facts = {key: value for key, value in facts.items() if value != listed[key]}
    url = config.get("url") or ""
    return facts | ({"checkpoint": url.rpartition("/")[2].removesuffix(".pth")} if url else {})


def table() -> str:
    """The file's text."""
    rows = (
        f"{json.dumps(arch)}: {json.dumps(facts_of(arch))}"
        for arch in sorted(efficientdet_model_param_dict)
    )
    return "{\n" + ",\n".join(rows) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(table())
