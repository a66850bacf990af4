"""The model card: ``README.md`` of a run in the format of the Hugging Face Hub, from the record alone.

https://huggingface.co/docs/hub/model-cards; Mitchell et al., *Model Cards for Model Reporting* (2019,
https://arxiv.org/abs/1810.03993), from which come what it is for, what it is not, and how it was measured.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import LimbeckError
from limbeck.core.roles import Role
from limbeck.evaluation.statistics import accuracy_interval
from limbeck.report import formatting
from limbeck.utils.io import write_atomically

if TYPE_CHECKING:
    from limbeck.report.record import ModelRecord, Record, SplitMetrics

__all__ = ["escape_markdown", "write_model_card"]

_TEMPLATE_DIR = Path(__file__).parent
_HUB_DATASETS = {
    "FashionMNIST": "zalando-datasets/fashion_mnist", "CIFAR10": "uoft-cs/cifar10", "CIFAR100": "uoft-cs/cifar100",
}  # fmt: skip
"""Data sets by limbeck's name that the Hub has under another one."""
_LICENSE_PATTERN = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def write_model_card(run_dir: Path, *, license: str = "other") -> Path:
    """Write ``run_dir/README.md`` from ``run_dir/record.json``; gives its path.

    Arguments:
        run_dir: the folder of a finished run.
        license: of the weights, as the Hub spells it (``apache-2.0``, ``cc-by-nc-4.0``). ``other``: whoever publishes
            them has not said so yet, since neither limbeck's licence nor the data's decides it.

    The same record gives the same bytes.

    Raises:
        LimbeckError: there is no record, it is not one of a finished run, or the license is not spelt so.
    """
    from limbeck.report.read import read_record

    if not _LICENSE_PATTERN.fullmatch(license):
        raise LimbeckError(f"a license is spelt as the Hub does, such as apache-2.0 or other, not {license!r}")
    run_dir = Path(run_dir)
    record = read_record(run_dir / "record.json")
    if record.kind == "trial":
        raise LimbeckError(
            f"{run_dir} holds one trial of a study, and a model card is of a whole run: give the folder of a run"
        )
    text = _render_front_matter(record, license) + _render_body(record, license)
    return write_atomically(run_dir / "README.md", lambda path: path.write_text(text, encoding="utf-8"))


def escape_markdown(text: object) -> str:
    r"""``text`` as words of one line that Markdown and HTML leave as they are.

    >>> print(escape_markdown("<b>[x](y)</b>\n# 1"))
    &lt;b&gt;\[x\](y)&lt;/b&gt; \# 1
    """
    line = _join_lines(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]{}#|~$!])", r"\\\1", line)


def _render_front_matter(record: Record, license: str) -> str:
    """The YAML at the head, which the Hub reads."""
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
    values = (
        ("accuracy", "Accuracy", metrics.metrics.get("accuracy")), ("f1", "Macro F1", metrics.metrics.get("macro_f1")),
        ("nll", "Negative log-likelihood, nats", metrics.metrics.get("nll")),
        ("ece", "Expected calibration error", metrics.metrics.get("ece")),
    )  # fmt: skip
    return {
        "task": {"type": _pipeline_tag(record), "name": "Classification"},
        "dataset": {
            "type": _dataset_id(record),
            "name": _join_lines(record.data.name) or "data",
            "split": record.split,
        },
        "metrics": [
            {"type": kind, "name": name, "value": round(value, 6)} for kind, name, value in values if value is not None
        ],
    }


def _render_body(record: Record, license: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Markdown is no HTML: all text of the record goes through `escape_markdown` in the template.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATE_DIR), autoescape=False, undefined=StrictUndefined, trim_blocks=True,  # noqa: S701
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        name: getattr(formatting, name)
        for name in (
            "format_bytes",
            "format_count",
            "format_fixed",
            "format_percent",
            "format_points",
            "format_scientific",
        )
    }
    environment.filters |= {"escape_markdown": escape_markdown}
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
    """One line of the table of models."""
    metrics = record.get_metrics(model)
    values, num_samples = (metrics.metrics, metrics.num_samples) if metrics else ({}, 0)
    accuracy = values.get("accuracy")
    latency = model.latency_ms.median if model.latency_ms else None
    return {
        "name": record.display_name(name), "accuracy": accuracy, "interval": accuracy_interval(accuracy, num_samples),
        "ece": values.get("ece"),
        "macro_f1": values.get("macro_f1"), "parameters": model.parameters,
        "latency": f"{latency:.3g} ms" if latency else formatting.MISSING, "is_distilled": model.role == Role.DISTILLED,
    }  # fmt: skip


def _describe_stages(record: Record) -> list[str]:
    """Each stage in a line: how long, and towards what."""
    lines = []
    for stage in record.recipe.get("stages") or []:
        length = f"{stage['epochs']} epochs" if stage.get("epochs") else f"{stage.get('steps')} steps"
        losses = ", ".join(_describe_loss(loss) for loss in stage.get("objective", {}).values())
        lines.append(f"{stage.get('name')}: {length} of {losses}")
    return lines


def _describe_loss(loss: Any) -> str:
    shown_settings = {
        key: value
        for key, value in loss.items()
        if key in ("temperature", "layer", "layers", "weight") and not isinstance(value, dict)
    }
    settings = ", ".join(f"{key} {value}" for key, value in shown_settings.items() if value is not None)
    return f"{loss.get('use')}{f' ({settings})' if settings else ''}"


def _join_lines(text: str) -> str:
    """In one line: a line of a name could end the YAML."""
    return " ".join(text.split())


def _pipeline_tag(record: Record) -> str:
    return "image-classification" if len(record.data.shape) == 3 else "tabular-classification"


def _dataset_id(record: Record) -> str:
    """The data set as the Hub calls it, or a plain word of its name where the Hub may not have it."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", record.data.name.lower()).strip("-._")
    return _HUB_DATASETS.get(record.data.name, slug or "data")
