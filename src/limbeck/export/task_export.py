"""ONNX export (https://onnx.ai) of a network of any task, with named inputs and outputs and a parity check."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from limbeck.core.errors import LimbeckError
from limbeck.core.task import DeployableTask, ModelInputs
from limbeck.export.model_metadata import ModelMetadata
from limbeck.features import unwrap_model
from limbeck.models.onnx_graph import OPSET, export_onnx_bytes
from limbeck.teachers.backends.runtime_session import Runtime, RuntimeSession
from limbeck.utils.io import write_atomically
from limbeck.utils.logits import find_logits
from limbeck.utils.parametrizations import copy_module
from limbeck.utils.timing import measure_latency, torch_threads

__all__ = ["OnnxModule", "export_task", "get_named_inputs", "measure_prediction_agreement"]

_ROUNDING: Final = 1e-4
"""Relative and absolute tolerance of a prediction that is a number, such as a price or a box."""
_MIN_AGREEMENT: Final = 0.99
"""Of predictions, for a task whose outputs are not all compared value by value."""


def export_task(
    task: DeployableTask, model: nn.Module, batches: Sequence[Any], path: str | Path, *, tolerance: float = 1e-4,
    metadata: ModelMetadata | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes ``model`` to one ONNX file, if onnxruntime gives the outputs and predictions of torch.

    Args:
        task: names the inputs and outputs with their variable axes, and decodes predictions.
        model: what ``task.deployment_model`` returns; a copy of it is exported, on the CPU in eval mode.
        batches: validation batches before normalization: the last has at least two samples; give batches of several
            sizes, since a file that works for one size only must not pass.
        path: the ``.onnx`` file; an existing file is unchanged if the check fails.
        tolerance: largest allowed difference of a value, relative to the largest value of that output where that is
            above 1.
        metadata: class names and further facts, for the metadata of the file.

    Returns:
        The entry of the record: ``file``, ``bytes``, ``opset``, ``max_abs_difference`` (of any output),
        ``label_agreement`` (the fraction of samples with equal predictions), ``num_samples``, ``tolerance``, and
        ``latency_ms`` of onnxruntime on the CPU, for one sample with one thread.

    Raises:
        LimbeckError: the network cannot be exported, or its outputs in onnxruntime differ.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise LimbeckError(f"path must be a file that ends in .onnx, got {path.name!r}")
    if not batches:
        raise LimbeckError("export needs at least one validation batch to compare on, got none")
    module = copy_module(unwrap_model(model)).cpu().eval()
    inputs = [task.model_inputs(batch) for batch in batches]
    tensors = [get_named_inputs(task, example) for example in inputs]
    network = _PositionalModule(module, inputs[-1], tuple(task.input_axes), tuple(task.output_axes)).eval()
    content = export_onnx_bytes(
        network, tuple(tensors[-1].values()), name=type(module).__name__,
        input_axes=task.input_axes, output_names=tuple(task.output_axes),
        metadata={} if metadata is None else metadata.to_props(),
    )  # fmt: skip
    exported = OnnxModule(content, task, name=path.name)
    difference = max(
        _compare_outputs(
            network,
            exported,
            example,
            tolerance=tolerance,
            name=path.name,
            outputs=getattr(task, "compared_outputs", tuple(task.output_axes)),
        )
        for example in tensors
    )
    agreement, num_samples = _compare_predictions(task, module, exported, batches)
    if getattr(task, "compared_outputs", None) is not None and agreement < _MIN_AGREEMENT:
        raise LimbeckError(
            f"{path.name} is not written, since onnxruntime does not match torch: {100 * agreement:.1f} % of the "
            f"predictions agree, and {100 * _MIN_AGREEMENT:.0f} % must: look for a branch on values in its forward"
        )
    sample = {name: tensor[:1] for name, tensor in tensors[0].items()}
    latency = measure_latency(lambda: exported.run(sample))
    write_atomically(path, lambda partial: partial.write_bytes(content))
    return {
        "file": path.name, "bytes": len(content), "opset": OPSET, "max_abs_difference": difference,
        "label_agreement": agreement, "num_samples": num_samples, "tolerance": tolerance, "latency_ms": latency,
    }  # fmt: skip


@final
class OnnxModule(nn.Module):
    """An exported file as a module, which ``task.score`` calls as the network; inputs are those before normalization.

    Args:
        model: the bytes of the file, or its path.
        task: names inputs and outputs.
        name: name of the model in error messages.
        runtime: ``onnxruntime`` or ``openvino``, with one thread.
    """

    is_deployed = True
    """A task scores it by one pass over the input, whatever averaging it validates networks with."""

    def __init__(
        self, model: bytes | str, task: DeployableTask, *, name: str, runtime: Runtime = "onnxruntime"
    ) -> None:
        super().__init__()
        self._input_names = tuple(task.input_axes)
        with torch_threads(1):
            self._session = RuntimeSession(model, runtime=runtime, name=name)
        if sorted(self._session.output_names) != sorted(task.output_axes):
            raise LimbeckError(
                f"{name} must have the outputs {', '.join(task.output_axes)} of {type(task).__name__}, got "
                f"{', '.join(self._session.output_names)}"
            )

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor | dict[str, Tensor]:
        """The output, or the outputs by name where there are several."""
        outputs = self.run({**dict(zip(self._input_names, args, strict=False)), **kwargs})
        return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by name."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in inputs.items()}
        return {name: torch.from_numpy(output) for name, output in self._session(**arrays).items()}


@final
class _PositionalModule(nn.Module):
    """A module with its inputs in the order of ``input_names``, which returns a tuple in the order of the outputs."""

    def __init__(
        self, module: nn.Module, inputs: ModelInputs, input_names: tuple[str, ...], output_names: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.module, self.num_args = module, len(inputs.args)
        self.input_names, self.output_names = input_names, output_names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs."""
        kwargs = dict(zip(self.input_names[self.num_args :], inputs[self.num_args :], strict=True))
        output = self.module(*inputs[: self.num_args], **kwargs)
        if len(self.output_names) == 1 and (logits := find_logits(output)) is not None:
            return (logits,)
        outputs = [output[name] for name in self.output_names] if isinstance(output, Mapping) else tree_leaves(output)
        if len(outputs) != len(self.output_names):
            raise LimbeckError(
                f"{type(self.module).__name__} must return {', '.join(self.output_names)}, got {len(outputs)} tensors; "
                "output_axes of the task names each output"
            )
        return tuple(outputs)


