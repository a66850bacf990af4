"""The public names of ``limbeck.teachers``."""

from limbeck.core.protocols import Teacher
from limbeck.teachers.adapter import InputMapping, TeacherAdapter, adapt_teacher, match_classes
from limbeck.teachers.backends import BACKENDS, BackendReport, InferenceBackend
from limbeck.teachers.cache import CacheConfig, CachedTeacher
from limbeck.teachers.ensemble import (
    ConfidenceWeighted,
    EnsembleMethod,
    LearnedWeights,
    MeanLogits,
    MeanProbabilities,
    RandomTeacher,
    combine_teachers,
)
from limbeck.teachers.external import ExternalTeacher, from_callable, inference_server, onnx
from limbeck.teachers.frozen import FrozenTeacher
from limbeck.teachers.masked import MaskedTeacher, load_sample_mask
from limbeck.teachers.selection.rules import SelectionRules, TeacherSimilarity, TeacherStats, teacher_warnings
from limbeck.teachers.selection.select import Candidate, NLLCriterion, TeacherSelection, greedy_select
from limbeck.teachers.self_teachers import EMATeacher, PreviousBatchTeacher, PreviousEpochTeacher

__all__ = [
    "BACKENDS",
    "BackendReport",
    "CacheConfig",
    "CachedTeacher",
    "Candidate",
    "ConfidenceWeighted",
    "EMATeacher",
    "EnsembleMethod",
    "ExternalTeacher",
    "FrozenTeacher",
    "InferenceBackend",
    "InputMapping",
    "LearnedWeights",
    "MaskedTeacher",
    "MeanLogits",
    "MeanProbabilities",
    "NLLCriterion",
    "PreviousBatchTeacher",
    "PreviousEpochTeacher",
    "RandomTeacher",
    "SelectionRules",
    "Teacher",
    "TeacherAdapter",
    "TeacherSelection",
    "TeacherSimilarity",
    "TeacherStats",
    "adapt_teacher",
    "combine_teachers",
    "from_callable",
    "greedy_select",
    "inference_server",
    "load_sample_mask",
    "match_classes",
    "onnx",
    "teacher_warnings",
]
