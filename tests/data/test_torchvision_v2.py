"""Transforms of torchvision: seeded for each image by its draws; global generators are unchanged."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
import torchvision as package
from torchvision.transforms import v2

from limbeck.core.errors import LimbeckError
from limbeck.data import Augmentation, rand_augment, torchvision
from limbeck.data.counter_rng import CounterRNG

SHAPE_KEEPING = {
    "AugMix": {},
    "AutoAugment": {"policy": "cifar10"},
    "ColorJitter": {"brightness": 0.4, "hue": 0.1},
    "ElasticTransform": {"alpha": 10.0, "sigma": 1.0},
    "GaussianBlur": {"kernel_size": [3, 3], "sigma": [0.1, 2.0]},
    "GaussianNoise": {},
    "JPEG": {"quality": [20, 80]},
    "RandomAffine": {"degrees": 10, "interpolation": "bilinear"},
    "RandomCrop": {"size": 12, "padding": 2},
    "RandomErasing": {"p": 0.5},
    "RandomPerspective": {},
    "RandomPosterize": {"bits": 3},
    "RandomResizedCrop": {"size": 12},
    "RandomSolarize": {"threshold": 0.5},
    "TrivialAugmentWide": {},
}


def make_images(many=12, channels=3):
    return torch.rand(many, channels, 12, 12, generator=torch.Generator().manual_seed(0))


def draws(many=12, seed=0):
    return CounterRNG.for_samples(torch.arange(many), torch.zeros(many, dtype=torch.long), seed=seed, transform_index=0)


@pytest.mark.parametrize("name", SHAPE_KEEPING)
def test_every_transform_is_a_pure_function_of_the_draws(name):
    transform = torchvision(name, **SHAPE_KEEPING[name])
    images, drawn = make_images(), draws()
    before = images.clone()
    shown = transform(images, drawn)
    assert shown.shape == images.shape
    assert shown.dtype == torch.float32
    assert torch.equal(images, before)
    assert not torch.equal(shown, images)
    torch.rand(7)
    for i in (0, 5, 11):
        one = CounterRNG.for_samples(torch.tensor([i]), torch.tensor([0]), seed=0, transform_index=0)
        assert torch.equal(transform(images[i : i + 1], one)[0], shown[i])


def test_each_image_is_what_v2_makes_of_it_under_its_seed():
    images, drawn = make_images(), draws()
    shown = rand_augment(num_ops=3, magnitude=12)(images, drawn)
    made = v2.RandAugment(num_ops=3, magnitude=12)
    for image, seed, output in zip(images, drawn.seeds(), shown, strict=True):
        torch.manual_seed(seed)
        assert torch.equal(made(image), output)


def test_random_states_are_unchanged_also_after_an_error():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    rand_augment()(make_images(), draws())
    with pytest.raises(LimbeckError):
        torchvision("RandomCrop", size=5)(make_images(), draws())
    assert torch.equal(torch.get_rng_state(), before)
    assert (random.random(), np.random.rand()) == (0.8444218515250481, 0.5488135039273248)


def test_seeds_tell_seed_sample_and_view():
    numbers = draws(50).seeds() + draws(50, seed=1).seeds()
    numbers += CounterRNG.for_samples(
        torch.arange(50), torch.ones(50, dtype=torch.long), seed=0, transform_index=0
    ).seeds()
    assert len(set(numbers)) == 150
    assert all(0 <= number < 2**63 for number in numbers)
    assert (
        draws(50).seeds()[7:8]
        == CounterRNG.for_samples(torch.tensor([7]), torch.tensor([0]), seed=0, transform_index=0).seeds()
    )


def test_grey_images_are_augmented_too():
    shown = rand_augment()(make_images(12, 1), draws())
    assert shown.shape == (12, 1, 12, 12)


def test_a_transform_tells_its_settings_and_its_version_and_travels():
    one = torchvision("RandomErasing", p=0.25, scale=[0.02, 0.1])
    assert repr(one) == (
        "TorchvisionTransform(name='RandomErasing', options=(('p', 0.25), ('scale', (0.02, 0.1))), "
        f"version='{package.__version__}')"
    )
    assert one == torchvision("RandomErasing", scale=(0.02, 0.1), p=0.25)
    assert one != torchvision("RandomErasing", p=0.5, scale=(0.02, 0.1))
    again = pickle.loads(pickle.dumps(one))
    assert torch.equal(again(make_images(), draws()), one(make_images(), draws()))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("RandAugmnt", {}, "has no transform 'RandAugmnt'; available: RandAugment"),
        ("functional", {}, "has no transform 'functional'"),
        ("MixUp", {"num_classes": 3}, "mixes images of a batch: use mixup"),
        ("CutMix", {"num_classes": 3}, "mixes images of a batch: use cutmix"),
        ("TenCrop", {"size": 3}, "returns several images"),
        ("RandomApply", {"transforms": []}, "takes other transforms or functions"),
        ("RandomErasing", {"q": 1}, "RandomErasing does not take {'q': 1}: .*'q'"),
        ("RandomErasing", {"p": 2.0}, "RandomErasing does not take"),
        ("AutoAugment", {"policy": "cifar"}, "AutoAugment does not take .* 'cifar' is not a valid"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(name, options, message):
    with pytest.raises(LimbeckError, match=message):
        torchvision(name, **options)


def test_what_does_not_keep_the_shape_is_refused_when_it_is_seen():
    with pytest.raises(LimbeckError, match=r"Resize must keep the shape \[3, 12, 12\], got \[3, 6, 6\]"):
        torchvision("Resize", size=6)(make_images(), draws())
    with pytest.raises(LimbeckError, match=r"ColorJitter failed for an image \[2, 12, 12\]: Input"):
        torchvision("ColorJitter", hue=0.1)(make_images(12, 2), draws())


@pytest.mark.parametrize(("ops", "magnitude"), [(0, 9), (2, 31), (2, -1)])
def test_impossible_rand_augment_is_refused(ops, magnitude):
    with pytest.raises(LimbeckError, match="at least 1 and magnitude from 0 to below 31"):
        rand_augment(num_ops=ops, magnitude=magnitude)


def test_a_bare_torchvision_transform_is_refused_with_its_wrapper():
    with pytest.raises(LimbeckError, match=r"use torchvision\('RandomErasing', …\)"):
        Augmentation((v2.RandomErasing(),))
    with pytest.raises(LimbeckError, match=r"callable .*, got 5"):
        Augmentation((5,))
