"""Attacks against torchattacks and a linear network with a known worst case."""

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


def test_fgsm_matches_torchattacks(network, batch):
    expected = pytest.importorskip("torchattacks").FGSM(network, eps=EPS)(*batch)
    assert torch.allclose(fgsm(network, *batch, eps=EPS), expected)


def test_pgd_without_random_start_matches_torchattacks(network, batch, monkeypatch):
    attack = pytest.importorskip("torchattacks").PGD(network, eps=EPS, alpha=2 / 255, steps=20, random_start=False)
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 0.5))
    assert torch.allclose(pgd(network, *batch, eps=EPS), attack(*batch), atol=1e-6)


def test_pgd_with_random_start_is_as_strong_as_torchattacks(network, batch):
    attack = pytest.importorskip("torchattacks").PGD(network, eps=0.02, alpha=0.005, steps=20)
    split = Split.from_images(InMemory(batch[0]), batch[1])
    correct = adversarial_accuracy(network, split, attacks=["pgd"], eps=0.02)["pgd"]
    expected = network(attack(*batch)).argmax(1) == batch[1]
    assert 0 < int(expected.sum()) < 32
    assert abs(int(correct.sum()) - int(expected.sum())) <= 1


def test_linear_network_errs_exactly_below_the_margin():
    weight = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.25]])
    network = nn.Linear(3, 2, bias=False)
    network.weight.data = weight
    pixels = 0.3 + 0.4 * torch.rand(200, 3)
    margin = pixels @ (weight[0] - weight[1])
    target = (margin < 0).long()
    is_robust = margin.abs() > EPS * float((weight[0] - weight[1]).abs().sum())
    assert 0 < int(is_robust.sum()) < 200
    result = adversarial_accuracy(
        network, Split.from_images(InMemory(pixels), target), attacks=["fgsm", "pgd"], eps=EPS
    )
    for name in ("fgsm", "pgd", "worst_case"):
        assert torch.equal(result[name], is_robust)


def test_confident_network_is_not_more_robust():
    """At a gap of 60 the plain cross-entropy is flat in float32."""
    network = nn.Linear(2, 2, bias=False)
    network.weight.data = torch.tensor([[100.0, -100.0], [-100.0, 100.0]])
    split = Split.from_images(InMemory(torch.tensor([[0.65, 0.35]])), torch.tensor([0]))
    result = adversarial_accuracy(network, split, attacks=["fgsm", "pgd"], eps=0.2)
    assert not result["fgsm"].any()
    assert not result["pgd"].any()


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_pixels_stay_within_eps_and_within_the_range(network, batch, attack):
    changed = attack(network, *batch, eps=EPS)
    assert float((changed - batch[0]).abs().max()) <= EPS + 1e-6
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1


def test_apgd_stays_within_eps_and_is_as_strong_as_fgsm(network, batch):
    pytest.importorskip("torchattacks")
    before = torch.random.get_rng_state()
    changed = apgd(network, *batch, eps=EPS)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert float((changed - batch[0]).abs().max()) <= EPS + 1e-6
    result = adversarial_accuracy(
        network, Split.from_images(InMemory(batch[0]), batch[1]), attacks=["fgsm", "apgd"], eps=EPS
    )
    assert int(result["apgd"].sum()) <= int(result["fgsm"].sum())
    assert torch.equal(result["worst_case"], result["fgsm"] & result["apgd"])


def test_apgd_without_torchattacks_names_the_package(network, batch, monkeypatch):
    original_import = builtins.__import__

    def import_without_torchattacks(name, *args, **kwargs):
        if name == "torchattacks":
            raise ModuleNotFoundError("No module named 'torchattacks'")
        return original_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_without_torchattacks)
    with pytest.raises(LimbeckError, match="pip install --no-deps torchattacks"):
        apgd(network, *batch)


@pytest.mark.parametrize("eps", [8, 8.0, 0.0, -0.1, float("nan")])
@pytest.mark.parametrize("attack", [fgsm, pgd, apgd])
def test_eps_outside_pixel_units_raises(network, batch, attack, eps):
    with pytest.raises(LimbeckError, match="ε must be in pixel units"):
        attack(network, *batch, eps=eps)


@pytest.mark.parametrize("attack", [fgsm, pgd, apgd])
def test_normalized_inputs_raise(network, batch, attack):
    with pytest.raises(LimbeckError, match="normalization inside the network"):
        attack(network, (batch[0] - 0.5) / 0.25, batch[1])


def test_attacks_do_not_change_the_network(network, batch):
    network[1].train()  # one module apart from the others
    loss = network(batch[0]).sum()
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    state, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    adversarial_accuracy(network, Split.from_images(InMemory(batch[0]), batch[1]), eps=EPS)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), gradients, strict=True))


def test_attacks_depend_on_the_seed_and_skip_unlabeled_samples(network, batch):
    target = batch[1].clone()
    target[:4] = -100
    split = Split.from_images(InMemory(batch[0]), target)
    result = [adversarial_accuracy(network, split, attacks=["pgd"], eps=0.02, seed=3) for _ in range(2)]
    assert torch.equal(result[0]["pgd"], result[1]["pgd"])
    assert len(result[0]["clean"]) == 28
    assert not torch.equal(pgd(network, *batch, seed=1, steps=1), pgd(network, *batch, seed=2, steps=1))


def test_wrong_samples_stay_wrong_under_attack(network, batch):
    wrong = Split.from_images(InMemory(batch[0]), (batch[1] + 1) % 5)
    assert not any(mask.any() for mask in adversarial_accuracy(network, wrong).values())


def test_unknown_attack_suggests_a_name(network, batch):
    with pytest.raises(LimbeckError, match="pgd"):
        adversarial_accuracy(network, Split.from_images(InMemory(batch[0]), batch[1]), attacks=["pgdd"])
