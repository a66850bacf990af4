"""The model card: ``README.md`` of a run in the format of the Hugging Face Hub, from the record alone.

https://huggingface.co/docs/hub/model-cards; Mitchell et al., *Model Cards for Model Reporting* (2019,
https://arxiv.org/abs/1810.03993), from which come what it is for, what it is not, and how it was measured.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import LimbeckError
from limbeck.report import formatting as words
from limbeck.report.shares import interval
from limbeck.utils.io import write_atomically

if TYPE_CHECKING:
    from limbeck.report.record import Model, Quality, Record

__all__ = ["escaped", "write_card"]

_HERE = Path(__file__).parent
_HUB = {
    "FashionMNIST": "zalando-datasets/fashion_mnist", "CIFAR10": "uoft-cs/cifar10", "CIFAR100": "uoft-cs/cifar100",
}  # fmt: skip
"""Data sets by limbeck's name that the Hub has under another one."""
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def write_card(run: Path, *, license: str = "other") -> Path:
    """Write ``run/README.md`` from ``run/record.json``; gives its path.

    Arguments:
        run: the folder of a finished run.
        license: of the weights, as the Hub spells it (``apache-2.0``, ``cc-by-nc-4.0``). ``other``: whoever publishes
            them has not said so yet, since neither limbeck's licence nor the data's decides it.

    The same record gives the same bytes.

    Raises:
        LimbeckError: there is no record, it is not one of a finished run, or the license is not spelt so.
    """
    from limbeck.report.read import read

    if not _LICENSE.fullmatch(license):
        raise LimbeckError(f"a license is spelt as the Hub does, such as apache-2.0 or other, not {license!r}")
    run = Path(run)
    record = read(run / "record.json")
    if record.kind == "arm":
        raise LimbeckError(f"{run} holds one arm of a study, and a card is of a whole run: give the folder of a run")
    text = _front(record, license) + _body(record, license)
    return write_atomically(run / "README.md", lambda path: path.write_text(text, encoding="utf-8"))


def escaped(text: object) -> str:
    r"""``text`` as words of one line that Markdown and HTML leave as they are.

    >>> print(escaped("<b>[x](y)</b>\n# 1"))
    &lt;b&gt;\[x\](y)&lt;/b&gt; \# 1
    """
    line = _line(str(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]{}#|~$!])", r"\\\1", line)


def _front(record: Record, license: str) -> str:
    """The YAML at the head, which the Hub reads."""
    import yaml

    head: dict[str, Any] = {"license": license}
    if license == "other":
        head["license_name"] = "not-stated"
    formats = [name for name in ("onnx",) if name in record.export]
    head |= {
        "library_name": "limbeck", "pipeline_tag": _pipeline(record),
        "tags": ["knowledge-distillation", "model-compression", "limbeck", "pytorch", "safetensors", *formats],
        "datasets": [_dataset(record)], "metrics": ["accuracy", "f1"],
    }  # fmt: skip
    quality = record.quality(record.distilled)
    if quality is not None and quality.top1 is not None:
        head["model-index"] = [{"name": _line(record.name), "results": [_result(record, quality)]}]
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{text}---\n"


def _result(record: Record, quality: Quality) -> dict[str, Any]:
    figures = (
        ("accuracy", "Accuracy", quality.top1), ("f1", "Macro F1", quality.macro_f1),
        ("nll", "Negative log-likelihood, nats", quality.nll), ("ece", "Expected calibration error", quality.ece),
    )  # fmt: skip
    return {
        "task": {"type": _pipeline(record), "name": "Classification"},
        "dataset": {"type": _dataset(record), "name": _line(record.data.name) or "data", "split": record.part},
        "metrics": [
            {"type": kind, "name": name, "value": round(value, 6)} for kind, name, value in figures if value is not None
        ],
    }


def _body(record: Record, license: str) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Markdown is no HTML: every word of the record goes through `md` in the template, and what is left are numbers.
    house = Environment(
        loader=FileSystemLoader(_HERE), autoescape=False, undefined=StrictUndefined, trim_blocks=True,  # noqa: S701
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    house.filters |= {name: getattr(words, name) for name in ("amount", "fixed", "percent", "points", "power", "size")}
    house.filters |= {"md": escaped}
    return house.get_template("model_card.md.j2").render(r=record, license=license, **_contents(record))


def _contents(record: Record) -> dict[str, Any]:
    student, quality = record.distilled, record.quality(record.distilled)
    spread = record.data.normalization
    found = record.verdict
    return {
        "student": student, "quality": quality, "part": record.part,
        "rows": [_row(record, name, model) for name, model in record.ordered()],
        "shape": [1, *record.data.shape], "classes": len(record.data.classes),
        "mean": list(spread.mean) if spread else [], "std": list(spread.std) if spread else [],
        "axes": [1, -1, *[1] * (len(record.data.shape) - 1)],
        "ends": found.interval_points if found else None, "stages": _stages(record),
        "likeness": record.fidelity.students if record.fidelity else {},
        "few": [one for one in (quality.per_class if quality else []) if one.examples < 30],
    }  # fmt: skip


def _row(record: Record, name: str, model: Model) -> dict[str, Any]:
    """One line of the table of models."""
    quality = record.quality(model)
    share, n = (quality.top1, quality.examples) if quality else (None, 0)
    latency = model.latency_ms.median if model.latency_ms else None
    return {
        "name": record.short(name), "share": share, "ends": interval(share, n), "ece": quality.ece if quality else None,
        "f1": quality.macro_f1 if quality else None, "parameters": model.parameters,
        "latency": f"{latency:.3g} ms" if latency else words.NONE, "mine": model.role == "distilled",
    }  # fmt: skip


def _stages(record: Record) -> list[str]:
    """Each stage in a line: how long, and towards what."""
    told = []
    for stage in record.recipe.get("stages") or []:
        length = f"{stage['epochs']} epochs" if stage.get("epochs") else f"{stage.get('steps')} steps"
        terms = ", ".join(_term(term) for term in stage.get("objective", {}).values())
        told.append(f"{stage.get('name')}: {length} of {terms}")
    return told


def _term(term: Any) -> str:
    own = {key: value for key, value in term.items() if key in ("tau", "at", "weight") and not isinstance(value, dict)}
    settings = ", ".join(f"{key} {value}" for key, value in own.items() if value is not None)
    return f"{term.get('use')}{f' ({settings})' if settings else ''}"


def _line(text: str) -> str:
    """In one line: a line of a name could end the YAML."""
    return " ".join(text.split())


def _pipeline(record: Record) -> str:
    return "image-classification" if len(record.data.shape) == 3 else "tabular-classification"


def _dataset(record: Record) -> str:
    """The data set as the Hub calls it, or a plain word of its name where the Hub may not have it."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", record.data.name.lower()).strip("-._")
    return _HUB.get(record.data.name, slug or "data")
