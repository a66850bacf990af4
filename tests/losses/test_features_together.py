"""All losses on features in one distiller: their parameters are trained, saved and loaded; the teacher is unchanged."""

from __future__ import annotations

import copy

import torch
from torch import nn

import limbeck
from limbeck import losses as loss_fns

LAYERS = {"early": "0", "late": "3"}
BATCH = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])


def network(width, seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * width, 3),
    )  # fmt: skip


def distiller(seed=0):
    learned = {
        name.lower(): getattr(loss_fns, name)("late")
        for name in (
            "AttentionTransferLoss", "ABLoss", "CWDLoss", "FTLoss", "FitNetLoss", "MGDLoss", "NSTLoss", "OFDLoss",
            "PKDLoss",
            "VIDLoss",
        )
    }  # fmt: skip
    made = limbeck.Distiller(
        network(4, seed), network(6, 9), objective=learned | {"review": loss_fns.ReviewKDLoss(["early", "late"])},
        feature_layers={"student": LAYERS, "teacher": LAYERS}, task=limbeck.tasks.Classification(classes=3),
    )  # fmt: skip
    return made.prepare(BATCH)


def test_a_step_moves_everything_that_is_learned_and_nothing_of_the_teacher():
    together = distiller()
    teacher = copy.deepcopy(together.teachers["teacher"].network.state_dict())
    before = {name: p.detach().clone() for name, p in together.named_parameters()}
    optimizer = torch.optim.AdamW(together.parameters(), lr=0.01)
    loss = together(BATCH)
    loss.total.backward()
    optimizer.step()
    assert torch.isfinite(loss.total)
    # The last layer of the student has no loss on features.
    still = {name for name, p in together.named_parameters() if torch.equal(p, before[name])}
    assert {name for name in still if not name.startswith("student.6.")} == set()
    for name, tensor in together.teachers["teacher"].network.state_dict().items():
        assert torch.equal(tensor, teacher[name])


def test_learned_state_is_saved_and_loaded():
    one, other = distiller(seed=0), distiller(seed=1)
    other.load_state_dict(one.state_dict())
    torch.manual_seed(0)
    first = one(BATCH)
    torch.manual_seed(0)
    torch.testing.assert_close(other(BATCH).by_loss, first.by_loss)


def test_shaping_them_moves_no_batch_norm_of_the_student():
    together = distiller()
    assert not together.student[1].running_mean.any()
