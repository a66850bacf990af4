"""Noise, shift, out-of-distribution detection and temperature scaling, against other computations."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.data.split import InMemory, Split
from limbeck.evaluation import (
    MIN_AUROC_SAMPLES,
    add_gaussian_noise,
    auroc,
    auroc_difference,
    calibration_error_from_logits,
    classification_metrics,
    energy_score,
    fit_temperature,
    max_softmax,
    noise_statistics,
    ood_metrics,
    paired_bootstrap,
    paired_bootstrap_mean,
    paired_bootstrap_statistic,
    shift_accuracy,
    split_halves,
    temperature_scaling_metrics,
    unpaired_bootstrap,
)
from limbeck.tasks import Classification


def logits_of(n, *, scale=1.0, seed=0, classes=4):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), target] += 1.0
    return scale * logits, target


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_matches_scikit_learn(ties):
    draw = np.random.default_rng(0)
    id_scores, ood_scores = draw.normal(0.5, 1, 300), draw.normal(0, 1, 200)
    if ties:
        id_scores, ood_scores = id_scores.round(1), ood_scores.round(1)
    expected = roc_auc_score([1] * 300 + [0] * 200, np.concatenate([id_scores, ood_scores]))
    result = auroc(torch.from_numpy(id_scores), torch.from_numpy(ood_scores))
    assert result["auroc"] == pytest.approx(expected, abs=1e-12)
    resampled = [
        roc_auc_score(
            [1] * 300 + [0] * 200, np.concatenate([draw.choice(id_scores, 300), draw.choice(ood_scores, 200)])
        )
        for _ in range(500)
    ]
    assert [result["low"], result["high"]] == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.015)


def test_paired_auroc_difference_is_narrower():
    draw = torch.Generator().manual_seed(0)
    id_scores, ood_scores = torch.randn(300, generator=draw) + 1, torch.randn(300, generator=draw)
    similar = id_scores + 0.1 * torch.randn(300, generator=draw), ood_scores + 0.1 * torch.randn(300, generator=draw)
    independent = torch.randn(300, generator=draw) + 1, torch.randn(300, generator=draw)
    paired, unpaired = (
        auroc_difference((id_scores, ood_scores), similar),
        auroc_difference((id_scores, ood_scores), independent),
    )
    assert paired["high"] - paired["low"] < 0.3 * (unpaired["high"] - unpaired["low"])
    assert paired["low"] <= paired["difference"] <= paired["high"]


def simulate_aurocs(n, shift, *, spread=1.0, trials=300):
    draw = torch.Generator().manual_seed(n)
    for _ in range(trials):
        yield torch.randn(n, generator=draw) + shift, torch.randn(n, generator=draw) * spread


@pytest.mark.parametrize(("n", "shift", "spread"), [(10, 0.0, 1.0), (10, 2.0, 1.0), (10, 3.0, 1.0), (30, 2.0, 3.0)])
def test_auroc_intervals_hold_the_true_value_in_95_percent(n, shift, spread):
    """The area between normal distributions is Φ(shift / √(1 + spread²))."""
    true = 0.5 * (1 + math.erf(shift / math.sqrt(1 + spread**2) / math.sqrt(2)))
    results = [auroc(*scores) for scores in simulate_aurocs(n, shift, spread=spread)]
    assert np.mean([result["low"] <= true <= result["high"] for result in results]) >= 0.925


def test_intervals_of_auroc_differences_hold_zero_in_95_percent():
    draw = torch.Generator().manual_seed(1)

    def add_noise(scores):
        return tuple(side + 0.5 * torch.randn(len(side), generator=draw) for side in scores)

    pairs = simulate_aurocs(15, 2.0)
    differences = [auroc_difference(add_noise(scores), add_noise(scores)) for scores in pairs]
    assert np.mean([difference["low"] <= 0 <= difference["high"] for difference in differences]) >= 0.925


def test_there_is_no_auroc_interval_below_ten_scores():
    assert MIN_AUROC_SAMPLES == 10
    few = torch.arange(9.0), torch.arange(30.0)
    assert (auroc(*few)["low"], auroc(*few)["high"]) == (None, None)
    assert auroc_difference(few, few)["low"] is None
    perfect = auroc(torch.arange(10.0) + 10, torch.arange(10.0))
    assert perfect["auroc"] == perfect["high"] == 1.0
    assert 0.7 < perfect["low"] < 0.9


@pytest.mark.parametrize("margin", [1.0, 5.0, 60.0, 1000.0])
def test_a_fitted_temperature_at_its_boundary_is_the_boundary(margin):
    logits = torch.zeros(8, 3)
    logits[:, 0] = margin
    assert fit_temperature(logits, torch.zeros(8, dtype=torch.long)) == 0.02
    assert fit_temperature(logits, torch.ones(8, dtype=torch.long)) == 50.0
    assert fit_temperature(torch.full((8, 3), margin), torch.zeros(8, dtype=torch.long)) == 1.0


def test_ood_scores_match_their_formulas():
    logits, _ = logits_of(50)
    z = logits.double().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    assert max_softmax(logits).numpy() == pytest.approx(p.max(1))
    assert energy_score(logits).numpy() == pytest.approx(np.log(np.exp(z).sum(1)))
    assert set(ood_metrics(logits, logits)) == {"max_softmax", "energy"}
    assert ood_metrics(logits, logits)["energy"]["auroc"] == 0.5


def test_temperature_is_the_minimum_of_the_nll():
    logits, target = logits_of(2000, scale=3.0)
    beta = torch.tensor(1 / fit_temperature(logits, target), dtype=torch.float64, requires_grad=True)
    nn.functional.cross_entropy(logits.double() * beta, target).backward()
    assert abs(float(beta.grad)) < 1e-5


def test_temperature_scales_with_the_logits():
    logits, target = logits_of(500)
    assert fit_temperature(5 * logits, target) == pytest.approx(5 * fit_temperature(logits, target), rel=1e-4)


def test_temperature_scaling_improves_an_overconfident_network():
    fit_data, evaluated = logits_of(2000, scale=4.0, seed=1), logits_of(2000, scale=4.0, seed=2)
    result = temperature_scaling_metrics(fit_data, evaluated)
    before = classification_metrics(*evaluated, class_names=list("abcd"))
    assert result["before"] == {"ece": pytest.approx(before["ece"]), "nll": pytest.approx(before["nll"])}
    assert result["after"]["nll"] < 0.7 * result["before"]["nll"]
    assert result["after"]["ece"] < 0.3 * result["before"]["ece"]
    assert calibration_error_from_logits(evaluated[0], evaluated[1]) == pytest.approx(before["ece"])


def test_split_halves_is_disjoint_and_depends_on_the_seed():
    first, second = split_halves(101, seed=4)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(101))
    assert torch.equal(first, split_halves(101, seed=4)[0])
    assert not torch.equal(first, split_halves(101, seed=5)[0])


def test_noise_has_its_standard_deviation_by_sample():
    gray = torch.full((3, 1, 64, 64), 0.5)
    after = add_gaussian_noise(gray, 0.1, seed=1)
    assert float((after - gray).std()) == pytest.approx(0.1, rel=0.02)
    assert torch.equal(add_gaussian_noise(gray[1:2], 0.1, seed=1, sample_ids=torch.tensor([1])), after[1:2])
    assert torch.equal(add_gaussian_noise(gray, 0.0), gray)
    with pytest.raises(LimbeckError, match="pixel units"):
        add_gaussian_noise(gray, 25)


def test_noise_accuracy_matches_the_normal_distribution():
    class Above(nn.Module):
        def forward(self, pixels):
            return torch.stack([pixels.flatten(1)[:, 0], torch.full((len(pixels),), 0.5)], dim=1)

    split = Split.from_images(InMemory(torch.full((4000, 1), 0.6)), torch.zeros(4000, dtype=torch.long))
    statistics = noise_statistics({"above": Above()}, split, Classification(2), sigmas=(0.1, 0.2))
    assert statistics["above"].mean((1, 2)).tolist() == pytest.approx([0.8413, 0.6915], abs=0.02)


def test_shift_counts_flips_that_keep_the_accuracy():
    target = torch.tensor([0, 1, 0, -100])
    first = Split.from_images(InMemory(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])), target)
    second = Split.from_images(InMemory(torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])), target)
    result = shift_accuracy(nn.Identity(), first, second)
    assert result["reference_accuracy"] == pytest.approx(2 / 3)
    assert result["shifted_accuracy"] == pytest.approx(2 / 3)
    assert result["flip_rate"] == 0.75
    assert result["difference"] == 0
    assert result["num_samples"] == 3
    with pytest.raises(LimbeckError, match="same samples"):
        shift_accuracy(nn.Identity(), first, second.subset(torch.tensor([0, 1])))


def test_bootstraps_of_correctness_agree():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.rand(400, generator=draw) < 0.8, torch.rand(400, generator=draw) < 0.7
    result = paired_bootstrap_statistic(lambda rows: 100 * rows.double().mean(), a, b)
    assert [result["difference"], result["low"], result["high"]] == pytest.approx(paired_bootstrap(a, b), abs=0.4)
    means = paired_bootstrap_mean(100 * a.double(), 100 * b.double())
    assert [means["difference"], means["low"], means["high"]] == pytest.approx(paired_bootstrap(a, b), abs=0.4)
    unpaired = unpaired_bootstrap(a, b)
    half = 196 * (0.8 * 0.2 / 400 + 0.7 * 0.3 / 400) ** 0.5
    assert unpaired["high"] - unpaired["low"] == pytest.approx(2 * half, rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc(torch.zeros(0), torch.ones(2)), "at least one"),
        (lambda: auroc(torch.tensor([float("nan")]), torch.ones(2)), "not finite"),
        (lambda: auroc_difference((torch.ones(2), torch.ones(2)), (torch.ones(3), torch.ones(2))), "same samples"),
        (lambda: fit_temperature(torch.zeros(2, 3), torch.tensor([-100, -100])), "no sample has a label"),
        (lambda: split_halves(1, seed=0), "takes 2 samples"),
        (lambda: paired_bootstrap_statistic(torch.mean, torch.ones(2), torch.ones(3)), "same samples"),
        (lambda: paired_bootstrap_mean(torch.ones(2), torch.ones(3)), "same samples"),
        (lambda: unpaired_bootstrap(torch.ones(0).bool(), torch.ones(3).bool()), "at least one"),
    ],
)
def test_invalid_robustness_inputs_raise(call, message):
    with pytest.raises(LimbeckError, match=message):
        call()
