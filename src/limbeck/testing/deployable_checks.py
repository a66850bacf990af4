"""The checks of :func:`limbeck.testing.check_task` for a task whose outputs are cached, shown and exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from limbeck.core.outputs import Outputs
from limbeck.core.task import DeployableTask, Example, ModelInputs, Panel
from limbeck.data.split import UNLABELED
from limbeck.teachers.cache.cache_config import CacheConfig
from limbeck.teachers.cache.codec import decode_outputs, encode_outputs
from limbeck.teachers.cache.indexing import InputChecksums
from limbeck.teachers.cache.layout import RecordLayout
from limbeck.testing.task_case import TaskCase, is_close, same_leaves
from limbeck.utils.eval_mode import eval_mode

__all__ = ["DEPLOYABLE_CHECKS"]


def _task(case: TaskCase) -> DeployableTask:
    return cast(DeployableTask, case.task)


def _check_model_inputs(case: TaskCase) -> None:
    task, batch = _task(case), case.batch()
    inputs, recorder = task.model_inputs(batch), _CallRecorder(case.network)
    assert isinstance(inputs, ModelInputs), f"model_inputs must return ModelInputs, got a {type(inputs).__name__}"
    with torch.no_grad():
        task.outputs(recorder, batch)
    assert recorder.calls, "outputs must call the network it is given"
    args, kwargs = recorder.calls[0]
    args = args[: len(inputs.args)]  # a network that is trained may get further arguments, such as its targets
    kwargs = {name: value for name, value in kwargs.items() if name in inputs.kwargs}
    assert same_leaves([list(inputs.args), dict(inputs.kwargs)], [list(args), kwargs]), (
        "model_inputs must be how outputs calls the network, and they differ"
    )
    names = [*list(task.input_axes)[: len(inputs.args)], *inputs.kwargs]
    num_inputs = len(inputs.args) + len(inputs.kwargs)
    has_names = len(names) == num_inputs and set(names) == set(task.input_axes)
    assert has_names, f"input_axes must name each of the {num_inputs} inputs, got {', '.join(task.input_axes)}"


def _check_cache(case: TaskCase) -> None:
    task, n = _task(case), case.num_samples
    tensors, outputs = _encode(case, case.batch())
    unlabeled = replace(case.split, target=torch.full_like(case.split.target, UNLABELED))
    without_targets, _ = _encode(case, case.batch(split=unlabeled))
    assert same_leaves(tensors, without_targets), (
        "encode_outputs must not depend on targets, and it does: store whole maps, and select rows in decode_outputs"
    )
    layout = RecordLayout.from_tensors(tensors, CacheConfig(dtype="float32"))
    records, checksums = layout.pack(tensors), _input_checksums(case, list(range(n)))
    for indices in (list(range(n)), [n - 1, 0], *([index] for index in range(n))):
        batch = case.batch(indices)
        assert _input_checksums(case, indices).match(checksums.values[indices]).all(), (
            "inputs of a sample must be the same in each batch apart from padding, and are not: give the padding as "
            "masks of ModelInputs"
        )
        with eval_mode(case.network):
            expected = outputs if len(indices) == n else task.outputs(case.network, batch)
        stored = layout.unpack(records.select(torch.tensor(indices).numpy()))
        _compare_outputs(decode_outputs(stored, batch, task), expected, num_samples=len(indices))


def _input_checksums(case: TaskCase, indices: list[int]) -> InputChecksums:
    batch = case.batch(indices)
    return InputChecksums(_task(case).model_inputs(batch), batch)


def _encode(case: TaskCase, batch: Any) -> tuple[dict[str, Tensor], Outputs]:
    with eval_mode(case.network):
        outputs = case.task.outputs(case.network, batch)
    return encode_outputs(outputs, batch, _task(case), batch_size=case.num_samples), outputs


def _compare_outputs(decoded: Outputs, expected: Outputs, *, num_samples: int) -> None:
    text = f"decode_outputs must give the outputs of a batch of {num_samples} again, and its"
    for name in ("logits", "spatial_logits", "embedding", "row_to_sample"):
        first, second = getattr(decoded, name), getattr(expected, name)
        is_equal = first is None if second is None else first is not None and is_close(first, second)
        assert is_equal, f"{text} {name} differ{'' if name.endswith('logits') else 's'}"
    for group in ("by_row", "by_sample"):
        missing = getattr(expected, group).keys() - getattr(decoded, group).keys()
        assert not missing, f"{text} {group} has no {sorted(missing)[0]!r}"


def _check_examples(case: TaskCase) -> None:
    task, batch = _task(case), case.batch()
    facts: dict[str, Any] = {"class_names": list(case.data.class_names)} if case.data.class_names else {}
    scores = {"student": case.score(batch), "teacher": case.score(batch)}
    for split in (case.split, case.half_unlabeled):
        raw = case.batch(split=split, raw=True)
        examples = list(task.examples(raw, scores, {**facts, **case.data.facts}))
        assert all(isinstance(example, Example) for example in examples), "examples must return Example objects"
        ids = [example.sample_id for example in examples]
        assert ids == split.sample_ids.tolist(), (
            f"examples must have one Example for each sample with its sample_id, got {ids} for "
            f"{split.sample_ids.tolist()}"
        )
        for example in examples:
            names = list(example.predictions)
            assert names == list(scores), f"an Example must have a prediction of each network, got {names}"
            _check_panels({"input": example.input, "target": example.target, **example.predictions})


def _check_panels(panels: Mapping[str, Panel]) -> None:
    for name, panel in panels.items():
        assert isinstance(panel, Panel), f"{name} of an Example must be a Panel, got a {type(panel).__name__}"
        assert isinstance(panel.text, str), f"the text of {name} must be a str, got a {type(panel.text).__name__}"
        assert panel.text or panel.image, f"{name} of an Example must have a text or an image, got neither"
        assert not panel.image or panel.image.startswith(b"\x89PNG"), f"the image of {name} must be PNG bytes"


def _check_deployment_model(case: TaskCase) -> None:
    task, raw = _task(case), case.batch(raw=True)
    model, inputs = task.deployment_model(case.network, case.data).eval(), task.model_inputs(raw)
    with torch.no_grad():
        outputs = tree_leaves(model(*inputs.args, **inputs.kwargs))
    are_tensors = len(outputs) == len(task.output_axes) and all(isinstance(output, Tensor) for output in outputs)
    assert are_tensors, (
        f"deployment_model must return {', '.join(task.output_axes)} as output_axes says, got {len(outputs)} outputs"
    )
    expected, actual = case.score(case.batch()).statistics, case.score(raw, model).statistics
    assert is_close(actual, expected), (
        "deployment_model must give, for inputs before normalization, the predictions of the network for normalized "
        "ones, and it gives others: include the normalization of the data"
    )


class _CallRecorder(nn.Module):
    """Records how a network is called."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((args, kwargs))
        return self.network(*args, **kwargs)


DEPLOYABLE_CHECKS: Final[dict[str, Callable[[TaskCase], None]]] = {
    "model inputs": _check_model_inputs,
    "cache": _check_cache,
    "examples": _check_examples,
    "deployment model": _check_deployment_model,
}
