"""What decides an answer: the teacher, the pictures, the views and how answers are written. All of it is in the key.

A changed anything is another key, so another cache; nothing has to be thrown away by hand to be right.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from limbeck.core.protocols import Task
from limbeck.teachers.cache.cache_config import Format

__all__ = ["VERSION", "key"]

VERSION: Final = 1


def key(teacher: str, pictures: str, *, views: int, task: Task, format: Format) -> str:
    """The name of the cache for this teacher's answers, 32 hex digits.

    Arguments:
        teacher: its identity, such as that of :func:`~limbeck.teachers.model_fingerprint.of_network`.
        pictures: the identity of what is shown: data, views, seed, normalisation.
        views: how many views of each sample there are.
        task: how a network is asked.
        format: how answers are written.
    """
    parts = {
        "version": VERSION, "teacher": teacher, "pictures": pictures, "views": views, "task": repr(task),
        "format": format.plain(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
