"""What a frozen network computes its answers by: torch itself, folded, compiled, or a runtime for inference."""

from limbeck.teachers.backends.backend_report import BackendReport
from limbeck.teachers.backends.select_backend import BACKENDS, InferenceBackend

__all__ = ["BACKENDS", "BackendReport", "InferenceBackend"]
