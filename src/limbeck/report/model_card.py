"""The model card: ``README.md`` of a run in the format of the Hugging Face Hub, made from the record.

https://huggingface.co/docs/hub/model-cards; the sections on intended use, limits and evaluation follow Mitchell et al.,
*Model Cards for Model Reporting* (2019, https://arxiv.org/abs/1810.03993).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.evaluation.statistics import accuracy_interval
from limbeck.report.formatting import MISSING
from limbeck.report.html.templates import add_formatters
from limbeck.report.record_io import read_record
from limbeck.utils.io import write_atomically

if TYPE_CHECKING:
    from limbeck.report.record import ModelRecord, Record, SplitMetrics

__all__ = ["escape_markdown", "write_model_card"]

_TEMPLATE_DIR = Path(__file__).parent
_HUB_DATASETS = {
    "FashionMNIST": "zalando-datasets/fashion_mnist", "CIFAR10": "uoft-cs/cifar10", "CIFAR100": "uoft-cs/cifar100",
}  # fmt: skip
"""Names of data sets on the Hub that differ from limbeck's."""
_LICENSE_PATTERN = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def write_model_card(run_dir: Path, *, license: str = "other") -> Path:
    """Write ``run_dir/README.md`` from ``run_dir/record.json``; returns its path. The same record gives the same bytes.

    Args:
        run_dir: the folder of a finished run.
        license: of the weights, as an identifier of the Hub (``apache-2.0``, ``cc-by-nc-4.0``); ``other`` where it is
            not stated yet.

    Raises:
        LimbeckError: there is no record, it is not the record of a finished run, or the license is not an identifier.
    """
    if not _LICENSE_PATTERN.fullmatch(license):
        raise LimbeckError(f"license must be an identifier of the Hub, such as apache-2.0 or other, got {license!r}")
    run_dir = Path(run_dir)
    record = read_record(run_dir / "record.json")
    if record.kind == "trial":
        raise LimbeckError(
            f"{run_dir} holds one trial of a study, and a model card describes a whole run: give the folder of a run"
        )
    text = _render_front_matter(record, license) + _render_body(record, license)
    return write_atomically(run_dir / "README.md", lambda path: path.write_text(text, encoding="utf-8"))


def escape_markdown(text: object) -> str:
    r"""``text`` in one line, with everything escaped that Markdown or HTML would interpret.

    >>> print(escape_markdown("<b>[x](y)</b>\n# 1"))
    &lt;b&gt;\[x\](y)&lt;/b&gt; \# 1
    """
    line = _join_lines(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]{}#|~$!])", r"\\\1", line)


def _render_front_matter(record: Record, license: str) -> str:
    """The YAML front matter, which the Hub reads."""
    import yaml

    front_matter: dict[str, Any] = {"license": license}
    if license == "other":
        front_matter["license_name"] = "not-stated"
    formats = [name for name in ("onnx",) if name in record.export]
    front_matter |= {
        "library_name": "limbeck", "pipeline_tag": _pipeline_tag(record),
        "tags": ["knowledge-distillation", "model-compression", "limbeck", "pytorch", "safetensors", *formats],
        "datasets": [_dataset_id(record)], "metrics": ["accuracy", "f1"],
    }  # fmt: skip
    metrics = record.get_metrics(record.distilled)
    if metrics is not None and metrics.metrics.get("accuracy") is not None:
        front_matter["model-index"] = [
            {"name": _join_lines(record.name), "results": [_model_index_result(record, metrics)]}
        ]
    text = yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{text}---\n"


def _model_index_result(record: Record, metrics: SplitMetrics) -> dict[str, Any]:
    labels = (
        ("accuracy", "accuracy", "Accuracy"), ("f1", "macro_f1", "Macro F1"),
        ("nll", "nll", "Negative log-likelihood, nats"), ("ece", "ece", "Expected calibration error"),
    )  # fmt: skip
    name = _join_lines(record.data.name) or "data"
    return {
        "task": {"type": _pipeline_tag(record), "name": "Classification"},
        "dataset": {"type": _dataset_id(record), "name": name, "split": record.split},
        "metrics": [
            {"type": kind, "name": label, "value": round(value, 6)}
            for kind, metric, label in labels if (value := metrics.metrics.get(metric)) is not None
        ],
    }  # fmt: skip


def _render_body(record: Record, license: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # The output is Markdown: the template escapes all text of the record by `escape_markdown`.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE_DIR), autoescape=False, undefined=StrictUndefined, trim_blocks=True,  # noqa: S701
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    add_formatters(environment)
    environment.filters["escape_markdown"] = escape_markdown
    return environment.get_template("model_card.md.j2").render(
        record=record, license=license, **_template_context(record)
    )


def _template_context(record: Record) -> dict[str, Any]:
    student, metrics = record.distilled, record.get_metrics(record.distilled)
    normalization = record.data.normalization
    verdict = record.verdict
    return {
        "student": student, "metrics": metrics, "split": record.split,
        "rows": [_model_row(record, name, model) for name, model in record.ordered_models()],
        "shape": [1, *record.data.shape], "num_classes": len(record.data.classes),
        "mean": list(normalization.mean) if normalization else [],
        "std": list(normalization.std) if normalization else [],
        "view_shape": [1, -1, *[1] * (len(record.data.shape) - 1)],
        "interval": verdict.interval_points if verdict else None, "stages": _describe_stages(record),
        "fidelities": record.fidelity.students if record.fidelity else {},
        "small_classes": [row for row in (metrics.per_class if metrics else []) if row.num_samples < 30],
    }  # fmt: skip


def _model_row(record: Record, name: str, model: ModelRecord) -> dict[str, Any]:
    """One row of the table of models."""
    metrics = record.get_metrics(model)
    values, num_samples = (metrics.metrics, metrics.num_samples) if metrics else ({}, 0)
    accuracy = values.get("accuracy")
    latency = model.latency_ms.median if model.latency_ms else None
    return {
        "name": record.display_name(name), "accuracy": accuracy, "interval": accuracy_interval(accuracy, num_samples),
        "ece": values.get("ece"), "macro_f1": values.get("macro_f1"), "parameters": model.parameters,
        "latency": f"{latency:.3g} ms" if latency else MISSING, "is_distilled": model.role == Role.DISTILLED,
    }  # fmt: skip


def _describe_stages(record: Record) -> list[str]:
    """One line for each stage: its length and its losses."""
    lines = []
    for stage in record.recipe.get("stages") or []:
        length = f"{stage['epochs']} epochs" if stage.get("epochs") else f"{stage.get('steps')} steps"
        losses = ", ".join(_describe_loss(loss) for loss in stage.get("objective", {}).values())
        lines.append(f"{stage.get('name')}: {length} of {losses}")
    return lines


def _describe_loss(loss: Any) -> str:
    values = {key: loss.get(key) for key in ("temperature", "layer", "layers", "weight")}
    settings = ", ".join(
        f"{key} {value}" for key, value in values.items() if value is not None and not isinstance(value, dict)
    )
    return f"{loss.get('use')}{f' ({settings})' if settings else ''}"


def _join_lines(text: str) -> str:
    """``text`` in one line, since a line break in a name could end the YAML."""
    return " ".join(text.split())


def _pipeline_tag(record: Record) -> str:
    return "image-classification" if len(record.data.shape) == 3 else "tabular-classification"


def _dataset_id(record: Record) -> str:
    """The name of the data set on the Hub, or a slug of its name."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", record.data.name.lower()).strip("-._")
    return _HUB_DATASETS.get(record.data.name, slug or "data")
