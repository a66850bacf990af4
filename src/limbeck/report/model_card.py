"""The model card: ``README.md`` of a run in the format of the Hugging Face Hub, made from the record.

https://huggingface.co/docs/hub/model-cards; the sections on intended use, limits and evaluation follow Mitchell et al.,
*Model Cards for Model Reporting* (2019, https://arxiv.org/abs/1810.03993).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.statistics import accuracy_interval
from limbeck.report.html.templates import load_template
from limbeck.report.record import Record, SplitMetrics
from limbeck.report.record_io import read_record
from limbeck.utils.io import write_text

_HUB_DATASETS = {
    "FashionMNIST": "zalando-datasets/fashion_mnist", "CIFAR10": "uoft-cs/cifar10", "CIFAR100": "uoft-cs/cifar100",
}  # fmt: skip
"""Names of data sets on the Hub that differ from limbeck's."""
_HUB_METRICS = (
    ("accuracy", "accuracy", "Accuracy"), ("f1", "macro_f1", "Macro F1"),
    ("nll", "nll", "Negative log-likelihood, nats"), ("ece", "ece", "Expected calibration error"),
)  # fmt: skip
"""Type on the Hub, name in the record, and label."""


def write_model_card(run_dir: Path, *, license: str = "other") -> Path:
    """Write ``run_dir/README.md`` from ``run_dir/record.json``; returns its path. The same record gives the same bytes.

    Args:
        run_dir: the folder of a finished run.
        license: of the weights, as an identifier of the Hub (``apache-2.0``, ``cc-by-nc-4.0``); ``other`` where it is
            not stated yet.

    Raises:
        LimbeckError: there is no record, it is not the record of a finished run, or the license is not an identifier.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise LimbeckError(f"license must be an identifier of the Hub, such as apache-2.0 or other, got {license!r}")
    run_dir = Path(run_dir)
    record = read_record(run_dir / "record.json")
    if record.kind == "trial":
        raise LimbeckError(
            f"{run_dir} holds one trial of a study, and a model card describes a whole run: give the folder of a run"
        )
    metrics = record.get_metrics(record.distilled)
    body = load_template("model_card.md.j2", folder=Path(__file__).parent).render(
        record=record, license=license, student=record.distilled, metrics=metrics,
        accuracy_interval=accuracy_interval,
    )  # fmt: skip
    text = f"{_render_front_matter(record, metrics, license)}{body.rstrip()}\n"
    return write_text(run_dir / "README.md", text)


def _render_front_matter(record: Record, metrics: SplitMetrics | None, license: str) -> str:
    """The YAML front matter, which the Hub reads."""
    import yaml

    task = "image-classification" if len(record.data.shape) == 3 else "tabular-classification"
    slug = re.sub(r"[^a-z0-9._-]+", "-", record.data.name.lower()).strip("-._")
    dataset = _HUB_DATASETS.get(record.data.name, slug or "data")
    formats = ["onnx"] if "onnx" in record.export else []
    front_matter: dict[str, Any] = {
        "license": license, **({"license_name": "not-stated"} if license == "other" else {}),
        "library_name": "limbeck", "pipeline_tag": task,
        "tags": ["knowledge-distillation", "model-compression", "limbeck", "pytorch", "safetensors", *formats],
        "datasets": [dataset], "metrics": ["accuracy", "f1"],
    }  # fmt: skip
    if metrics is not None and metrics.metrics.get("accuracy") is not None:
        result = {
            "task": {"type": task, "name": "Classification"},
            "dataset": {"type": dataset, "name": _join_lines(record.data.name) or "data", "split": record.split},
            "metrics": [
                {"type": kind, "name": label, "value": round(value, 6)}
                for kind, metric, label in _HUB_METRICS if (value := metrics.metrics.get(metric)) is not None
            ],
        }  # fmt: skip
        front_matter["model-index"] = [{"name": _join_lines(record.name), "results": [result]}]
    return f"---\n{yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True, width=100)}---\n"


def _join_lines(text: str) -> str:
    """``text`` in one line, since a line break in a name could end the YAML."""
    return " ".join(text.split())
