"""The nodes of a cluster, as Ray tells of them."""

from __future__ import annotations

from typing import Any


def resource(name: str) -> int:
    """How many of a resource all living nodes have together."""
    import ray

    return int(untyped(ray.cluster_resources)().get(name, 0))


def dead() -> dict[str, str]:
    """The nodes that are gone, and what Ray knows of why."""
    import ray

    return {
        id_: f"{node['NodeManagerHostname']} ({id_[:8]}): {node.get('DeathReasonMessage', '')}"
        for node in untyped(ray.nodes)()
        if not node["Alive"] and (id_ := node["NodeID"])
    }


def untyped(function: Any) -> Any:
    """*function* of Ray, whose types are missing or too narrow."""
    return function
