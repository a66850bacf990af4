"""An objective: a named, weighted sum of losses, printed as a formula."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, Self, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.loss_context import LossContext
from limbeck.core.protocols import Loss, Preparable, loss_attribute
from limbeck.core.schedules import Schedule, resolve
from limbeck.distiller.function_loss import LossLike, as_loss
from limbeck.distiller.gather_context import gather_context
from limbeck.losses.temperature import TemperatureRecord
from limbeck.losses.weighting import LossWeighting


class LossOutput(NamedTuple):
    """The loss of one batch.

    Attributes:
        total: the scalar to call ``backward`` on.
        by_loss: weighted losses without gradients; they sum to ``total``.
        weights: weight of each loss; a tensor if a loss weighting adapts it.
        logits: detached logits of the student ``[rows, classes]``, or ``None``.
        target: target of the rows, or ``None``.
        by_loss_with_grad: ``by_loss`` with gradients.
        temperatures: temperatures used, by loss.
        teacher_entropy: normalized entropy of the teacher at these temperatures, if ``collect_diagnostics``.
    """

    total: Tensor
    by_loss: dict[str, Tensor]
    weights: dict[str, float | Tensor]
    logits: Tensor | None = None
    target: Tensor | None = None
    by_loss_with_grad: Mapping[str, Tensor] = {}
    temperatures: Mapping[str, Sequence[float | Tensor]] = {}
    teacher_entropy: Mapping[str, Sequence[Tensor]] = {}

    def __repr__(self) -> str:
        terms = "".join(f", {name}={float(value):.4g}" for name, value in self.by_loss.items())
        return f"LossOutput(total={float(self.total.detach()):.4g}{terms})"


@final
class Objective(nn.Module):
    """Σ weight · loss.

    Args:
        losses: by name; a callable from a context to a scalar, an ``nn.Module`` if it has parameters or buffers; or a
            function of the logits of student and teacher (:class:`~limbeck.distiller.function_loss.FunctionLoss`).
        weights: a number or a schedule by loss, 1 by default; or a loss weighting.
        gather_distributed: names of losses that get the context of all processes
            (:func:`~limbeck.distiller.gather_context`): those that relate samples, or average over some rows only.
        loss_weighting: adapts the weights during training, see :mod:`limbeck.losses.weighting`.

    ``trainable`` holds losses and temperatures with state, which are trained, moved and saved with the objective.
    ``collect_diagnostics`` turns on ``LossOutput.teacher_entropy``, which is too expensive for every step.

    >>> from limbeck.losses import CrossEntropyLoss, KDLoss
    >>> print(Objective({"target": CrossEntropyLoss(), "kd": KDLoss(temperature=4.0)}, {"target": 0.1, "kd": 0.9}))
    0.1·target + 0.9·kd, with target = CrossEntropyLoss(label_smoothing=0.0), kd = KDLoss(temperature=4.0, teacher=None)
    """

    def __init__(
        self, losses: Mapping[str, LossLike], weights: Mapping[str, float | Schedule] | LossWeighting | None = None, *,
        gather_distributed: Collection[str] = (), loss_weighting: LossWeighting | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if weights is not None and not isinstance(weights, Mapping):
            if loss_weighting is not None:
                raise LimbeckError(f"two loss weightings were given: weights={weights!r} and {loss_weighting!r}")
            weights, loss_weighting = None, weights
        if not losses:
            raise LimbeckError("an objective needs at least one loss, such as {'kd': KDLoss()}")
        for argument, names in (("weights", weights or {}), ("gather_distributed", gather_distributed)):
            for name in names:
                if name not in losses:
                    raise LimbeckError(
                        f"{argument} names {name!r}, which is no loss; the losses are: {suggest_names(name, losses)}"
                    )
        self.losses: dict[str, Loss] = {name: as_loss(name, loss) for name, loss in losses.items()}
        for name, loss in self.losses.items():
            if trainable_modules(loss) and (not name or "." in name or hasattr(nn.ModuleDict(), name)):
                raise LimbeckError(f"a loss with state cannot be called {name!r}, which PyTorch reserves: rename it")
        self.gather_distributed = tuple(name for name in losses if name in gather_distributed)
        for name, weight in (weights or {}).items():
            if not callable(weight) and not hasattr(weight, "__float__"):
                raise LimbeckError(f"the weight of the loss {name!r} must be a number or a schedule, got {weight!r}")
        self.weights: dict[str, float | Schedule] = {name: (weights or {}).get(name, 1.0) for name in losses}
        self.trainable = nn.ModuleDict(
            {name: module for name, loss in self.losses.items() for module in trainable_modules(loss)[:1]}
        )
        self.loss_weighting = loss_weighting
        if loss_weighting is not None:
            loss_weighting.register_losses(list(losses))
        self.collect_diagnostics = False
        self._is_prepared = not self._unprepared()
        _require_separate_state(self.losses)
        self._previous_state: dict[str, dict[str, Tensor]] = {}

    @property
    def is_prepared(self) -> bool:
        """Whether the projections of all losses are built."""
        return self._is_prepared

    def prepare(self, context: LossContext) -> None:
        """Build the projections of the losses for the shapes in ``context``, once."""
        if not self._is_prepared:
            for module in self._unprepared():
                module.prepare(context)
            self._is_prepared = True
            self._restore_previous()

    def load_previous(self, previous: Objective) -> Self:
        """Load the state of losses, temperatures and loss weighting from the objective of the previous stage.

        A loss is loaded if name, class, settings (``extra_repr``) and shapes are equal; a loss weighting if its
        settings and all loss names are equal.

        >>> first, second = (Objective({"fit": nn.Linear(2, 1)}) for _ in range(2))
        >>> torch.equal(first.losses["fit"].weight, second.load_previous(first).losses["fit"].weight)
        True
        """
        previous_modules = dict(previous.trainable.items())
        for name, module in self.trainable.items():
            previous_module = previous_modules.get(name)
            if previous_module is not None and _settings(previous_module) == _settings(module):
                self._previous_state[name] = {
                    key: t.detach().clone() for key, t in previous_module.state_dict().items()
                }
        weightings: list[Any] = [self.loss_weighting, previous.loss_weighting]
        if list(self.losses) == list(previous.losses) and repr(weightings[0]) == repr(weightings[1]) != repr(None):
            weightings[0].load_state_dict(weightings[1].state_dict())
        if self._is_prepared:
            self._restore_previous()
        return self

    def _unprepared(self) -> list[Preparable]:
        """Losses and temperatures that are built by the first context."""
        modules = {id(module): module for loss in self.losses.values() for module in (loss, *trainable_modules(loss))}
        return [module for module in modules.values() if isinstance(module, Preparable)]

    def _restore_previous(self) -> None:
        for name, state in self._previous_state.items():
            current = self.trainable[name].state_dict()
            if {key: tensor.shape for key, tensor in current.items()} == {key: t.shape for key, t in state.items()}:
                self.trainable[name].load_state_dict(state)
        self._previous_state = {}

    def forward(self, context: LossContext) -> LossOutput:
        """Compute the weighted sum without autocast: losses are computed in float32."""
        device = next((tensor.device.type for tensor in context.student.tensors()), "cpu")
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            values, temperatures, teacher_entropy = self._compute_losses(context)
            base_weights = {name: resolve(weight, context.progress) for name, weight in self.weights.items()}
            weights: dict[str, float | Tensor] = {**base_weights}
            if self.loss_weighting is None:
                # A multiplication by 1 is left out, since each operation counts in a step of a small network.
                weighted = {
                    name: value if base_weights[name] == 1.0 else base_weights[name] * value
                    for name, value in values.items()
                }
            else:
                weighted, factors = self.loss_weighting(values, base_weights)
                weights = {name: weight * factors[i] for i, (name, weight) in enumerate(base_weights.items())}
            total = functools.reduce(operator.add, weighted.values())
        logits = context.student.logits
        return LossOutput(
            total, {name: value.detach() for name, value in weighted.items()}, weights,
            None if logits is None else logits.detach(), context.target, weighted, temperatures, teacher_entropy,
        )  # fmt: skip

    def _compute_losses(
        self, context: LossContext
    ) -> tuple[dict[str, Tensor], dict[str, Sequence[float | Tensor]], dict[str, Sequence[Tensor]]]:
        """The value of each loss, its temperatures, and the teacher entropy there with ``collect_diagnostics``."""
        gathered = gather_context(context) if self.gather_distributed else context
        values: dict[str, Tensor] = {}
        temperatures: dict[str, Sequence[float | Tensor]] = {}
        teacher_entropy: dict[str, Sequence[Tensor]] = {}
        for name, loss in self.losses.items():
            # Of a head with sigmoids, a softmax has no meaning, and with one class none exists.
            has_softmax = loss_attribute(loss, "uses_softmax") or not loss_attribute(loss, "uses_temperature")
            record = TemperatureRecord(with_entropy=self.collect_diagnostics and has_softmax)
            loss_context = gathered if name in self.gather_distributed else context
            try:
                values[name] = value = loss(replace(loss_context, temperature_record=record))
            except Exception as error:
                error.add_note(f"raised by the loss {name!r}")
                raise
            if not isinstance(value, Tensor) or value.ndim:
                got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise LimbeckError(f"the loss {name!r} must return a scalar tensor, got {got}")
            if record.temperatures:
                temperatures[name] = tuple(record.temperatures)
            if record.teacher_entropy:
                teacher_entropy[name] = record.teacher_entropy
        return values, temperatures, teacher_entropy

    @property
    def formula(self) -> str:
        """The sum without the settings of the losses: ``0.1·target + 0.9·kd``."""
        return " + ".join(
            f"{weight:g}·{name}" if not callable(weight) else f"({weight})·{name}"
            for name, weight in self.weights.items()
        )

    def __repr__(self) -> str:
        return f"Objective({self.formula})"

    def __str__(self) -> str:
        gathered_text = f"; gathered: {', '.join(self.gather_distributed)}" if self.gather_distributed else ""
        weighting_text = f"; balanced by {self.loss_weighting!r}" if self.loss_weighting is not None else ""
        losses_text = ", ".join(f"{name} = {loss!r}" for name, loss in self.losses.items())
        return f"{self.formula}, with {losses_text}{gathered_text}{weighting_text}"


def name_losses(objective: Mapping[str, LossLike] | LossLike) -> Mapping[str, LossLike]:
    """``objective``, or a single loss by its name: that of its class in lower case, without ``Loss``.

    >>> from limbeck.losses import CrossEntropyLoss, KDLoss
    >>> list(name_losses(KDLoss())), list(name_losses(CrossEntropyLoss()))
    (['kd'], ['cross_entropy'])
    """
    if isinstance(objective, Mapping):
        return objective
    if isinstance(objective, type) or not callable(objective):
        raise LimbeckError(
            "objective must be a loss such as KDLoss(), losses by name such as {'kd': KDLoss()}, or an Objective, got "
            f"{objective!r}"
        )
    name = getattr(objective, "__name__", type(objective).__name__).removesuffix("Loss")
    name = name if name.isidentifier() else "loss"  # a lambda
    return {re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower(): objective}


def trainable_modules(loss: Loss) -> list[nn.Module]:
    """The loss and its temperature, those that are an ``nn.Module``; the first holds the others.

    >>> from limbeck.losses.temperature import LossAdaptive
    >>> from limbeck.losses import KDLoss
    >>> trainable_modules(KDLoss()), trainable_modules(KDLoss(temperature=LossAdaptive()))
    ([], [LossAdaptive(start=4.0, low=3.0, high=6.0, rate=0.01, margin=0.02)])
    """
    return [module for module in (loss, getattr(loss, "temperature", None)) if isinstance(module, nn.Module)]


def _settings(module: nn.Module) -> tuple[type, str]:
    return type(module), module.extra_repr()


def _require_separate_state(losses: Mapping[str, Loss]) -> None:
    """Raise an error for losses that share a module, which both would update."""
    owners: dict[int, str] = {}
    for name, loss in losses.items():
        for module in trainable_modules(loss):
            if (owner_name := owners.setdefault(id(module), name)) != name:
                raise LimbeckError(
                    f"the losses {owner_name!r} and {name!r} share one {type(module).__name__}, which has state: use "
                    "one for each"
                )
