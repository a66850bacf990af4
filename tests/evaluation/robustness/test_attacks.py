"""Attacks against torchattacks, against a linear network whose worst case is known, and what they must not touch."""

import builtins
import copy

import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.data.split import InMemory, Split
from limbeck.evaluation import adversarial_accuracy, apgd, fgsm, pgd

EPS = 8 / 255


@pytest.fixture
def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(5)
    ).eval()


@pytest.fixture
def batch(network):
    pixels = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return pixels, network(pixels).argmax(1)


def test_fgsm_is_that_of_torchattacks(network, batch):
    theirs = pytest.importorskip("torchattacks").FGSM(network, eps=EPS)(*batch)
    assert torch.allclose(fgsm(network, *batch, eps=EPS), theirs)


def test_pgd_without_a_random_start_is_that_of_torchattacks(network, batch, monkeypatch):
    attack = pytest.importorskip("torchattacks").PGD(network, eps=EPS, alpha=2 / 255, steps=20, random_start=False)
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 0.5))
    assert torch.allclose(pgd(network, *batch, eps=EPS), attack(*batch), atol=1e-6)


def test_pgd_with_a_random_start_is_as_strong_as_that_of_torchattacks(network, batch):
    attack = pytest.importorskip("torchattacks").PGD(network, eps=0.02, alpha=0.005, steps=20)
    part = Split.from_images(InMemory(batch[0]), batch[1])
    ours = adversarial_accuracy(network, part, attacks=["pgd"], eps=0.02)["pgd"]
    theirs = network(attack(*batch)).argmax(1) == batch[1]
    assert 0 < int(theirs.sum()) < 32
    assert abs(int(ours.sum()) - int(theirs.sum())) <= 1


def test_a_linear_network_falls_exactly_where_its_margin_is_too_small():
    weight = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.25]])
    network = nn.Linear(3, 2, bias=False)
    network.weight.data = weight
    pixels = 0.3 + 0.4 * torch.rand(200, 3)
    margin = pixels @ (weight[0] - weight[1])
    target = (margin < 0).long()
    stays = margin.abs() > EPS * float((weight[0] - weight[1]).abs().sum())
    assert 0 < int(stays.sum()) < 200
    found = adversarial_accuracy(network, Split.from_images(InMemory(pixels), target), attacks=["fgsm", "pgd"], eps=EPS)
    for name in ("fgsm", "pgd", "worst_case"):
        assert torch.equal(found[name], stays)


def test_a_network_that_is_sure_of_itself_is_no_more_robust_for_it():
    """At a gap of 60 the plain cross-entropy is flat in float32."""
    network = nn.Linear(2, 2, bias=False)
    network.weight.data = torch.tensor([[100.0, -100.0], [-100.0, 100.0]])
    part = Split.from_images(InMemory(torch.tensor([[0.65, 0.35]])), torch.tensor([0]))
    found = adversarial_accuracy(network, part, attacks=["fgsm", "pgd"], eps=0.2)
    assert not found["fgsm"].any()
    assert not found["pgd"].any()


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_pixels_stay_within_eps_and_within_the_range(network, batch, attack):
    changed = attack(network, *batch, eps=EPS)
    assert float((changed - batch[0]).abs().max()) <= EPS + 1e-6
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1


def test_apgd_stays_within_eps_and_finds_what_fgsm_finds(network, batch):
    pytest.importorskip("torchattacks")
    before = torch.random.get_rng_state()
    changed = apgd(network, *batch, eps=EPS)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert float((changed - batch[0]).abs().max()) <= EPS + 1e-6
    found = adversarial_accuracy(
        network, Split.from_images(InMemory(batch[0]), batch[1]), attacks=["fgsm", "apgd"], eps=EPS
    )
    assert int(found["apgd"].sum()) <= int(found["fgsm"].sum())
    assert torch.equal(found["worst_case"], found["fgsm"] & found["apgd"])


def test_without_torchattacks_one_sentence_says_what_to_install(network, batch, monkeypatch):
    whole = builtins.__import__

    def without(name, *rest, **more):
        if name == "torchattacks":
            raise ModuleNotFoundError("No module named 'torchattacks'")
        return whole(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LimbeckError, match="pip install --no-deps torchattacks"):
        apgd(network, *batch)


@pytest.mark.parametrize("eps", [8, 8.0, 0.0, -0.1, float("nan")])
@pytest.mark.parametrize("attack", [fgsm, pgd, apgd])
def test_eps_outside_pixel_units_raises(network, batch, attack, eps):
    with pytest.raises(LimbeckError, match="ε must be in pixel units"):
        attack(network, *batch, eps=eps)


@pytest.mark.parametrize("attack", [fgsm, pgd, apgd])
def test_normalized_inputs_raise(network, batch, attack):
    with pytest.raises(LimbeckError, match="normalization into the network"):
        attack(network, (batch[0] - 0.5) / 0.25, batch[1])


def test_nothing_of_the_network_changes(network, batch):
    network[1].train()  # one module apart from the others
    loss = network(batch[0]).sum()
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    state, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    adversarial_accuracy(network, Split.from_images(InMemory(batch[0]), batch[1]), eps=EPS)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), gradients, strict=True))


def test_the_seed_decides_and_the_unlabelled_are_left_out(network, batch):
    target = batch[1].clone()
    target[:4] = -100
    part = Split.from_images(InMemory(batch[0]), target)
    found = [adversarial_accuracy(network, part, attacks=["pgd"], eps=0.02, seed=3) for _ in range(2)]
    assert torch.equal(found[0]["pgd"], found[1]["pgd"])
    assert len(found[0]["clean"]) == 28
    assert not torch.equal(pgd(network, *batch, seed=1, steps=1), pgd(network, *batch, seed=2, steps=1))


def test_no_attack_mends_an_answer(network, batch):
    wrong = Split.from_images(InMemory(batch[0]), (batch[1] + 1) % 5)
    assert not any(mask.any() for mask in adversarial_accuracy(network, wrong).values())


def test_an_unknown_attack_is_told_its_neighbour(network, batch):
    with pytest.raises(LimbeckError, match="pgd"):
        adversarial_accuracy(network, Split.from_images(InMemory(batch[0]), batch[1]), attacks=["pgdd"])
