"""Those who know: frozen networks, and how several of them speak with one voice."""

from limbeck.teachers.cache import Cached, Format
from limbeck.teachers.ensemble import combine
from limbeck.teachers.frozen import Frozen

__all__ = ["Cached", "Format", "Frozen", "combine"]
