"""Teacher outputs on disk: computed once, then read; see :class:`CachedTeacher`."""

from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.cached_teacher import CachedTeacher

__all__ = ["CacheConfig", "CachedTeacher"]
