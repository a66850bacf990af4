"""Those who know: frozen networks, answers from elsewhere and from disk, the student's own past; how several speak
together, and which are to.
"""

from limbeck.teachers.adapter import InputMapping, TeacherAdapter, adapt_teacher, match_classes
from limbeck.teachers.backends import BACKENDS, BackendReport, InferenceBackend
from limbeck.teachers.cache import CacheConfig, CachedTeacher
from limbeck.teachers.combinations import (
    ConfidenceWeighted,
    EnsembleMethod,
    LearnedWeights,
    MeanLogits,
    MeanProbabilities,
    RandomTeacher,
)
from limbeck.teachers.ensemble import combine_teachers
from limbeck.teachers.external import ExternalTeacher, from_callable, inference_server, onnx
from limbeck.teachers.frozen import FrozenTeacher
from limbeck.teachers.masked import MaskedTeacher, load_sample_mask
from limbeck.teachers.selection.rules import SelectionRules, TeacherSimilarity, TeacherStats, teacher_warnings
from limbeck.teachers.selection.select import Candidate, TeacherSelection, greedy_select
from limbeck.teachers.self_teachers import EMATeacher, PreviousBatchTeacher, PreviousEpochTeacher

__all__ = [
    "BACKENDS", "TeacherAdapter", "EMATeacher", "CachedTeacher", "Candidate", "EnsembleMethod", "ConfidenceWeighted", "InferenceBackend", "TeacherStats", "ExternalTeacher",
    "CacheConfig", "FrozenTeacher", "PreviousBatchTeacher", "PreviousEpochTeacher", "LearnedWeights", "InputMapping", "TeacherSimilarity", "MeanLogits",
    "MeanProbabilities", "MaskedTeacher", "RandomTeacher", "BackendReport", "SelectionRules", "TeacherSelection", "adapt_teacher", "load_sample_mask", "from_callable",
    "match_classes", "combine_teachers", "inference_server", "onnx", "greedy_select",
    "teacher_warnings",
]  # fmt: skip
