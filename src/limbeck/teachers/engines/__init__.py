"""What a frozen network computes its answers by: torch itself, folded, compiled, or a runtime for inference."""

from limbeck.teachers.engines.engine import ENGINES, Engine
from limbeck.teachers.engines.report import Report

__all__ = ["ENGINES", "Engine", "Report"]
