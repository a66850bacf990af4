"""The sections of an evaluation: for all networks together, the figures of each and the differences of pairs.

All networks get the very same pictures: attacked each for itself, corrupted and made noisy once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, nearest
from limbeck.data import Data, Part
from limbeck.evaluation import (
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
from limbeck.evaluation.robustness.ood import SCORES
from limbeck.workflows.evaluate.image_folders import noise

__all__ = ["SECTIONS", "WHAT", "Asked", "Place", "answers", "points", "share", "some"]

WHAT = ("attacks", "corruptions", "noise", "shift", "ood", "calibration")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be measured, and how.

    Attributes:
        what: out of :data:`WHAT`.
        attacks: out of ``limbeck.evaluation.ATTACKS``.
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
@dataclass(frozen=True, slots=True)
class Place:
    """What is measured on.

    Attributes:
        networks: by name, taking pixels in 0..1 and giving logits.
        data: gives the validation part, the classes and the shape.
        part: the whole part.
        some: the labelled samples of it that are attacked, corrupted and made noisy.
    """

    networks: Mapping[str, nn.Module]
    data: Data
    part: Part
    some: Part


_Pairs = Sequence[tuple[str, str]]
_Found = tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]


def answers(network: nn.Module, part: Part, *, batch: int = 256) -> Tensor:
    """The logits of ``network`` for all of ``part``, ``[n, classes]`` float32 on the CPU."""
    return torch.cat([said(network, part.read(which)) for which in torch.split(torch.arange(len(part)), batch)])


def some(part: Part, asked: Asked) -> Part:
    """As many samples of ``part`` as are asked for, chosen by seed, in their order."""
    if asked.examples is None or len(part) <= asked.examples:
        return part
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(asked.seed))
    return part.subset(order[: asked.examples].sort().values)


def points(figure: str, right: Mapping[str, Tensor], pairs: _Pairs) -> list[dict[str, Any]]:
    """The differences of ``pairs`` in accuracy, of who is right by name (``[n]`` booleans), in percentage points."""
    lines = []
    for a, b in pairs:
        difference, low, high = paired_bootstrap(right[a], right[b])
        found = {"difference": difference, "low": low, "high": high, "n": len(right[a])}
        lines.append(_line(figure, "points", (a, b), found))
    return lines


def share(right: Tensor) -> float:
    """How many of ``right`` (booleans) are true, as a fraction."""
    return float(right.double().mean())


def _attacks(at: Place, asked: Asked, pairs: _Pairs) -> _Found:
    right = {
        name: attacked(one, at.some, attacks=asked.attacks, eps=asked.eps, seed=asked.seed)
        for name, one in at.networks.items()
    }
    figures = {
        name: {
            "eps": asked.eps,
            "n": len(at.some),
            **{attack: share(masks[attack]) for attack in (*asked.attacks, "worst")},
        }
        for name, masks in right.items()
    }
    more = [
        line
        for attack in (*asked.attacks, "worst")
        for line in points(attack, {name: masks[attack] for name, masks in right.items()}, pairs)
    ]
    return figures, more


def _corruptions(at: Place, asked: Asked, pairs: _Pairs) -> _Found:
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


def _noise(at: Place, asked: Asked, pairs: _Pairs) -> _Found:
    right = noised(at.networks, at.some, sigmas=asked.sigmas, seed=asked.seed)
    figures = {
        name: {"sigmas": list(asked.sigmas), "top1": masks.double().mean(dim=1).tolist(), "n": len(at.some)}
        for name, masks in right.items()
    }
    return figures, [
        line
        for row, sigma in enumerate(asked.sigmas)
        for line in points(f"noise {sigma:g}", {name: masks[row] for name, masks in right.items()}, pairs)
    ]


def _shift(at: Place, asked: Asked, pairs: _Pairs) -> _Found:
    assert asked.shifted is not None
    shifted = asked.shifted
    right = {name: answers(one, shifted).argmax(dim=1) == shifted.target for name, one in at.networks.items()}
    more = points("shift", right, pairs)
    if asked.twin is not None:
        twin = asked.twin
        return {name: {"twins": True, **shift(one, twin, shifted)} for name, one in at.networks.items()}, more
    figures = {}
    for name, one in at.networks.items():
        before = answers(one, at.part.labelled()).argmax(dim=1) == at.part.labelled().target
        figures[name] = {
            "twins": False, "first": share(before), "second": share(right[name]), "flipped": None,
            **unpaired_difference(right[name], before),
        }  # fmt: skip
    return figures, more


def _ood(at: Place, asked: Asked, pairs: _Pairs) -> _Found:
    if asked.outside is None:
        # Noise in 0..1 is outside of pictures; of other inputs nobody knows what it is.
        require_pixels(at.some.read(torch.arange(len(at.some))))
    other = noise(len(at.some), at.data, seed=asked.seed) if asked.outside is None else some(asked.outside, asked)
    logits = {name: (answers(one, at.some), answers(one, other)) for name, one in at.networks.items()}
    against = "uniform noise" if asked.outside is None else "a folder"
    figures = {name: {"against": against, **outside(*both)} for name, both in logits.items()}
    more = []
    for score, call in SCORES.items():
        scores = {name: (call(inside), call(out)) for name, (inside, out) in logits.items()}
        more += [
            _line(f"auroc {score}", "1", pair, auroc_difference(scores[pair[0]], scores[pair[1]])) for pair in pairs
        ]
    return figures, more


def _calibration(at: Place, asked: Asked, pairs: _Pairs) -> _Found:
    """Samples of the validation part are cut in halves; for others, the validation part is what is fitted on."""
    told, fitted = at.part.labelled(), at.data.validation.labelled()
    own = bool(torch.isin(told.number, fitted.number).any())
    if own:
        first, second = halves(len(told), seed=asked.seed)
        fitted, told = told.subset(first), told.subset(second)
    figures, rows = dict[str, dict[str, Any]](), dict[str, dict[str, Tensor]]()
    for name, one in at.networks.items():
        logits = answers(one, told).double()
        found = calibrated((answers(one, fitted), fitted.target), (logits, told.target))
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


def _means(figure: str, each: Mapping[str, Tensor], pairs: _Pairs) -> list[dict[str, Any]]:
    return [_line(figure, "points", (a, b), mean_difference(100 * each[a], 100 * each[b])) for a, b in pairs]


def _line(figure: str, unit: str, pair: tuple[str, str], found: Mapping[str, Any]) -> dict[str, Any]:
    return {"of": pair[0], "against": pair[1], "figure": figure, "unit": unit, **found}


SECTIONS: Mapping[str, Callable[[Place, Asked, _Pairs], _Found]] = {
    "attacks": _attacks, "corruptions": _corruptions, "noise": _noise, "shift": _shift, "ood": _ood,
    "calibration": _calibration,
}  # fmt: skip
