"""Networks to deploy: the student, the student's body with the teacher's classifier (SimKD), and early exits (BYOT).

SimKD (Chen et al., CVPR 2022, https://arxiv.org/abs/2203.14001) trains no classifier: at inference, the student's
features go through its projector and the teacher's classifier. BYOT (Zhang et al., ICCV 2019,
https://arxiv.org/abs/1905.08094) trains classifiers on hidden layers; the layers after an exit do not run.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import loss_attribute
from limbeck.distiller.distiller import Distiller
from limbeck.features import parse_layer
from limbeck.teachers.adapter import TeacherAdapter


def classifier_source(distiller: Distiller) -> tuple[str, Any] | None:
    """The loss that replaces the student's classifier, and its name; ``None`` where there is none.

    Raises:
        LimbeckError: there are several.
    """
    matches = [
        (name, loss) for name, loss in distiller.objective.losses.items() if loss_attribute(loss, "replaces_classifier")
    ]
    if len(matches) > 1:
        raise LimbeckError(
            f"a student has one classifier, and {', '.join(name for name, _ in matches)} each replace it: keep one of "
            "them"
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
    head = loss.make_head(_find_teacher_classifier(distiller, name, loss))
    body = EarlyExit(distiller.student, distiller.student_feature_layers[loss.layer], head)
    return body.train(distiller.student.training)


def early_exits(distiller: Distiller) -> dict[str, nn.Module]:
    """Build the early exits of a distiller by feature name, from shallow to deep; empty without a ``BYOTLoss``.

    They share their weights with the student and the heads.
    """
    losses: list[Any] = [loss for loss in distiller.objective.losses.values() if loss_attribute(loss, "has_exits")]
    return {
        name: EarlyExit(distiller.student, distiller.student_feature_layers[name], loss.head(name)).eval()
        for loss in losses
        for name in loss.layers
    }


@final
class EarlyExit(nn.Module):
    """A network up to a layer, followed by a head; returns logits ``[batch, classes]``.

    Args:
        network: the full network; modules after the layer do not run.
        layer: ``layer2``, or ``layer2:input``.
        head: maps the features to logits, or to a tuple that begins with them.
    """

    def __init__(self, network: nn.Module, layer: str, head: nn.Module) -> None:
        super().__init__()
        self.network, self.head, self.layer = network, head, parse_layer(layer)
        if self.layer.call_index is not None:
            raise LimbeckError(
                f"the layer of an early exit must not count calls, got {layer!r}: use a module that runs once"
            )

    def forward(self, *inputs: Any) -> Tensor:
        """The logits at the exit."""
        output = self.head(self._forward_features(*inputs))
        logits: Tensor = output[0] if isinstance(output, tuple) else output
        return logits

    def _forward_features(self, *inputs: Any) -> Tensor:
        module, stop = self.network.get_submodule(self.layer.path), _StopForward()

        def stop_forward(_: nn.Module, *hook_args: Any) -> None:
            args, kwargs, *output = hook_args
            is_output = self.layer.side == "output"
            stop.features = self.layer.select(output[0]) if is_output else self.layer.select_input(args, kwargs)
            # An exception from a hook stops any network. An exporter tracks the modules it is in and removes unused
            # operations itself.
            if not torch.compiler.is_exporting():
                raise stop

        is_input = self.layer.side == "input"
        register = module.register_forward_pre_hook if is_input else module.register_forward_hook
        hook = register(stop_forward, with_kwargs=True)
        try:
            self.network(*inputs)
        except _StopForward as error:
            if error is not stop:
                raise
        finally:
            hook.remove()
        if stop.features is None:
            raise LimbeckError(f"the forward pass did not reach {self.layer.path!r}, the layer of the early exit")
        return stop.features


class _StopForward(Exception):
    """The forward pass reached the layer; holds its features."""

    features: Tensor | None = None


def _find_teacher_classifier(distiller: Distiller, name: str, loss: Any) -> nn.Linear:
    """The last ``nn.Linear`` of the teacher of ``loss``, for features of the width ``loss.out_channels``."""
    if loss.teacher is None and len(distiller.teachers) > 1:
        raise LimbeckError(
            f"{name!r} (SimKD) uses the classifier of one teacher, and there are {', '.join(distiller.teachers)}: set "
            "its teacher"
        )
    teacher_name = loss.teacher or next(iter(distiller.teachers))
    network = distiller.teachers[teacher_name].network
    if network is None:
        raise LimbeckError(f"SimKD uses the classifier of {teacher_name!r}, which has no network: use an nn.Module")
    if isinstance(network, TeacherAdapter) and network.mapping.class_indices is not None:
        raise LimbeckError(
            f"SimKD uses the classifier of {teacher_name!r}, whose classes are in another order than the data's: use a "
            "teacher of the same classes"
        )
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    if not layers or layers[-1].in_features != loss.out_channels:
        width = layers[-1].in_features if layers else "none"
        raise LimbeckError(
            f"the last nn.Linear of {teacher_name!r} must take the {loss.out_channels} channels of the features of "
            f"SimKD, got {width}: set the layer of the loss to the last one before the classifier"
        )
    return layers[-1]
