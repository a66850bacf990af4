"""What a frozen network computes its answers by: torch itself, folded, compiled, or a runtime for inference."""

from limbeck.teachers.backends.backend_report import Report
from limbeck.teachers.backends.select_backend import ENGINES, Engine

__all__ = ["ENGINES", "Engine", "Report"]
