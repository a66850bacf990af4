"""The contract of tasks as one call: ``check_task(MyTask(classes=10), data, network)``."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from limbeck.core.metric_spec import MetricSpec
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Loss, loss_attribute
from limbeck.core.task import DeployableTask, EvaluableTask, Task, require_deployable, require_evaluable
from limbeck.data.module import DataModule
from limbeck.distiller import Distiller
from limbeck.testing import deployable_checks
from limbeck.testing.task_case import TaskCase, is_close
from limbeck.utils.parametrizations import copy_module

__all__ = ["TASK_CHECKS", "check_task"]


def check_task(
    task: Task, data: DataModule, network: nn.Module, *, teacher: nn.Module | None = None,
    oracle: Callable[[Any], Any] | None = None, skip: Collection[str] = (),
) -> None:  # fmt: skip
    """Check the contract of tasks on a few validation samples; an ``AssertionError`` names the check that fails.

    Args:
        task: an :class:`~limbeck.core.task.EvaluableTask`; one that defines a method of
            :class:`~limbeck.core.task.DeployableTask` is checked as such.
        data: with at least four labeled validation samples.
        network: any network of the task, trained or not; it is not changed.
        teacher: another one, better of another size, which must have the same rows.
        oracle: returns what a perfect network returns for a batch, for the directions of metrics and losses; ``None``:
            they are not checked.
        skip: names in :data:`TASK_CHECKS` that do not apply.

    Raises:
        AssertionError: a check fails.
        ValueError: ``skip`` has a name that is not a check.

    >>> from limbeck.data import from_tensors
    >>> from limbeck.tasks import Classification
    >>> data = from_tensors(torch.rand(60, 1, 4, 4), torch.arange(60) % 3)
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    >>> check_task(Classification(3), data, network, oracle=lambda batch: 9.0 * torch.eye(3)[batch["target"]])
    """
    if unknown := set(skip) - set(TASK_CHECKS):
        raise ValueError(f"no check is named {sorted(unknown)}; available: {sorted(TASK_CHECKS)}")
    name, case = type(task).__name__, None
    for check_name, check in TASK_CHECKS.items():
        if check_name in skip:
            continue
        try:
            if case is None:
                evaluable = require_evaluable(task, "check_task")
                network = copy_module(network).eval()
                teacher = None if teacher is None else copy_module(teacher).eval()
                case = TaskCase(task=evaluable, data=data, network=network, teacher=teacher, oracle=oracle)
            if check_name not in deployable_checks.DEPLOYABLE_CHECKS or isinstance(task, DeployableTask):
                check(case)
        except Exception as error:
            reason = error if isinstance(error, AssertionError) else f"it raises {type(error).__name__}: {error}"
            raise AssertionError(f"{name} fails the check {check_name!r}: {reason}") from error


def _check_attributes(case: TaskCase) -> None:
    task = case.task
    if any(hasattr(task, name) for name in ("encode_outputs", "examples", "deployment_model")):
        require_deployable(task, "a cache, a report and an export")
    specs = (task.primary_metric, *task.monitored_metrics, *task.metric_specs)
    assert all(isinstance(spec, MetricSpec) for spec in specs), "each metric must be a MetricSpec"
    assert task.monitored_metrics, "monitored_metrics must have a metric, which selects the best epoch, got none"
    assert task.primary_metric in task.metric_specs, (
        f"the primary metric {task.primary_metric.name} must be one of metric_specs, got "
        f"{', '.join(spec.name for spec in task.metric_specs)}"
    )
    for group in ("metric_specs", "monitored_metrics"):
        names = [spec.name for spec in getattr(task, group)]
        assert len(set(names)) == len(names), f"{group} must have different names, got {', '.join(names)}"
    text = repr(task)
    assert " at 0x" not in text, f"repr must show the settings, since caches depend on it, got {text}: use a dataclass"
    copied = pickle.loads(pickle.dumps(task))  # noqa: S301  # pickled here
    assert repr(copied) == text, f"a pickled copy must have the same repr, got {copied!r}"
    loss = _supervised_loss(task)
    assert loss_attribute(loss, "supervised"), f"supervised_loss must have `supervised = True`, got {loss!r}"
    for group in ("input_axes", "output_axes"):
        for name, axes in getattr(task, group, {}).items():
            assert 0 in axes, (
                f"axis 0 of {name!r} in {group} must have a name, since batches differ in size, got {axes}"
            )


def _check_rows(case: TaskCase) -> None:
    training_batch = case.data.batches(batch_size=2).batch(0)
    for batch, num_samples in ((training_batch, 2), (case.batch([0]), 1), (case.batch(), case.num_samples)):
        outputs = _outputs(case, case.network, batch)
        num_rows = _count_rows(outputs, num_samples)
        target = case.task.target(batch)
        assert target is None or num_rows is None or len(target) == num_rows, (
            f"target must have an entry for each of the {num_rows} rows of outputs, got {len(target)}"
        )
        if case.teacher is not None:
            other = _outputs(case, case.teacher, batch)
            other_rows = _count_rows(other, num_samples)
            assert num_rows == other_rows, (
                f"rows must not depend on the network, got {num_rows} of the network and {other_rows} of the teacher"
            )
            owners = [None if o.row_to_sample is None else o.row_to_sample.tolist() for o in (outputs, other)]
            assert owners[0] == owners[1], "row_to_sample must not depend on the network, and the teacher's differs"


def _outputs(case: TaskCase, network: nn.Module, batch: Any) -> Outputs:
    with torch.no_grad():
        outputs = case.task.outputs(network, batch)
    assert isinstance(outputs, Outputs), f"outputs must return an Outputs, got a {type(outputs).__name__}"
    return outputs


def _count_rows(outputs: Outputs, num_samples: int) -> int | None:
    """Number of rows; ``None`` without any."""
    rows = {"logits": outputs.logits, **{f"by_row[{name!r}]": t for name, t in outputs.by_row.items()}}
    counts = {name: len(tensor) for name, tensor in rows.items() if tensor is not None}
    assert len(set(counts.values())) < 2, f"all tensors by row must have equally many rows, got {counts}"
    count, owners = next(iter(counts.values()), None), outputs.row_to_sample
    if owners is None:
        assert count in (None, num_samples), (
            f"row_to_sample must say which sample each row belongs to where they are not one to one, got none for "
            f"{count} rows of {num_samples} samples"
        )
    else:
        is_valid = len(owners) == count and (not count or 0 <= int(owners.min()) <= int(owners.max()) < num_samples)
        assert is_valid, f"row_to_sample must be [{count}] indices below {num_samples}, got {list(owners.shape)}"
    for name, tensor in outputs.by_sample.items():
        assert len(tensor) == num_samples, f"by_sample[{name!r}] must be [{num_samples}, ...], got {list(tensor.shape)}"
    return count


def _check_statistics(case: TaskCase) -> None:
    n, batch = case.num_samples, case.batch()
    scores = case.score(batch)
    for name, statistics in (("statistics of score", scores.statistics), ("monitor", case.monitor(batch))):
        is_by_sample = statistics.ndim == 2 and len(statistics) == n
        assert is_by_sample, f"{name} must be [{n}, k], a row for each sample, got {list(statistics.shape)}"
        assert statistics.dtype == torch.float64, f"{name} must be float64, got {statistics.dtype}"
        assert bool(statistics.isfinite().all()), f"{name} must be finite for samples with a target"
    assert len(scores.predictions) == n, f"score must have {n} predictions, one a sample, got {len(scores.predictions)}"
    logits = scores.logits
    assert logits is None or (logits.ndim == 2 and len(logits) == n), (
        "logits of score must be [batch, classes], or None for a task without one vector of logits a sample"
    )


def _check_batches(case: TaskCase) -> None:
    n = case.num_samples
    for _, name, statistics in case.metrics():
        whole = statistics(case.batch())
        reverse = statistics(case.batch(range(n - 1, -1, -1))).flip(0)
        assert is_close(whole, reverse), f"statistics of {name} must not depend on the order of a batch, and they do"
        parts = torch.cat([statistics(case.batch([0])), statistics(case.batch(range(1, n)))])
        assert is_close(whole, parts), (
            f"statistics of {name} must not depend on the other samples of a batch, and they do: compute nothing over "
            "the batch, and let the network ignore padding"
        )


def _check_weights(case: TaskCase) -> None:
    n = case.num_samples
    weights = torch.stack([torch.ones(n), 1 + torch.arange(n) % 2, torch.arange(n) // 2 % 2]).double()
    for spec, name, statistics in case.metrics():
        rows = statistics(case.batch())
        value, resampled = _value(case, rows, None, spec), _value(case, rows, weights, spec)
        assert value.shape == (), f"metric_value of {name} must be a scalar without weights, got {list(value.shape)}"
        assert resampled.shape == (3,), (
            f"metric_value of {name} must be [3] for weights [3, {n}], got {list(resampled.shape)}"
        )
        assert is_close(value, resampled[0]), (
            f"metric_value of {name} must be the same with weights of 1 as without, got {float(resampled[0]):g} and "
            f"{float(value):g}"
        )
        for i, text in (
            (1, "for a weight of 2 as for the sample twice"),
            (2, "for a weight of 0 as without the sample"),
        ):
            repeated = _value(case, rows.repeat_interleave(weights[i].long(), dim=0), None, spec)
            assert is_close(repeated, resampled[i]), (
                f"metric_value of {name} must be the same {text}, got {float(resampled[i]):g} and {float(repeated):g}: "
                "use weights wherever samples are counted"
            )


def _value(case: TaskCase, rows: Tensor, weights: Tensor | None, spec: MetricSpec | None) -> Tensor:
    return case.task.metric_value(rows, weights) if spec is None else case.task.metric_value(rows, weights, metric=spec)


def _check_metrics(case: TaskCase) -> None:
    whole, n, primary = _compute_metrics(case, case.batch()), case.num_samples, case.task.primary_metric
    for spec in case.task.metric_specs:
        assert spec == primary or spec.name in whole, f"metrics() must compute {spec.name!r}, got {sorted(whole)}"
    parts = _compute_metrics(case, case.batch(range(n // 3)), case.batch(range(n // 3, n)))
    for spec in case.task.metric_specs:
        if spec.name in whole:
            assert is_close(whole[spec.name], parts[spec.name]), (
                f"metrics() must compute {spec.name} of the samples, however they are batched, got "
                f"{float(whole[spec.name]):g} in one batch and {float(parts[spec.name]):g} in two"
            )
    statistics = case.score(case.batch()).statistics
    value = case.task.metric_value(statistics)
    assert primary.name not in whole or is_close(whole[primary.name], value), (
        f"metrics() and metric_value must agree on {primary.name}, got {float(whole[primary.name]):g} and "
        f"{float(value):g}"
    )
    if primary in case.task.monitored_metrics:
        monitored = case.task.metric_value(case.monitor(case.batch()), metric=primary)
        assert is_close(monitored, value), (
            f"{primary.name} must be the same from monitor as from score, got {float(monitored):g} and {float(value):g}"
        )


def _compute_metrics(case: TaskCase, *batches: Any, network: nn.Module | None = None) -> dict[str, Tensor]:
    """The metrics that ``metrics()`` computes, as scalars; NaN for ``None``."""
    metrics = case.task.metrics()
    for batch in batches:
        metrics.update(*case.score(batch, network).metric_args)
    names = {spec.name for spec in case.task.metric_specs}
    values = {name: value for name, value in metrics.compute().items() if name in names}
    return {name: torch.as_tensor(torch.nan if value is None else value).double() for name, value in values.items()}


def _check_missing_targets(case: TaskCase) -> None:
    n, batch = case.num_samples, case.batch(split=case.half_unlabeled)
    is_labeled = torch.arange(n) % 2 == 1
    for _, name, statistics in case.metrics():
        rows, expected = statistics(batch), statistics(case.batch())[is_labeled]
        assert rows[~is_labeled].isnan().all(), f"statistics of {name} must be NaN for a sample without a target"
        assert is_close(rows[is_labeled], expected), (
            f"statistics of {name} of a sample must not depend on which other samples have a target, and they do"
        )
    labeled = case.batch(range(1, n, 2))
    for name, value in _compute_metrics(case, batch).items():
        expected = _compute_metrics(case, labeled)[name]
        assert is_close(value, expected), (
            f"{name} of metrics() must leave out samples without a target, got {float(value):g} for {float(expected):g}"
        )
    loss, expected = _loss_value(case, batch), _loss_value(case, labeled)
    assert is_close(loss, expected), (
        f"supervised_loss must be the mean over the samples with a target, got {float(loss):g} for {float(expected):g}"
    )
    unlabeled = _loss_value(case, case.batch([0], split=case.half_unlabeled))
    assert bool(unlabeled.isfinite()), f"supervised_loss must be finite without any target, got {float(unlabeled)}"


def _check_supervised_loss(case: TaskCase) -> None:
    network = copy_module(case.network).requires_grad_(True)
    _distiller(case, network)(case.batch()).total.backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert any(bool((gradient != 0).any()) for gradient in gradients), "no parameter of the network has a gradient"
    assert all(bool(gradient.isfinite().all()) for gradient in gradients), "a gradient of the network is not finite"


def _check_oracle(case: TaskCase) -> None:
    if case.oracle is None:
        return
    batch = case.batch()
    perfect = _Constant(case.oracle(batch))
    loss, other_loss = _loss_value(case, batch, perfect), _loss_value(case, batch)
    assert loss < other_loss, (
        f"supervised_loss of the oracle must be below that of the network, got {float(loss):g} and "
        f"{float(other_loss):g}"
    )
    values, other_values = ({
        **_compute_metrics(case, batch, network=network),
        **{name: _value(case, statistics(batch, network), None, spec) for spec, name, statistics in case.metrics()},
    } for network in (perfect, case.network))  # fmt: skip
    for spec in dict.fromkeys((*case.task.metric_specs, *case.task.monitored_metrics)):
        value, other = float(values[spec.name]), float(other_values[spec.name])
        if other != other:  # undefined, such as top-5 accuracy of three classes
            continue
        is_better = spec.sign * (value - other) >= 0 and not (spec == case.task.primary_metric and value == other)
        assert is_better, (
            f"{spec.name} of the oracle must be better than that of the network, got {value:g} and {other:g} with "
            f"higher_is_better={spec.higher_is_better}"
        )


class _Constant(nn.Module):
    """A network that returns one value."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self._value = value

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._value


def _distiller(case: TaskCase, network: nn.Module) -> Distiller:
    return Distiller(network, objective={"target": _supervised_loss(case.task)}, task=case.task)


def _loss_value(case: TaskCase, batch: Any, network: nn.Module | None = None) -> Tensor:
    with torch.no_grad():
        total: Tensor = _distiller(case, network or case.network).eval()(batch).total
    return total


def _supervised_loss(task: EvaluableTask) -> Loss:
    from limbeck.workflows._job.stages import supervised_loss

    classes = getattr(task, "classes", None)
    facts: Mapping[str, Any] = {} if classes is None else {"classes": classes}
    return supervised_loss(task, **facts)


TASK_CHECKS: Final[dict[str, Callable[[TaskCase], None]]] = {
    "attributes": _check_attributes,
    "rows": _check_rows,
    "statistics": _check_statistics,
    "independent of batches": _check_batches,
    "weights": _check_weights,
    "metrics": _check_metrics,
    "missing targets": _check_missing_targets,
    "supervised loss": _check_supervised_loss,
    "oracle": _check_oracle,
    **deployable_checks.DEPLOYABLE_CHECKS,
}