def get_named_inputs(task: DeployableTask, inputs: ModelInputs) -> dict[str, Tensor]:
    """The tensors of ``inputs`` by their names in ``task.input_axes``, on the CPU."""
    names = tuple(task.input_axes)
    tensors = {**dict(zip(names, inputs.args, strict=False)), **inputs.kwargs}
    if set(tensors) != set(names) or len(inputs.args) + len(inputs.kwargs) != len(names):
        raise LimbeckError(
            f"input_axes of {type(task).__name__} must name each tensor of model_inputs, got {', '.join(names)} for "
            f"{len(inputs.args)} positional inputs and {', '.join(inputs.kwargs) or 'no keywords'}"
        )
    return {name: tensors[name].detach().cpu() for name in names}


def _compare_outputs(
    network: nn.Module, exported: OnnxModule, inputs: Mapping[str, Tensor], *, tolerance: float, name: str,
    outputs: Sequence[str],
) -> float:  # fmt: skip
    """The largest difference of a value of ``outputs``, within the tolerance of its output, or an error."""
    with torch.no_grad():
        expected = network(*inputs.values())
    largest = 0.0
    for (output, actual), reference in zip(exported.run(inputs).items(), expected, strict=True):
        if not bool(reference.isfinite().all()):
            raise LimbeckError(f"{output} of the network must be finite for an export; train it again")
        if actual.shape != reference.shape:
            raise LimbeckError(
                f"{name} is not written: {output} of onnxruntime is {list(actual.shape)}, of torch "
                f"{list(reference.shape)}"
            )
        if not reference.numel() or output not in outputs:
            continue
        allowed = tolerance * max(1.0, float(reference.abs().max()))
        difference = float((actual.double() - reference.double()).abs().max())
        if not difference <= allowed:  # so written, NaN fails too
            raise LimbeckError(
                f"{name} is not written, since onnxruntime does not match torch: {output} differs by {difference:.3g} "
                f"({allowed:.3g} is allowed); look for randomness or a branch on values in the network's forward"
            )
        largest = max(largest, difference)
    return largest


def _compare_predictions(
    task: DeployableTask, module: nn.Module, exported: OnnxModule, batches: Sequence[Any]
) -> tuple[float, int]:
    """:func:`measure_prediction_agreement`, and the number of samples."""
    with torch.no_grad():
        expected, actual = (
            [prediction for batch in batches for prediction in task.score(network, batch).predictions]
            for network in (module, exported)
        )
    return measure_prediction_agreement(expected, actual), len(expected)


def measure_prediction_agreement(expected: Sequence[Any], actual: Sequence[Any]) -> float:
    """The fraction of samples with equal predictions; of tensors, such as masks, the mean fraction of equal values.

    Floating-point values, such as boxes, are equal to rounding.

    >>> measure_prediction_agreement([3, 1], [3, 2])
    0.5
    >>> measure_prediction_agreement([torch.tensor([1, 2])], [torch.tensor([1, 3])])
    0.5
    """
    return sum(map(_equal_fraction, expected, actual)) / max(len(expected), 1)


def _equal_fraction(expected: Any, actual: Any) -> float:
    expected_leaves, actual_leaves = tree_leaves(expected), tree_leaves(actual)
    if len(expected_leaves) != len(actual_leaves):
        return 0.0
    return min(map(_leaf_fraction, expected_leaves, actual_leaves), default=1.0)


def _leaf_fraction(expected: Any, actual: Any) -> float:
    if isinstance(expected, float) and isinstance(actual, float):
        return float(math.isclose(expected, actual, rel_tol=_ROUNDING, abs_tol=_ROUNDING))
    if not isinstance(expected, Tensor):
        return float(expected == actual)
    if expected.shape != actual.shape:
        return 0.0
    is_equal = expected == actual
    if expected.is_floating_point():
        is_equal = torch.isclose(expected, actual, rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True)
    return float(is_equal.double().mean()) if expected.numel() else 1.0
