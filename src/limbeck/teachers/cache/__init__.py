"""Teachers' answers on disk: asked once, read ever after; see :class:`Cached`."""

from limbeck.teachers.cache.cached import Cached
from limbeck.teachers.cache.format import Format

__all__ = ["Cached", "Format"]
