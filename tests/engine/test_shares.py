"""A student in shares trains as a whole one does, ends whole, and both go on after a stop with the same bits."""

import importlib.util
from pathlib import Path

import pytest
import torch

from limbeck.engine import one_device

SCRIPT = Path(__file__).with_name("shares.py")


@pytest.fixture(scope="module")
def trainings():
    spec = importlib.util.spec_from_file_location("shares", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def out(ranks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shares")
    run = ranks(SCRIPT, folder)
    assert run.wait() == [0, 0], run.said()
    return folder


@pytest.fixture(scope="module")
def found(out):
    return torch.load(out / "found.pt", weights_only=True)


def farthest(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(float((tensor.float() - theirs[name].float()).abs().max()) for name, tensor in ours.items())


def test_each_process_holds_a_share_of_every_weight(found):
    assert found["seen"]["all"] / 2 <= found["seen"]["own"] < 0.55 * found["seen"]["all"]


def test_a_student_in_shares_equals_a_whole_one_with_the_doubled_batch(found, trainings):
    one = trainings.train(trainings.distiller(), one_device(), None)
    assert any("projection" in name for name in one["weights"])
    assert farthest(one["weights"], found["fsdp"][0]["weights"]) < 1e-4
    assert one["loss"] == pytest.approx(found["fsdp"][0]["loss"], rel=1e-5)
    assert one["nll"] == pytest.approx(found["fsdp"][0]["nll"], rel=1e-5)


def test_the_best_epoch_of_a_student_in_shares_is_kept(found, trainings):
    one = trainings.train(trainings.distiller(), one_device(), None, keep="best")
    assert farthest(one["weights"], found["best"]["weights"]) < 1e-4


@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_stopped_and_gone_on_with_it_ends_with_the_same_bits(found, strategy):
    """Under ddp with dropout, BatchNorm and averaged weights: each process has random states of its own."""
    whole, resumed = found[strategy]
    assert all(torch.equal(tensor, resumed["weights"][name]) for name, tensor in whole["weights"].items())


@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_all_processes_end_with_the_same_student(found, strategy):
    """BatchNorm's statistics too, which are of each process's own pictures while it trains."""
    first, second = (weights[strategy] for weights in found["every"])
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_checkpoint_of_shares_is_whole(out, found, trainings):
    state = torch.load(out / "fsdp" / "whole" / "checkpoint" / "sharded.distill.pt", weights_only=True)
    student = trainings.distiller().student
    student.load_state_dict(state["student"])
    weights = found["fsdp"][0]["weights"]
    assert all(torch.equal(tensor, weights[f"student.{name}"]) for name, tensor in student.state_dict().items())
    moments = next(iter(state["optimizer"]["state"].values()))["exp_avg"]
    assert type(moments) is torch.Tensor


def test_averaged_weights_are_refused_in_one_sentence(ranks, tmp_path):
    script = tmp_path / "averaged.py"
    script.write_text(
        f"import runpy; found = runpy.run_path({str(SCRIPT)!r})\n"
        "import limbeck\n"
        "try:\n"
        "    found['train'](found['distiller'](), found['launched'](strategy='fsdp'), None, ema=0.9)\n"
        "except limbeck.LimbeckError as error:\n"
        "    print(error)\n"
    )
    run = ranks(script)
    assert run.wait() == [0, 0], run.said()
    assert "leave ema away, or set the strategy to ddp" in run.said()[0]
