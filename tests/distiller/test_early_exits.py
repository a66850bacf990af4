"""An early exit equals its head in training, runs nothing after its layer, and can be exported."""

import pytest
import torch

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.distiller import EarlyExit, early_exits
from limbeck.export import to_onnx
from limbeck.losses import BYOTLoss, CrossEntropyLoss
from limbeck.models import small_cnn


@pytest.fixture
def distiller():
    torch.manual_seed(0)
    loss_fns = {"target": CrossEntropyLoss(), "byot": BYOTLoss(("first", "second"))}
    made = limbeck.Distiller(
        small_cnn(width=4), objective=loss_fns, task=limbeck.tasks.Classification(10),
        feature_layers={"student": {"first": "block1", "second": "block3:input"}},
    )  # fmt: skip
    made.prepare((torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)))
    for _ in range(3):
        made((torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)))
    return made.eval()


def test_it_equals_the_head_on_the_layer_features(distiller):
    images = torch.rand(5, 1, 8, 8)
    outputs = distiller.forward_context((images, torch.zeros(5, dtype=torch.long))).student
    for name, early_exit in early_exits(distiller).items():
        head = distiller.objective.losses["byot"].head(name)
        assert torch.equal(early_exit(images), head(outputs.feature(name))[0])


def test_nothing_behind_it_runs_and_no_hook_is_left(distiller):
    ran = []
    for block in ("block1", "block2", "block3"):
        distiller.student.get_submodule(block).register_forward_hook(lambda *_, block=block: ran.append(block))
    early_exits(distiller)["second"](torch.rand(1, 1, 8, 8))
    assert ran == ["block1", "block2"]
    distiller.student(torch.rand(1, 1, 8, 8))
    assert ran == ["block1", "block2", "block1", "block2", "block3"]


def test_an_exit_is_exported_with_the_parity_check_and_without_what_is_behind_it(distiller, tmp_path):
    images = torch.rand(6, 1, 8, 8)
    early_exit = early_exits(distiller)["first"]
    report = to_onnx(early_exit, images[:1], tmp_path / "first.onnx", check_inputs=images)
    assert report["max_abs_difference"] < 1e-4
    weights = (tmp_path / "first.onnx").read_bytes()
    assert b"block3" not in weights
    assert b"block1" in weights


def test_mistakes_raise_errors(distiller):
    with pytest.raises(LimbeckError, match="use a module that runs once"):
        EarlyExit(distiller.student, "block1@0", torch.nn.Identity())
    behind = EarlyExit(distiller.student, "block1", torch.nn.Identity())
    behind.network = torch.nn.ModuleDict({"block1": torch.nn.Identity(), "rest": torch.nn.Identity()})
    behind.network.forward = lambda images: images
    with pytest.raises(LimbeckError, match="did not reach 'block1'"):
        behind(torch.rand(1, 1, 8, 8))
