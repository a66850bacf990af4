"""Teachers' answers on disk: asked once, read ever after; see :class:`CachedTeacher`."""

from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.cached_teacher import CachedTeacher

__all__ = ["CacheConfig", "CachedTeacher"]
