"""What networks are worth where pictures are not those they learned from, side by side and with intervals.

All networks get the very same pictures: attacked each for itself, corrupted and made noisy once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, nearest
from limbeck.core.protocols import Task
from limbeck.data import Data, Part
from limbeck.evaluate import (
    CORRUPTIONS,
    DEVIATIONS,
    EPS,
    SIGMAS,
    attacked,
    auroc_difference,
    calibrated,
    calibration_error,
    corrupted,
    halves,
    mean_difference,
    noised,
    outside,
    paired_bootstrap,
    paired_difference,
    require_pixels,
    said,
    shift,
    unpaired_difference,
)
from limbeck.evaluate.outside import SCORES
from limbeck.programs.measuring import Deployed
from limbeck.programs.pictures import noise

__all__ = ["WHAT", "Answering", "Asked", "robustness", "side_by_side"]

WHAT = ("attacks", "corruptions", "noise", "shift", "ood", "calibration")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be measured, and how.

    Attributes:
        what: out of :data:`WHAT`.
        attacks: out of ``limbeck.evaluate.ATTACKS``.
        eps: the largest change of a pixel under attack, in 0..1.
        sigmas: of the noise, in units of the pixel.
        shifted: pictures of the same classes under another sky.
        twin: the same pictures as ``shifted`` before they were shifted; ``None``: compare with the part itself.
        outside: pictures of none of the classes; ``None``: uniform noise.
        examples: how many pictures of the part are attacked, corrupted and made noisy, chosen by seed; ``None``: all.
        seed: of all draws.
    """

    what: tuple[str, ...] = ("attacks", "corruptions", "noise", "ood", "calibration")
    attacks: tuple[str, ...] = ("fgsm", "pgd")
    eps: float = EPS
    sigmas: tuple[float, ...] = SIGMAS
    shifted: Part | None = None
    twin: Part | None = None
    outside: Part | None = None
    examples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.what:
            if name not in WHAT:
                raise LimbeckError(f"{name!r} is nothing to measure; there are: {nearest(name, WHAT)}")
        if "shift" in self.what and self.shifted is None:
            raise LimbeckError("a shift needs shifted pictures, and none were given")
        if self.examples is not None and self.examples < 2:
            raise LimbeckError(f"examples is how many pictures to measure on, from 2, not {self.examples}")


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
    at = _Place({name: Answering(one, data, task) for name, one in networks.items()}, data, part, _some(whole, asked))
    clean = {name: _answers(one, at.some).argmax(dim=1) == at.some.target for name, one in at.networks.items()}
    models: dict[str, dict[str, Any]] = {
        name: {"examples": len(at.some), "clean": _share(right)} for name, right in clean.items()
    }
    differences = _points("clean", clean, pairs)
    for what in (name for name in WHAT if name in asked.what):
        figures, more = _SECTIONS[what](at, asked, pairs)
        differences += more
        for name, found in figures.items():
            models[name][what] = found
    return {"models": models, "differences": differences}


@final
@dataclass(frozen=True, slots=True)
class _Place:
    networks: Mapping[str, Answering]
    data: Data
    part: Part
    some: Part


_Pairs = Sequence[tuple[str, str]]
_Found = tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]


def _attacks(at: _Place, asked: Asked, pairs: _Pairs) -> _Found:
    right = {
        name: attacked(one, at.some, attacks=asked.attacks, eps=asked.eps, seed=asked.seed)
        for name, one in at.networks.items()
    }
    figures = {
        name: {
            "eps": asked.eps,
            "n": len(at.some),
            **{attack: _share(masks[attack]) for attack in (*asked.attacks, "worst")},
        }
        for name, masks in right.items()
    }
    more = [
        line
        for attack in (*asked.attacks, "worst")
        for line in _points(attack, {name: masks[attack] for name, masks in right.items()}, pairs)
    ]
    return figures, more


def _corruptions(at: _Place, asked: Asked, pairs: _Pairs) -> _Found:
    right = corrupted(at.networks, at.some, seed=asked.seed)
    # For each sample the share of the 75 under which it is right: means over samples are means over corruptions too.
    each = {name: torch.cat(list(by.values())).double().mean(dim=0) for name, by in right.items()}
    figures = {
        name: {
            "mean": float(each[name].mean()), "n": len(at.some), "note": _deviations(at.data.shape),
            "by": {one: masks.double().mean(dim=1).tolist() for one, masks in by.items()},
        }
        for name, by in right.items()
    }  # fmt: skip
    return figures, _means("corruptions", each, pairs) + [
        line
        for one in CORRUPTIONS
        for line in _means(one, {name: by[one].double().mean(dim=0) for name, by in right.items()}, pairs)
    ]


def _noise(at: _Place, asked: Asked, pairs: _Pairs) -> _Found:
    right = noised(at.networks, at.some, sigmas=asked.sigmas, seed=asked.seed)
    figures = {
        name: {"sigmas": list(asked.sigmas), "top1": masks.double().mean(dim=1).tolist(), "n": len(at.some)}
        for name, masks in right.items()
    }
    return figures, [
        line
        for row, sigma in enumerate(asked.sigmas)
        for line in _points(f"noise {sigma:g}", {name: masks[row] for name, masks in right.items()}, pairs)
    ]


