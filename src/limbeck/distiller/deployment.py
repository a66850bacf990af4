"""The network to deploy: the student, or with SimKD the student's body with the teacher's classifier.

SimKD (Chen et al., CVPR 2022, https://arxiv.org/abs/2203.14001) trains no classifier: at inference, the student's
features go through its projector and the teacher's classifier.
"""

from __future__ import annotations

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.distiller.distiller import Distiller
from limbeck.distiller.early_exits import EarlyExit
from limbeck.losses import SimKDLoss
from limbeck.teachers.adapter import TeacherAdapter

__all__ = ["classifier_source", "deployment_model"]


def classifier_source(distiller: Distiller) -> tuple[str, SimKDLoss] | None:
    """Find the SimKD loss; returns its name and itself, or ``None``.

    Raises:
        LimbeckError: there are several.
    """
    matches = [(name, loss) for name, loss in distiller.objective.losses.items() if isinstance(loss, SimKDLoss)]
    if len(matches) > 1:
        raise LimbeckError(
            f"a student has one classifier, and each of {', '.join(name for name, _ in matches)} (SimKD) would put its "
            "teacher's behind it: keep one of them"
        )
    return matches[0] if matches else None


def deployment_model(distiller: Distiller) -> nn.Module:
    """Build the network that is measured, saved and exported.

    With SimKD it shares its weights with the student and the loss's projector, followed by a copy of the teacher's last
    ``nn.Linear``.

    Raises:
        LimbeckError: the teacher is not a module, its last layer has another width, or its classes another order.
    """
    if (source := classifier_source(distiller)) is None:
        return distiller.student
    name, loss = source
    width = _projector_width(loss)
    classifier = _find_teacher_classifier(distiller, name, loss, width)
    body = EarlyExit(distiller.student, distiller.student_feature_layers[loss.layer], loss.make_head(classifier))
    return body.train(distiller.student.training)


def _projector_width(loss: SimKDLoss) -> int:
    """Width of the teacher's features: that of the projector's last normalization."""
    assert loss.projector is not None
    return next(layer.num_features for layer in reversed(list(loss.projector)) if isinstance(layer, _BATCH_NORMS))


def _find_teacher_classifier(distiller: Distiller, name: str, loss: SimKDLoss, width: int) -> nn.Linear:
    requested, teacher_names = loss.teacher, list(distiller.teachers)
    if requested is None and len(teacher_names) > 1:
        raise LimbeckError(
            f"SimKD puts one teacher's classifier behind the student, and {name!r} has "
            f"{', '.join(teacher_names)}: name one"
        )
    teacher_name = requested or teacher_names[0]
    network = distiller.teachers[teacher_name].network
    if network is None:
        raise LimbeckError(
            f"SimKD puts the teacher's classifier behind the student, and {teacher_name!r} has no network: "
            "give an nn.Module"
        )
    if isinstance(network, TeacherAdapter) and network.mapping.class_indices is not None:
        raise LimbeckError(
            f"SimKD puts the classifier of {teacher_name!r} behind the student, and its classes are in another order "
            "than the data's: give a teacher of the same classes"
        )
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    if not layers or layers[-1].in_features != width:
        raise LimbeckError(
            f"SimKD puts the classifier of {teacher_name!r} behind features of width {width}, and its last nn.Linear "
            f"{f'takes {layers[-1].in_features}' if layers else 'is missing'}: set its layer to "
            "the last one before the classifier"
        )
    return layers[-1]


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
