"""What the data of a job declares to tasks, networks and losses."""

from __future__ import annotations

from typing import Any

from limbeck.data import DataModule


def data_facts(data: DataModule) -> dict[str, Any]:
    """What the data declares to tasks and models, as plain data: the classes, and further facts of its source."""
    facts = {"classes": len(data.class_names), "channels": data.input_shape[0], "class_names": list(data.class_names)}
    return {**facts, **getattr(data, "facts", {})}
