"""Mixup and CutMix: λ is Beta, partners come from the whole population by the draws, and labels follow the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.data import Augmentation, Normalization, Split, cutmix, from_tensors, horizontal_flip, mixup, random_crop
from limbeck.data.batch_sampler import BatchSampler
from limbeck.data.counter_rng import CounterRNG
from limbeck.data.split import InMemory
from limbeck.data.transforms.mix_images import MixParams, beta_quantile

BOTH = (mixup(0.4), cutmix())


def part(many=24, *, side=6, unlabelled=(), first=100):
    inputs = torch.rand(many, 2, side, side, generator=torch.Generator().manual_seed(0))
    target = torch.arange(many) % 3
    target[list(unlabelled)] = -100
    return Split.from_images(InMemory(inputs), target, first_id=first)


def shuffled(whole, transforms, *, batch=6, **settings):
    return BatchSampler(
        whole, Augmentation(transforms), Normalization.none(2), batch_size=batch, seed=3, classes=3, **settings
    )


def mixture(mixings, many, *, among=1000, seed=0):
    sample, view = torch.arange(many), torch.zeros(many, dtype=torch.long)
    return MixParams.sample(
        mixings, CounterRNG.for_samples(sample, view, seed=seed, transform_index=0), population=among
    )


def box(share, down, right, height, width):
    """CutMix's rectangle as torchvision reckons it: top, bottom, left, right."""
    half = 0.5 * (1 - share) ** 0.5
    y, x, high, wide = int(down * height), int(right * width), int(half * height), int(half * width)
    return max(y - high, 0), min(y + high, height), max(x - wide, 0), min(x + wide, width)


# The numbers


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 3.0])
def test_the_share_is_beta(alpha):
    # Beta(α, α): mean 1/2, variance 1 / (4 (2α + 1)), fourth central moment 3 / (16 (2α + 1) (2α + 3)).
    share = mixture((mixup(alpha),), 40_000).lam.double().numpy()
    variance, fourth = 1 / (4 * (2 * alpha + 1)), 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))
    spread = len(share) ** -0.5
    assert share.min() >= 0
    assert share.max() <= 1
    assert abs(share.mean() - 0.5) < 4 * variance**0.5 * spread
    assert abs(((share - 0.5) ** 2).mean() - variance) < 4 * (fourth - variance**2) ** 0.5 * spread


def test_the_beta_quantile_undoes_the_distribution():
    from scipy.special import betainc

    uniform = torch.linspace(0, 1 - 2**-24, 301, dtype=torch.float64)
    for alpha in (0.2, 1.0, 5.0):
        result = beta_quantile(torch.full((301,), alpha), uniform)
        exact = float(torch.tensor(alpha))  # as float32 has it
        np.testing.assert_allclose(betainc(exact, exact, result.numpy()), uniform.numpy(), atol=1e-9)
    assert torch.equal(beta_quantile(torch.ones(301), uniform), uniform)


def test_a_image_is_mixed_with_its_probability():
    many = 20_000
    rows = mixture((mixup(p=0.3),), many).rows
    assert abs(len(rows) / many - 0.3) < 4 * (0.21 / many) ** 0.5
    assert len(mixture((mixup(),), many).rows) == many


def test_of_two_mixings_each_image_takes_one_evenly():
    many = 20_000
    result = mixture((mixup(), cutmix(p=0.5)), many)
    assert abs((result.transform_index == 0).sum().item() / many - 0.5) < 4 * (0.25 / many) ** 0.5
    assert abs((result.transform_index == 1).sum().item() / many - 0.25) < 4 * (0.1875 / many) ** 0.5


def test_every_sample_is_a_partner_equally_often():
    counts = torch.bincount(mixture((mixup(),), 50_000, among=50).partners, minlength=50).double()
    assert len(counts) == 50
    assert ((counts - 1000) ** 2 / 1000).sum() < 49 + 5 * 98**0.5


def test_partners_way_and_share_do_not_correlate():
    result = mixture(BOTH, 20_000)
    numbers = torch.stack(
        [result.partners.float(), result.transform_index.float(), result.lam, *result.center.unbind(1)]
    ).numpy()
    assert np.abs(np.corrcoef(numbers) - np.eye(5)).max() < 4.5 / 20_000**0.5


