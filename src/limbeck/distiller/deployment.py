"""The network that a training is for: the student, or what stands in its place when a term has changed its end.

SimKD (Chen et al., CVPR 2022, https://arxiv.org/abs/2203.14001) teaches no classifier: behind the student's features
stand, at inference, its projector and the teacher's classifier.
"""

from __future__ import annotations

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.early_exits import EarlyExit
from limbeck.losses import SimKD
from limbeck.teachers.adapter import Adapter

__all__ = ["deployed", "reused"]


def reused(distiller: Distiller) -> tuple[str, SimKD] | None:
    """The name of the term whose teacher lends its classifier, and the term; ``None`` where there is none.

    Raises:
        LimbeckError: there are several.
    """
    found = [(name, term) for name, term in distiller.objective.terms.items() if isinstance(term, SimKD)]
    if len(found) > 1:
        raise LimbeckError(
            f"a student has one classifier, and each of {', '.join(name for name, _ in found)} (SimKD) would put its "
            "teacher's behind it: keep one of them"
        )
    return found[0] if found else None


def deployed(distiller: Distiller) -> nn.Module:
    """What is measured, kept and exported: the student, or with SimKD the student's body with the teacher's classifier.

    The latter shares its weights with the student and the term's projector; the classifier is a copy. The classifier is
    the teacher's last ``nn.Linear`` that takes features as wide as the tapped ones.

    Raises:
        LimbeckError: the teacher is no module, has no such layer, or its classes are in another order.
    """
    if (found := reused(distiller)) is None:
        return distiller.student
    name, term = found
    width = _width(term)
    classifier = _classifier(distiller, name, term, width)
    body = EarlyExit(distiller.student, distiller.student_taps[term.at], term.head(classifier))
    return body.train(distiller.student.training)


def _width(term: SimKD) -> int:
    """Of the teacher's features: what the projector's last normalisation gives."""
    assert term.projector is not None
    return next(one.num_features for one in reversed(list(term.projector)) if isinstance(one, _NORMS))


def _classifier(distiller: Distiller, name: str, term: SimKD, width: int) -> nn.Linear:
    said, known = term.teacher, list(distiller.teachers)
    if said is None and len(known) > 1:
        raise LimbeckError(
            f"SimKD puts one teacher's classifier behind the student, and {name!r} hears {', '.join(known)}: name one"
        )
    lender = said or known[0]
    network = getattr(distiller.teachers[lender], "network", None)
    if not isinstance(network, nn.Module):
        raise LimbeckError(
            f"SimKD puts the teacher's classifier behind the student, and {lender!r} only answers: give its network"
        )
    if isinstance(network, Adapter) and network.lens.places is not None:
        raise LimbeckError(
            f"SimKD puts the classifier of {lender!r} behind the student, and its classes are in another order than "
            "the data's: give a teacher of the same classes"
        )
    layers = [one for one in network.modules() if isinstance(one, nn.Linear)]
    if not layers or layers[-1].in_features != width:
        raise LimbeckError(
            f"SimKD puts the classifier of {lender!r} behind features of width {width}, and its last nn.Linear "
            f"{f'takes {layers[-1].in_features}' if layers else 'is missing'}: tap the last layer before the classifier"
        )
    return layers[-1]


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
