"""Two processes together do what one does with the doubled batch."""

import importlib.util
from pathlib import Path

import pytest
import torch

from limbeck.training import make_single_device_fabric

SCRIPT = Path(__file__).with_name("together.py")


@pytest.fixture(scope="module")
def trainings():
    spec = importlib.util.spec_from_file_location("together", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def two(ranks, tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    run = ranks(SCRIPT, out)
    assert run.wait() == [0, 0], run.output()
    return out


def load_result(out, name):
    return torch.load(out / "results.pt", weights_only=True)[name]


def farthest(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(float((tensor - theirs[name]).abs().max()) for name, tensor in ours.items())


def test_two_processes_equal_one_with_the_doubled_batch(two, trainings):
    ours, theirs = trainings.plain(make_single_device_fabric()), load_result(two, "plain")
    assert any("projection" in name for name in ours["weights"])
    assert farthest(ours["weights"], theirs["weights"]) < 1e-5


def test_the_figures_are_of_all_processes(two, trainings):
    ours, theirs = trainings.plain(make_single_device_fabric())["row"], load_result(two, "plain")["row"]
    for name in ("loss", "loss/soft", "loss/hint", "train/accuracy", "val/accuracy", "val/nll"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


def test_one_process_writes_one_checkpoint(two):
    assert len(list((two / "plain").rglob("*.pt"))) == 1


def test_gathered_terms_equal_one_process_with_the_doubled_batch(two, trainings):
    """A term on pairs of samples, one on the labelled rows only, and one that learns."""
    ours = trainings.gathered(make_single_device_fabric())["weights"]
    assert farthest(ours, load_result(two, "gathered")["weights"]) < 1e-5
    assert farthest(ours, load_result(two, "apart")["weights"]) > 1e-3, (
        "gathering changes nothing, so this proves nothing"
    )


@pytest.mark.parametrize("balance", ["GradNorm", "LossRatioWeighting", "UncertaintyWeighting"])
def test_temperatures_and_weights_move_by_what_all_processes_see(two, trainings, balance):
    ours = trainings.moving(make_single_device_fabric(), getattr(trainings, balance))
    theirs = load_result(two, balance)
    assert any("loss_weighting" in name for name in ours["weights"])
    assert abs(float(ours["weights"]["objective.trainable.soft.temperature"]) - 4.0) > 0.1, (
        "the temperature did not move"
    )
    assert farthest(ours["weights"], theirs["weights"]) < 1e-5
    for name in (
        "temperature/soft",
        "temperature_min/soft",
        "temperature_max/hard",
        "loss_weight/soft",
        "loss_share/hint",
    ):
        assert ours["row"][name] == pytest.approx(theirs["row"][name], rel=1e-4), name
