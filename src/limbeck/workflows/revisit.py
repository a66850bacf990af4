"""Going back to a finished run: measuring it again, exporting it again; and looking into any model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from limbeck.core.errors import LimbeckError
from limbeck.features import listing
from limbeck.models import load_weights
from limbeck.recipe import load
from limbeck.recipe.resolve_node import check
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import figures
from limbeck.workflows.distill.run import export_onnx, fingerprint

__all__ = ["evaluate", "export", "finished", "taps"]


def evaluate(folder: Path, *, part: str = "validation", data_root: str | None = None) -> dict[str, Any]:
    """Measure the student of the run in ``folder`` on the validation part, and print the figures.

    Asking for the test part is an error where it was read already, as it is at the end of every finished run.
    """
    job, student = _opened(folder, data_root)
    samples = job.data.validation if part == "validation" else job.data.sealed.open(fingerprint({"distilled": student}))
    found, _, _ = figures(student, job.data, job.task, samples)
    short = {name: value for name, value in found.items() if not isinstance(value, list)}
    _say(f"{folder}, {part} part:")
    for name, value in short.items():
        _say(f"  {name:<10} {value if isinstance(value, int | None) else f'{value:.4f}'}")
    _compare_with_record(folder, part, found)
    if part == "test":
        job.data.sealed.finish()
    return found


def export(folder: Path, *, to: Path | None = None, data_root: str | None = None) -> dict[str, Any]:
    """Write the student of the run in ``folder`` as ONNX, checked against torch, and print what was found."""
    job, student = _opened(folder, data_root)
    path = to or folder / "student.onnx"
    found = export_onnx(job, student, path)
    _say(
        f"{path}: {found['bytes']:,} bytes, largest difference of a logit {found['max_abs_difference']:.2g}, "
        f"labels agree on {found['label_agreement']:.1%} of {found['examples']}, "
        f"{found['latency_ms']['median']:.3f} ms a picture (median, 1 thread)"
    )
    return found


def taps(model: str, shape: str, *, plugins: Sequence[str] = ()) -> None:
    """Print every place in ``model`` where features can be read, with the shape it has for one input."""
    sizes = _shape(shape)
    room, _, name = model.partition(":")
    node: dict[str, Any] = {"use": room, "name": name} if room in ("torchvision", "timm") and name else {"use": model}
    given = {"classes": 10, "channels": sizes[0]}
    network = check(node, "model", plugins=plugins, given=given, place="MODEL").build()
    try:
        rows = listing(network, torch.zeros(1, *sizes))
    except Exception as error:  # a network may refuse an input with any error there is
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise LimbeckError(f"{model} does not take an input of {shape} ({line[:160]}): give --input another") from error
    width = max(len(path) for path, *_ in rows)
    kinds = max(len(kind) for _, kind, *_ in rows)
    for path, kind, out, runs in rows:
        shown = "did not run" if not runs else "no tensor" if out is None else "×".join(map(str, out[1:]))
        _say(
            f"{path:<{width}}  {kind:<{kinds}}  {shown}{f'   runs {runs} times: write {path}@0 …' if runs > 1 else ''}"
        )


def finished(folder: Path, data_root: str | None) -> Job:
    """The finished run in ``folder``, with its data loaded."""
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        raise LimbeckError(f"{folder} is no run folder: it has no recipe.yaml")
    if not (folder / "record.json").exists():
        raise LimbeckError(f"{folder} is not finished: go on with limbeck distill --resume --out {folder}")
    return Job.of(load(recipe, [] if data_root is None else [f"data.root={data_root}"]), folder)


def _opened(folder: Path, data_root: str | None) -> tuple[Job, torch.nn.Module]:
    job = finished(folder, data_root)
    return job, load_weights(job.shipped(), folder).eval()


def _compare_with_record(folder: Path, part: str, found: dict[str, Any]) -> None:
    try:
        before = json.loads((folder / "record.json").read_text())["models"]["distilled"][part]
    except (OSError, ValueError, KeyError):
        return
    if before is not None:
        same = abs(before["top1"] - found["top1"]) < 1e-9
        _say(f"the record says {before['top1']:.4f}: {'the same' if same else 'NOT the same; did the data change?'}")


def _shape(text: str) -> list[int]:
    try:
        sizes = [int(number) for number in text.lower().replace("×", "x").split("x")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise LimbeckError(f"--input is the shape of one input, such as 3x32x32, not {text!r}")
    return sizes


def _say(text: str) -> None:
    print(text)  # noqa: T201
