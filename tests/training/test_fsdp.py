"""A student in shares trains as a whole one does, ends whole, and both go on after a stop with the same bits."""

import importlib.util
from pathlib import Path

import pytest
import torch

from limbeck.training import make_single_device_fabric

SCRIPT = Path(__file__).with_name("fsdp_runner.py")


@pytest.fixture(scope="module")
def trainings():
    spec = importlib.util.spec_from_file_location("fsdp_runner", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def out(ranks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shares")
    run = ranks(SCRIPT, folder)
    assert run.wait() == [0, 0], run.output()
    return folder


@pytest.fixture(scope="module")
def results(out):
    return torch.load(out / "results.pt", weights_only=True)


def farthest(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(float((tensor.float() - theirs[name].float()).abs().max()) for name, tensor in ours.items())


def test_each_process_holds_a_share_of_every_weight(results):
    assert results["seen"]["all"] / 2 <= results["seen"]["own"] < 0.55 * results["seen"]["all"]


def test_a_student_in_shares_equals_a_whole_one_with_the_doubled_batch(results, trainings):
    one = trainings.train(trainings.distiller(), make_single_device_fabric(), None)
    assert any("projection" in name for name in one["weights"])
    assert farthest(one["weights"], results["fsdp"][0]["weights"]) < 1e-4
    assert one["loss"] == pytest.approx(results["fsdp"][0]["loss"], rel=1e-5)
    assert one["nll"] == pytest.approx(results["fsdp"][0]["nll"], rel=1e-5)


def test_the_best_epoch_of_a_student_in_shares_is_kept(results, trainings):
    one = trainings.train(trainings.distiller(), make_single_device_fabric(), None, keep_weights="best")
    assert farthest(one["weights"], results["best"]["weights"]) < 1e-4


@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_stopped_and_gone_on_with_it_ends_with_the_same_bits(results, strategy):
    """Under ddp with dropout, BatchNorm and averaged weights: each process has random states of its own."""
    whole, resumed = results[strategy]
    assert all(torch.equal(tensor, resumed["weights"][name]) for name, tensor in whole["weights"].items())


@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_all_processes_end_with_the_same_student(results, strategy):
    """Includes BatchNorm statistics, which each process computes from its images during training."""
    first, second = (weights[strategy] for weights in results["every"])
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_checkpoint_of_shares_is_whole(out, results, trainings):
    state = torch.load(out / "fsdp" / "whole" / "checkpoint" / "sharded.distill.pt", weights_only=True)
    student = trainings.distiller().student
    student.load_state_dict(state["student"])
    weights = results["fsdp"][0]["weights"]
    assert all(torch.equal(tensor, weights[f"student.{name}"]) for name, tensor in student.state_dict().items())
    moments = next(iter(state["optimizer"]["state"].values()))["exp_avg"]
    assert type(moments) is torch.Tensor


def test_weights_in_16_bits_and_groups_are_resumed_and_come_back_in_float32(results):
    whole, resumed = results["half"]
    assert {tensor.dtype for tensor in whole["weights"].values() if tensor.is_floating_point()} == {torch.float32}
    assert all(torch.equal(whole["weights"][name], tensor) for name, tensor in resumed["weights"].items())
    for tensor in whole["weights"].values():
        assert torch.equal(tensor.to(torch.bfloat16).to(tensor.dtype), tensor)


POISON = """
import runpy
import torch
import limbeck
from limbeck.training import make_fabric
runner, fabric, seen = runpy.run_path({script!r}), make_fabric(), []
def poison(context):
    seen.append(1)
    bad = fabric.global_rank == 1 and len(seen) == 14
    return context.student.require_logits().sum() * (float("nan") if bad else 0.0)
made = runner["distiller"]()
made.objective = limbeck.Objective(dict(truth=limbeck.losses.CrossEntropyLoss(), bad=poison))
try:
    runner["train"](made, fabric, None)
except limbeck.LimbeckError as error:
    print(type(error).__name__, error)
"""


def test_a_loss_that_is_not_finite_in_one_process_stops_all_and_tells_where_it_began(ranks, tmp_path):
    """The 14th batch of the second process, of two batches a step, after an epoch of 4: it belongs to step 6.

    Its gradient reaches the weights of all, so that the losses of the first are not finite a step later.
    """
    script = tmp_path / "poison.py"
    script.write_text(POISON.format(script=str(SCRIPT)))
    run = ranks(script)
    assert run.wait() == [0, 0], run.output()
    where = "the loss is not finite at step 6: the loss 'bad' (function) is; there is no checkpoint yet"
    assert run.output()[1].startswith(f"TrainingDiverged {where}")
    assert run.output()[0].startswith(f"RemoteProcessError process 1 of this run ended: {where}")


WRONG = """
import runpy
import limbeck
from torch import nn
from limbeck.training import init_processes
runner = runpy.run_path({script!r})
made, more = runner["distiller"](), {more}
if not more:
    made.student.unused = nn.Linear(2, 2)
    made.student.forward = lambda images: nn.Sequential(*list(made.student)[:4])(images)
try:
    with init_processes().distributed_errors():
        runner["train"](made, runner["make_fabric"](strategy={strategy!r}), None, **more)
except limbeck.LimbeckError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("strategy", "more", "says"),
    [
        ("fsdp", {"ema_decay": 0.9}, "leave ema_decay away, or set the strategy to ddp"),
        ("ddp", {}, "parts of the student have no share in the loss"),
    ],
)
def test_what_processes_cannot_do_is_one_sentence(ranks, tmp_path, strategy, more, says):
    script = tmp_path / "wrong.py"
    script.write_text(WRONG.format(script=str(SCRIPT), strategy=strategy, more=more))
    run = ranks(script)
    assert run.wait() == [0, 0], run.output()
    assert says in run.output()[0]
