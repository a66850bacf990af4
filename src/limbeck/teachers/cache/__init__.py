"""Teachers' answers on disk: asked once, read ever after; see :class:`Cached`."""

from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.cached_teacher import CachedTeacher

__all__ = ["CachedTeacher", "CacheConfig"]
