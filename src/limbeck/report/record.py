"""The content of ``record.json`` as a pydantic model; :mod:`limbeck.report.record_io` reads, writes and checks it."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from limbeck.core.roles import Role
from limbeck.report.record_sections import (
    Agreement,
    CacheStats,
    CoercedStr,
    Command,
    DataInfo,
    DistributedInfo,
    ExampleRecord,
    ExportedFile,
    ExtraModel,
    Fidelity,
    FileDigest,
    HeldOutAccess,
    ModelRecord,
    OptionalFloat,
    OptionalInt,
    ReproducedRun,
    SourceCode,
    SplitMetrics,
    TorchFlags,
    VariantInfo,
    Verdict,
)
from limbeck.report.task_metrics import TaskMetrics

SCHEMA, SCHEMA_MINOR = 3, 2
"""SCHEMA_MINOR is incremented with every change that :mod:`limbeck.report.migrate` applies to older records."""


class Record(TaskMetrics):
    """The content of ``record.json``."""

    schema_version: int = Field(alias="schema")
    schema_minor: int = 0
    limbeck: CoercedStr = ""
    name: CoercedStr
    kind: Literal["run", "trial"] = "run"
    origin: Literal["recipe", "python"] = "recipe"
    variant: VariantInfo | None = None
    seed: OptionalInt = None
    created: CoercedStr = ""
    seconds: OptionalFloat = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, CoercedStr] = Field(default_factory=dict)
    machine: dict[str, Any] = Field(default_factory=dict)
    source: SourceCode = SourceCode()
    environment: str | None = None
    torch_flags: TorchFlags = TorchFlags()
    command: Command | None = None
    distributed: DistributedInfo = DistributedInfo()
    weights: dict[str, FileDigest] = Field(default_factory=dict)
    reproduces: ReproducedRun | None = None
    data: DataInfo = DataInfo()
    test_set: HeldOutAccess = HeldOutAccess()
    models: dict[str, ModelRecord]
    agreement: Agreement | None = None
    fidelity: Fidelity | None = None
    verdict: Verdict | None = None
    export: dict[str, ExportedFile] = Field(default_factory=dict)
    peers: dict[str, ExtraModel] = Field(default_factory=dict)
    early_exits: dict[str, ExtraModel] = Field(default_factory=dict)
    ensemble: ExtraModel | None = None
    examples: list[ExampleRecord] = Field(default_factory=list)
    training_batch: list[ExampleRecord] = Field(default_factory=list)
    warnings: list[CoercedStr] = Field(default_factory=list)
    cache: dict[str, CacheStats] = Field(default_factory=dict)
    files: dict[str, FileDigest] = Field(default_factory=dict)
    config_hash: str | None = None
    record_hash: str | None = None

    def __repr__(self) -> str:
        verdict = "" if self.verdict is None else f", verdict={self.verdict.text!r}"
        return f"Record({self.name}: {self.kind}, models={list(self.models)}, {self.split} split{verdict})"

    @property
    def split(self) -> Literal["test", "validation"]:
        """The split that reports show: test where any model was measured on it."""
        return "test" if any(model.test for model in self.models.values()) else "validation"

    @property
    def distilled(self) -> ModelRecord:
        """The distilled student."""
        return next(model for model in self.models.values() if model.role == Role.DISTILLED)

    @property
    def baseline(self) -> ModelRecord | None:
        """The same student without a teacher."""
        return next((model for model in self.models.values() if model.role == Role.BASELINE), None)

    @property
    def teacher(self) -> ModelRecord | None:
        """The teacher to compare with: of several, the one with the best primary metric."""
        sign = self.primary_spec.sign
        teachers = [model for model in self.models.values() if model.role == Role.TEACHER]
        scores = [self.get_metric(model, self.primary_metric) for model in teachers]
        ranks = [-math.inf if score is None else sign * score for score in scores]
        return teachers[ranks.index(max(ranks))] if teachers else None

    def get_metrics(self, model: ModelRecord | None) -> SplitMetrics | None:
        """The metrics of ``model`` on :attr:`split`."""
        return None if model is None else model.test if self.split == "test" else model.validation

    def get_metric(self, model: ModelRecord | None, name: str) -> float | None:
        """One metric of ``model`` on :attr:`split`; ``None`` where it is missing."""
        metrics = self.get_metrics(model)
        return metrics.metrics.get(name) if metrics else None

    def ordered_models(self) -> list[tuple[str, ModelRecord]]:
        """Names and models: teachers, assistants, the baselines, the distilled student."""
        return sorted(self.models.items(), key=lambda item: list(Role).index(item[1].role))

    def display_name(self, name: str) -> str:
        """The label of a model: its role, or its name for assistants and for one of several teachers."""
        role, roles = self.models[name].role, [model.role for model in self.models.values()]
        if role == Role.ASSISTANT or (role == Role.TEACHER and roles.count(role) > 1):
            return name
        labels = {Role.TEACHER: "Teacher", Role.BASELINE: "Baseline", Role.NO_ASSISTANTS: "No assistants"}
        return labels.get(role, "Distilled")
