"""The model card: ``README.md`` of a run in the format of the Hugging Face Hub, made from the record.

https://huggingface.co/docs/hub/model-cards; the sections on intended use, limits and evaluation follow Mitchell et al.,
*Model Cards for Model Reporting* (2019, https://arxiv.org/abs/1810.03993).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.data.image_preprocessing import ImagePreprocessing
from limbeck.report.html.templates import load_template
from limbeck.report.latency import model_latencies
from limbeck.report.record import Record
from limbeck.report.record_io import read_record
from limbeck.report.record_sections import SplitMetrics
from limbeck.report.verdict import classify_interval
from limbeck.utils.console import escape_controls
from limbeck.utils.io import write_text

_HUB_DATASETS = {
    "FashionMNIST": "zalando-datasets/fashion_mnist", "CIFAR10": "uoft-cs/cifar10", "CIFAR100": "uoft-cs/cifar100",
}  # fmt: skip
"""Names of data sets on the Hub that differ from limbeck's."""
_HUB_METRICS = {"macro_f1": "f1", "miou": "mean_iou"}
"""Types of metrics on the Hub that differ from the names in the record."""


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
        specs=[spec for spec in record.metric_specs if metrics and metrics.metrics.get(spec.name) is not None],
        pipeline_tag=_pipeline_tag(record), latencies=model_latencies(record.models),
        outcome=classify_interval(record.verdict.interval if record.verdict else None),
        preprocessing=_preprocessing(record),
    )  # fmt: skip
    text = f"{_render_front_matter(record, metrics, license)}{body.rstrip()}\n"
    return write_text(run_dir / "README.md", text)


def _render_front_matter(record: Record, metrics: SplitMetrics | None, license: str) -> str:
    """The YAML front matter, which the Hub reads."""
    import yaml

    tag = _pipeline_tag(record)
    slug = re.sub(r"[^a-z0-9._-]+", "-", record.data.name.lower()).strip("-._")
    dataset = _HUB_DATASETS.get(record.data.name, slug or "data")
    formats = ["onnx"] if "onnx" in record.export else []
    front_matter: dict[str, Any] = {
        "license": license, **({"license_name": "not-stated"} if license == "other" else {}),
        "library_name": "limbeck", **({"pipeline_tag": tag} if tag else {}),
        "tags": ["knowledge-distillation", "model-compression", "limbeck", "pytorch", "safetensors", *formats],
        "datasets": [dataset], "metrics": [_plain(_HUB_METRICS.get(name, name)) for name in record.metric_info],
    }  # fmt: skip
    if metrics is not None and metrics.metrics.get(record.primary_metric) is not None:
        result = {
            "task": {"type": tag or "other", "name": _plain(record.task.name or tag or "other")},
            "dataset": {"type": dataset, "name": _plain(record.data.name) or "data", "split": record.split},
            "metrics": [
                {"type": _plain(_HUB_METRICS.get(spec.name, spec.name)), "name": _plain(spec.label),
                 "value": round(value, 6)}
                for spec in record.metric_specs if (value := metrics.metrics.get(spec.name)) is not None
            ],
        }  # fmt: skip
        front_matter["model-index"] = [{"name": _plain(record.name), "results": [result]}]
    return f"---\n{yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True, width=100)}---\n"


def _pipeline_tag(record: Record) -> str:
    """The task on the Hub; a classifier of rows of features is tabular."""
    tag = _plain(record.task.pipeline_tag)
    return tag.replace("image", "tabular") if len(record.data.shape) == 1 else tag


def _preprocessing(record: Record) -> dict[str, Any] | None:
    """The steps from an image file to an input, checked, since the record may come from anywhere."""
    values = record.data.preprocessing
    return None if values is None else ImagePreprocessing.from_dict(values).to_dict()


def _plain(text: str) -> str:
    """``text`` in one line, since a line break could end the YAML, and without the brackets of HTML."""
    return escape_controls(re.sub(r"[\s<>]+", " ", text).strip())