def test_who_is_mixed_does_not_depend_on_the_batch():
    sample, view = torch.arange(60) * 7, torch.arange(60) % 5
    whole = MixParams.sample(BOTH, CounterRNG.for_samples(sample, view, seed=1, transform_index=2), population=90)
    for i in (0, 13, 59):
        one = MixParams.sample(
            BOTH, CounterRNG.for_samples(sample[i : i + 1], view[i : i + 1], seed=1, transform_index=2), population=90
        )
        assert (one.partners, one.transform_index, one.lam) == (
            whole.partners[i],
            whole.transform_index[i],
            whole.lam[i],
        )


# The images


@pytest.mark.parametrize("shape", [(8, 8), (9, 5)])
def test_cutmix_pastes_torchvisions_rectangle(shape):
    many, random = 300, np.random.default_rng(0)
    images, others = torch.zeros(many, 2, *shape), torch.ones(many, 2, *shape)
    share, centre = torch.from_numpy(random.random(many, np.float32)), torch.from_numpy(random.random((many, 2)))
    shown, left = cutmix().blend(images, others, share, centre)
    for i in range(many):
        top, bottom, start, end = box(float(share[i]), *centre[i].tolist(), *shape)
        expected = torch.zeros(2, *shape)
        expected[:, top:bottom, start:end] = 1
        assert torch.equal(shown[i], expected)
        assert left[i] == pytest.approx(1 - float(expected[0].mean()), abs=1e-6)


def test_mixup_is_the_weighted_mean():
    random = np.random.default_rng(0)
    one, other = random.random((5, 3, 4, 4), np.float32), random.random((5, 3, 4, 4), np.float32)
    share = random.random(5, np.float32)
    shown, left = mixup().blend(*map(torch.from_numpy, (one, other, share)), torch.zeros(5, 2))
    weight = share.astype(np.float64)[:, None, None, None]
    np.testing.assert_allclose(shown.numpy(), weight * one + (1 - weight) * other, atol=1e-6)
    np.testing.assert_array_equal(left.numpy(), share)


@pytest.mark.parametrize("mixings", [BOTH[:1], BOTH[1:], BOTH])
def test_a_batch_shows_each_sample_with_its_partner_in_the_same_view(mixings):
    whole, changes = part(), (random_crop(1), horizontal_flip())
    stream, plain = shuffled(whole, (*changes, *mixings)), Augmentation(changes)
    which, view = torch.tensor([3, 20, 7, 3, 11]), torch.tensor([0, 4, 2, 9, 2])
    batch = stream.load(which, view)
    params = MixParams.sample(
        mixings, CounterRNG.for_samples(whole.sample_ids[which], view, seed=3, transform_index=2), population=24
    )
    assert params.rows.tolist() == [0, 1, 2, 3, 4]
    own, others = (plain.apply(whole.read(w), whole.sample_ids[w], view, seed=3) for w in (which, params.partners))
    wanted = torch.zeros(5, 3)
    for i in range(5):
        share = float(params.lam[i])
        if mixings[int(params.transform_index[i])] == BOTH[0]:
            expected = share * own[i] + (1 - share) * others[i]
        else:
            top, bottom, start, end = box(share, *params.center[i].tolist(), 6, 6)
            expected = own[i].clone()
            expected[:, top:bottom, start:end] = others[i, :, top:bottom, start:end]
            share = 1 - (bottom - top) * (end - start) / 36
        torch.testing.assert_close(batch["input"][i], expected, rtol=0, atol=1e-6)
        wanted[i, whole.target[which[i]]] += share
        wanted[i, whole.target[params.partners[i]]] += 1 - share
    torch.testing.assert_close(batch["target"], wanted, rtol=0, atol=1e-6)
    assert batch["target"].dtype == torch.float32
    assert torch.equal(batch["sample_id"], whole.sample_ids[which])


