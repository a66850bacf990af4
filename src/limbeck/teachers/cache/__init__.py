"""Teachers' answers on disk: asked once, read ever after; see :class:`Cached`."""

from limbeck.teachers.cache.cache_config import Format
from limbeck.teachers.cache.cached_teacher import Cached

__all__ = ["Cached", "Format"]
