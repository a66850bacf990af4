"""What the data of a job declares to tasks, networks and losses."""

from __future__ import annotations

from typing import Any

from limbeck.data import DataModule


def data_facts(data: DataModule) -> dict[str, Any]:
    """What the data declares to tasks and models, as plain data: the classes, and further facts of its source."""
    facts: dict[str, Any] = {}
    if data.class_names:
        facts |= {"classes": len(data.class_names), "class_names": list(data.class_names)}
    if data.train.sequences is None:
        facts["channels"] = data.input_shape[0]
    return {**facts, **data.facts}