def _shift(at: _Place, asked: Asked, pairs: _Pairs) -> _Found:
    assert asked.shifted is not None
    shifted = asked.shifted
    right = {name: _answers(one, shifted).argmax(dim=1) == shifted.target for name, one in at.networks.items()}
    more = _points("shift", right, pairs)
    if asked.twin is not None:
        twin = asked.twin
        return {name: {"twins": True, **shift(one, twin, shifted)} for name, one in at.networks.items()}, more
    figures = {}
    for name, one in at.networks.items():
        before = _answers(one, at.part.labelled()).argmax(dim=1) == at.part.labelled().target
        figures[name] = {
            "twins": False, "first": _share(before), "second": _share(right[name]), "flipped": None,
            **unpaired_difference(right[name], before),
        }  # fmt: skip
    return figures, more


def _ood(at: _Place, asked: Asked, pairs: _Pairs) -> _Found:
    if asked.outside is None:
        # Noise in 0..1 is outside of pictures; of other inputs nobody knows what it is.
        require_pixels(at.some.read(torch.arange(len(at.some))))
    other = noise(len(at.some), at.data, seed=asked.seed) if asked.outside is None else _some(asked.outside, asked)
    logits = {name: (_answers(one, at.some), _answers(one, other)) for name, one in at.networks.items()}
    against = "uniform noise" if asked.outside is None else "a folder"
    figures = {name: {"against": against, **outside(*both)} for name, both in logits.items()}
    more = []
    for score, call in SCORES.items():
        scores = {name: (call(inside), call(out)) for name, (inside, out) in logits.items()}
        more += [
            _line(f"auroc {score}", "1", pair, auroc_difference(scores[pair[0]], scores[pair[1]])) for pair in pairs
        ]
    return figures, more


def _calibration(at: _Place, asked: Asked, pairs: _Pairs) -> _Found:
    """On the validation part it is cut in halves; on another one, the validation part is what is fitted on."""
    told, fitted = at.part.labelled(), at.data.validation.labelled()
    own = at.part is at.data.validation
    if own:
        first, second = halves(len(told), seed=asked.seed)
        fitted, told = told.subset(first), told.subset(second)
    figures, rows = dict[str, dict[str, Any]](), dict[str, dict[str, Tensor]]()
    for name, one in at.networks.items():
        logits = _answers(one, told).double()
        found = calibrated((_answers(one, fitted), fitted.target), (logits, told.target))
        figures[name] = {**found, "fitted_on_part": "half of validation" if own else "validation"}
        rows[name] = {"before": logits, "after": logits / found["temperature"]}
    more = []
    for when in ("before", "after"):
        sure = {name: _sure(each[when], told.target) for name, each in rows.items()}
        nll = {name: _nll(each[when], told.target) for name, each in rows.items()}
        for a, b in pairs:
            more.append(_line(f"ece {when}", "1", (a, b), paired_difference(_ece, sure[a], sure[b], resamples=1000)))
            more.append(_line(f"nll {when}", "1", (a, b), mean_difference(nll[a], nll[b])))
    return figures, more


_SECTIONS: Mapping[str, Callable[[_Place, Asked, _Pairs], _Found]] = {
    "attacks": _attacks, "corruptions": _corruptions, "noise": _noise, "shift": _shift, "ood": _ood,
    "calibration": _calibration,
}  # fmt: skip


def _deviations(shape: Sequence[int]) -> str:
    if len(shape) == 3 and min(shape[1:]) < 32:
        return f"{DEVIATIONS}; lengths are those for 32×32 pixels, and weigh more on {shape[1]}×{shape[2]}"
    return DEVIATIONS


def _sure(logits: Tensor, target: Tensor) -> Tensor:
    """Confidence of each row, and whether it was right, ``[n, 2]`` float64."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return torch.stack([confidence, (predicted == target).double()], dim=1)


def _ece(sure: Tensor) -> float:
    return calibration_error(sure[:, 0], sure[:, 1] > 0)


def _nll(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, target, reduction="none")


def _answers(network: nn.Module, part: Part, *, batch: int = 256) -> Tensor:
    return torch.cat([said(network, part.read(which)) for which in torch.split(torch.arange(len(part)), batch)])


def _some(part: Part, asked: Asked) -> Part:
    if asked.examples is None or len(part) <= asked.examples:
        return part
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(asked.seed))
    return part.subset(order[: asked.examples].sort().values)


def _points(figure: str, right: Mapping[str, Tensor], pairs: _Pairs) -> list[dict[str, Any]]:
    lines = []
    for a, b in pairs:
        difference, low, high = paired_bootstrap(right[a], right[b])
        found = {"difference": difference, "low": low, "high": high, "n": len(right[a])}
        lines.append(_line(figure, "points", (a, b), found))
    return lines


def _means(figure: str, each: Mapping[str, Tensor], pairs: _Pairs) -> list[dict[str, Any]]:
    return [_line(figure, "points", (a, b), mean_difference(100 * each[a], 100 * each[b])) for a, b in pairs]


def _line(figure: str, unit: str, pair: tuple[str, str], found: Mapping[str, Any]) -> dict[str, Any]:
    return {"of": pair[0], "against": pair[1], "figure": figure, "unit": unit, **found}


def _share(right: Tensor) -> float:
    return float(right.double().mean())
