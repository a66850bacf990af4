"""What networks are worth where pictures are not those they learned from, side by side and with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Task
from limbeck.data import Data, Part
from limbeck.workflows._job.measure import Deployed
from limbeck.workflows.evaluate.robustness_sections import SECTIONS, WHAT, Asked, Place, answers, points, share, some

__all__ = ["WHAT", "Answering", "Asked", "robustness", "side_by_side"]


def robustness(
    network: nn.Module, data: Data, task: Task, part: Part, *, what: Sequence[str] | None = None, asked: Asked = Asked()
) -> dict[str, Any]:  # fmt: skip
    """Every figure of ``asked`` for one network, which takes inputs as ``data`` normalises them.

    Args:
        network: answers normalised inputs.
        data: gives the normalisation, the classes, and the validation part that a temperature is fitted on.
        task: what a batch means.
        part: what is measured on: the validation part, or the test part at its one opening.
        what: out of :data:`WHAT`, in place of ``asked.what``.
        asked: what to measure, and how.

    Returns:
        ``examples``, ``clean`` and one entry for each of ``asked.what``, as in ``evaluation.json``.

    Raises:
        LimbeckError: no sample of ``part`` has a label; or its inputs are not in 0..1, and attacks, corruptions, noise,
            or uniform noise from outside are asked for.
    """
    asked = asked if what is None else replace(asked, what=tuple(what))
    found: dict[str, Any] = side_by_side({"network": network}, data, task, part, asked=asked)["models"]["network"]
    return found


def side_by_side(
    networks: Mapping[str, nn.Module], data: Data, task: Task, part: Part, *, asked: Asked = Asked(),
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:  # fmt: skip
    """:func:`robustness` of several networks on the same pictures, and the differences of ``pairs`` of them.

    Returns:
        ``models``, by name; and ``differences``, a list with ``of``, ``against``, ``figure``, ``unit`` (``points`` of
        accuracy, or ``1``), ``difference``, ``low``, ``high`` (95 %, over the samples) and ``n``.
    """
    whole = part.labelled()
    if not len(whole):
        raise LimbeckError("there is nothing to measure on: no sample of the part has a label")
    at = Place({name: Answering(one, data, task) for name, one in networks.items()}, data, part, some(whole, asked))
    clean = {name: answers(one, at.some).argmax(dim=1) == at.some.target for name, one in at.networks.items()}
    models: dict[str, dict[str, Any]] = {
        name: {"examples": len(at.some), "clean": share(right)} for name, right in clean.items()
    }
    differences = points("clean", clean, pairs)
    for what in (name for name in WHAT if name in asked.what):
        figures, more = SECTIONS[what](at, asked, pairs)
        differences += more
        for name, found in figures.items():
            models[name][what] = found
    return {"models": models, "differences": differences}


@final
class Answering(nn.Module):
    """A network of a run that takes pixels in 0..1 and gives logits ``[n, classes]``, as the task reads them."""

    def __init__(self, network: nn.Module, data: Data, task: Task) -> None:
        super().__init__()
        self.deployed, self.task = Deployed(network, data.normalization, rank=len(data.shape)), task
        if (held := next(iter(network.parameters()), None)) is not None:
            self.deployed.to(held.device)

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits for ``pixels`` ``[n, channels, ...]``."""
        return self.task.outputs(self.deployed, {"input": pixels}).rows()
