"""What decides an answer: the teacher, the pictures, the views and how answers are written. All of it is in the key.

A changed anything is another key, so another cache; nothing has to be thrown away by hand to be right.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final

from limbeck.core.protocols import Task
from limbeck.teachers.cache.cache_config import CacheConfig

__all__ = ["CACHE_VERSION", "cache_key"]

CACHE_VERSION: Final = 2


def cache_key(teacher: str, data: str, *, num_views: int, task: Task, config: CacheConfig) -> str:
    """The name of the cache for this teacher's answers, 32 hex digits.

    Arguments:
        teacher: its fingerprint, such as that of :func:`~limbeck.teachers.model_fingerprint.fingerprint_network`.
        data: the fingerprint of what is shown: data, views, seed, normalisation.
        num_views: how many views of each sample there are.
        task: how a network is asked.
        config: how answers are written.
    """
    components = {
        "version": CACHE_VERSION, "teacher": teacher, "data": data, "num_views": num_views, "task": repr(task),
        "config": config.to_dict(),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(components, sort_keys=True).encode()).hexdigest()[:32]
