"""Classes of one's own, without training: some of the embedded weights' classes, cut out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effd0.data import fixture
from effd0.spec import D0
from effd0.types import Floats, Tensors

#: COCO's category of a class that is cut out -> its own id and name; labels follow rising ids.
#: Each has 19 to 32 objects in the embedded scenes, and person the one crowd of the first twelve.
FIVE: Mapping[int, tuple[int, str]] = {
    1: (7, "человек"),
    6: (12, "バス"),
    13: (300, "σήμα στοπ"),
    44: (301, "زجاجة"),
    72: (4096, "टीवी"),
}
SPEC = replace(D0, num_classes=len(FIVE), category_ids=tuple(own for own, _ in FIVE.values()))
#: A logit at which a class is never found.
NEVER = -30.0


def cut_checkpoint(categories: Sequence[int | None], out: Path) -> Path:
    """
    Write the embedded checkpoint with the class of each of *categories*, COCO's ids, to *out*.

    None is a class that is never found.
    """
    state: dict[str, Any] = torch.load(fixture.checkpoint(), weights_only=True)
    for end, never in (("weight", 0.0), ("bias", NEVER)):
        name = f"class_net.predict.conv_pw.{end}"
        rows = state[name].reshape(D0.anchors_per_cell, D0.num_classes, *state[name].shape[1:])
        none = torch.full_like(rows[:, 0], never)
        cut = [none if id_ is None else rows[:, id_ - 1] for id_ in categories]
        state[name] = torch.stack(cut, 1).flatten(0, 1).contiguous()
    torch.save(state, out)
    return out


def cut_heads(heads: Tensors, categories: Sequence[int | None]) -> dict[str, Floats]:
    """The D0's *heads*, (N, C, H, W), as the network of `cut_checkpoint` gives them."""
    cut = dict(heads)
    for name in D0.class_names:
        rows = heads[name].reshape(len(heads[name]), -1, D0.num_classes, *heads[name].shape[2:])
        never = np.full_like(rows[:, :, 0], NEVER)
        parts = [never if id_ is None else rows[:, :, id_ - 1] for id_ in categories]
        cut[name] = np.stack(parts, 2).reshape(len(rows), -1, *heads[name].shape[2:])
    return cut


def cut_scenes(names: Mapping[int, tuple[int, str]], root: Path) -> Path:
    """
    Copy the embedded scenes with objects of *names* alone to *root*; return it.

    *names* has COCO's category -> the id and name that are written.  Images without one stay.
    """
    shutil.copytree(fixture.coco_root(), root)
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": own, "name": name} for own, name in names.values()]
    content["annotations"] = [
        a | {"category_id": names[a["category_id"]][0]}
        for a in content["annotations"]
        if a["category_id"] in names
    ]
    path.write_text(json.dumps(content))
    return root