def test_a_mixed_view_is_the_same_in_any_batch_size_and_step_and_rank():
    whole = part(side=5)
    pairs = {}
    for settings in ({"batch": 24}, {"batch": 5}, {"batch": 4, "rank": 1, "world_size": 2}):
        stream = shuffled(whole, (random_crop(1), *BOTH), **settings)
        for step in range(2 * stream.steps_per_epoch):
            batch = stream.batch(step)
            keys = zip(batch["sample_id"].tolist(), batch["view"].tolist(), strict=True)
            for key, image, target in zip(keys, batch["input"], batch["target"], strict=True):
                before = pairs.setdefault(key, (image, target))
                torch.testing.assert_close((image, target), before, rtol=0, atol=1e-6)
    assert len(pairs) == 48


def test_a_image_that_is_not_mixed_is_itself_with_its_one_label():
    whole = part()
    stream = shuffled(whole, (mixup(p=0.5),))
    which, view = torch.arange(24), torch.zeros(24, dtype=torch.long)
    batch = stream.load(which, view)
    mixed = MixParams.sample(
        (mixup(p=0.5),), CounterRNG.for_samples(whole.sample_ids, view, seed=3, transform_index=0), population=24
    ).rows
    unmixed = torch.tensor([i for i in range(24) if i not in mixed.tolist()])
    assert 4 < len(unmixed) < 20
    assert torch.equal(batch["input"][unmixed], whole.read(unmixed))
    assert torch.equal(batch["target"][unmixed], torch.eye(3)[whole.target[unmixed]])


def test_a_row_without_a_label_or_mixed_with_one_is_all_zeros():
    whole = part(unlabelled=range(0, 24, 3))
    stream = shuffled(whole, (mixup(p=0.7),))
    view = torch.zeros(24, dtype=torch.long)
    target = stream.load(torch.arange(24), view)["target"]
    params = MixParams.sample(
        (mixup(p=0.7),), CounterRNG.for_samples(whole.sample_ids, view, seed=3, transform_index=0), population=24
    )
    partner = dict(zip(params.rows.tolist(), params.partners.tolist(), strict=True))
    for i in range(24):
        missing = -100 in (int(whole.target[i]), int(whole.target[partner.get(i, i)]))
        assert float(target[i].sum()) == pytest.approx(0 if missing else 1, abs=1e-6)
    assert 0 < (target.sum(1) == 0).sum() < 24


def test_mixup_mixes_features_and_cutmix_says_that_it_cannot():
    features = from_tensors(torch.rand(60, 7), torch.arange(60) % 3, augment=Augmentation((mixup(),)), normalize="none")
    assert features.batches(batch_size=8).batch(0)["input"].shape == (8, 7)
    with pytest.raises(LimbeckError, match=r"for cutmix, got \[7\]: use mixup"):
        from_tensors(torch.rand(60, 7), torch.arange(60) % 3, augment=Augmentation((cutmix(),))).batches(
            batch_size=8
        ).batch(0)


def test_data_mixes_over_all_its_classes():
    data = from_tensors(
        torch.rand(90, 1, 4, 4),
        torch.arange(90) % 9,
        augment=Augmentation((horizontal_flip(), mixup())),
        num_labeled=18,
    )
    batch = data.batches(batch_size=18, subset="labeled").batch(0)
    assert batch["target"].shape == (18, 9)
    torch.testing.assert_close(batch["target"].sum(1), torch.ones(18))  # partners are labeled ones too
    assert next(iter(data.validation_batches()))["target"].ndim == 1  # what is measured on is never mixed


def test_mixings_come_last_and_need_the_classes():
    with pytest.raises(LimbeckError, match="mixup and cutmix must come last among the transforms"):
        Augmentation((mixup(), horizontal_flip()))
    with pytest.raises(LimbeckError, match="need the number of classes"):
        BatchSampler(part(), Augmentation((mixup(),)), Normalization.none(2), batch_size=4, seed=0)


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"alpha": -1.0}, {"p": 0.0}, {"p": 1.5}])
@pytest.mark.parametrize("kind", [mixup, cutmix])
def test_impossible_mixing_is_refused(kind, settings):
    with pytest.raises(LimbeckError, match=f"{kind.__name__}'s .* remove {kind.__name__} to mix nothing"):
        kind(**settings)
