"""A teacher with other inputs and classes equals the steps of its adapter by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.data import Augmentation, Digits, Normalization, random_crop
from limbeck.features import list_layers
from limbeck.models import load_weights, save_weights, small_cnn
from limbeck.tasks import Classification
from limbeck.teachers import (
    CachedTeacher,
    FrozenTeacher,
    InputMapping,
    TeacherAdapter,
    adapt_teacher,
    from_callable,
    match_classes,
)
from limbeck.teachers.adapter import reorder_classes, resize_images
from limbeck.training import freeze_modules

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)
DATA_NORMALIZATION, TEACHER_NORMALIZATION = Normalization((0.3,), (0.25,)), Normalization((0.5,), (0.2,))
REVERSED = tuple(reversed(range(10)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = small_cnn(width=4).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):  # of a trained network: else folding would have nothing to get wrong
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2.0)
    return made


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def by_hand(network, pixels, size=12):
    """Resized as pixels, normalized, run, and reordered."""
    from torchvision.transforms.v2 import functional as F

    with torch.no_grad():
        return network((F.resize(pixels, [size], antialias=True) - 0.5) / 0.2)[:, list(REVERSED)]


@FEW
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 15))
def test_resizing_is_torchvisions(height, width, size):
    from torchvision.transforms.v2 import functional as F

    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height * width))
    torch.testing.assert_close(resize_images(images, size), F.resize(images, [size], antialias=True))


@pytest.mark.parametrize("size", [5, 8, 12])
def test_an_adapter_equals_the_steps_by_hand(network, pixels, size):
    mapping = InputMapping(
        data_normalization=DATA_NORMALIZATION,
        teacher_normalization=TEACHER_NORMALIZATION,
        input_size=size,
        class_indices=REVERSED,
    )
    with torch.no_grad():
        result = adapt_teacher(network, mapping)(DATA_NORMALIZATION.apply(pixels))
    torch.testing.assert_close(result, by_hand(network, pixels, size), rtol=1e-4, atol=1e-5)


def test_the_teachers_normalization_changes_its_logits(network, pixels):
    # What makes the order matter: a network's own padding is the mean of what it sees, so the normalisation has to be
    # the teacher's when it pads.
    mapping = InputMapping(data_normalization=DATA_NORMALIZATION, teacher_normalization=TEACHER_NORMALIZATION)
    assert (
        adapt_teacher(network, mapping)(DATA_NORMALIZATION.apply(pixels)) - network(DATA_NORMALIZATION.apply(pixels))
    ).abs().max() > 1e-2


def test_a_mapping_without_changes_returns_the_network(network):
    assert adapt_teacher(network, InputMapping(data_normalization=DATA_NORMALIZATION)) is network


def test_an_external_teacher_is_adapted_for_normalized_inputs_and_pixels(network, pixels):
    for sees, mapping in (
        (
            "normalized",
            InputMapping(
                data_normalization=DATA_NORMALIZATION,
                teacher_normalization=TEACHER_NORMALIZATION,
                input_size=12,
                class_indices=REVERSED,
            ),
        ),
        ("pixels", InputMapping(data_normalization=DATA_NORMALIZATION, input_size=12, class_indices=REVERSED)),
    ):

        def ask(seen, sees=sees):
            return network((seen - 0.5) / 0.2 if sees == "pixels" else seen)

        teacher = adapt_teacher(
            from_callable(ask, input_type=sees, normalization=DATA_NORMALIZATION, classes=10), mapping
        )
        torch.testing.assert_close(
            teacher(DATA_NORMALIZATION.apply(pixels)), by_hand(network, pixels), rtol=1e-4, atol=1e-5
        )


def test_another_mapping_of_an_external_teacher_changes_its_fingerprint(network):
    one, other = (
        adapt_teacher(
            from_callable(network.forward, classes=10),
            InputMapping(data_normalization=DATA_NORMALIZATION, input_size=size),
        ).state_dict()["fingerprint"]
        for size in (12, 16)
    )
    assert not torch.equal(one, other)


def test_feature_layers_of_an_adapter_are_those_of_the_network(network, pixels):
    adapter = adapt_teacher(
        network,
        InputMapping(data_normalization=DATA_NORMALIZATION, teacher_normalization=TEACHER_NORMALIZATION, input_size=12),
    )
    outputs = FrozenTeacher(adapter, {"mid": "block2"}).predict((DATA_NORMALIZATION.apply(pixels),), Classification(10))
    expected = network.block2(network.block1((resize_images(pixels, 12) - 0.5) / 0.2))
    torch.testing.assert_close(outputs.feature("mid"), expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["fold_batchnorm", "onnxruntime"])
def test_a_backend_of_an_adapter_equals_it(network, pixels, engine):
    adapter = adapt_teacher(
        network,
        InputMapping(
            data_normalization=DATA_NORMALIZATION,
            teacher_normalization=TEACHER_NORMALIZATION,
            input_size=12,
            class_indices=REVERSED,
        ),
    )
    teacher = FrozenTeacher(adapter, {"mid": "block2.conv"} if engine == "fold_batchnorm" else None, backend=engine)
    outputs = teacher.predict((DATA_NORMALIZATION.apply(pixels),), Classification(10))
    torch.testing.assert_close(outputs.require_logits(), by_hand(network, pixels), rtol=1e-3, atol=1e-4)
    assert teacher.backend.report.backend == engine


def test_caches_of_different_mappings_are_separate(network, tmp_path):
    data, task = (
        Digits(num_samples=32, augment=Augmentation((random_crop(padding=1),), num_views=2)).load(),
        Classification(10),
    )
    batch = data.batches(batch_size=16).batch(0)
    images = data.normalization.invert(batch["input"])
    for turn, size in enumerate((12, 16, 12)):
        mapping = InputMapping(
            data_normalization=data.normalization,
            teacher_normalization=TEACHER_NORMALIZATION,
            input_size=size,
            class_indices=REVERSED,
        )
        cached = CachedTeacher(FrozenTeacher(adapt_teacher(network, mapping)), data, root=tmp_path)
        outputs = cached.predict(batch, task).require_logits()
        torch.testing.assert_close(outputs, by_hand(network, images, size), rtol=5e-3, atol=5e-3)  # float16 on disk
        assert (cached.misses, cached.hits) == ((0, 16) if turn == 2 else (16, 0))


def test_its_weights_are_the_networks_in_both_directions(network, tmp_path):
    bare, behind = (
        small_cnn(width=4),
        TeacherAdapter(small_cnn(width=4), InputMapping(data_normalization=DATA_NORMALIZATION, input_size=12)),
    )
    load_weights(behind, save_weights(network, tmp_path / "bare.safetensors"))
    load_weights(bare, save_weights(behind, tmp_path / "behind.safetensors"))
    assert all(
        torch.equal(a, b) for a, b in zip(bare.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_classes_of_maps_are_reordered_as_those_of_rows():
    maps = torch.randn(2, 3, 4, 5)
    rows = maps.permute(0, 2, 3, 1).reshape(-1, 3)
    for places in ((2, 0), (1, -1, 0)):
        expected = reorder_classes(rows, places).reshape(2, 4, 5, -1).permute(0, 3, 1, 2)
        torch.testing.assert_close(reorder_classes(maps, places), expected)


def test_classes_are_matched_by_name_and_not_by_place():
    assert match_classes(["owl", "dog", "cat"], ["cat", "dog"]) == (2, 1)
    assert reorder_classes(torch.tensor([[1.0, 2.0, 3.0]]), (2, 1)).tolist() == [[3.0, 2.0]]


def test_a_missing_class_has_no_probability_and_the_others_are_unchanged():
    logits = torch.tensor([[1.0, 2.0], [1e4, -1e4]])
    places = match_classes(["cat", "dog"], ["dog", "owl", "cat"], missing_classes="mask")
    result = reorder_classes(logits, places)
    assert result.isfinite().all()
    for tau in (1.0, 20.0):
        assert result.div(tau).softmax(1)[:, 1].tolist() == [0.0, 0.0]
        torch.testing.assert_close(result.div(tau).softmax(1)[:, [2, 0]], logits.div(tau).softmax(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: match_classes(["dog", "dog"], ["dog"]), "got 'dog' twice"),
        (
            lambda: match_classes(["dog"], ["dog", "cat", "owl"]),
            "does not have the class 'cat' \\(2 of 3 are missing\\)",
        ),
        (
            lambda: match_classes(["Cat"], ["cat", "dog"], missing_classes="mask"),
            "has none of the classes cat, dog; it has: Cat",
        ),
        (
            lambda: reorder_classes(torch.zeros(1, 2), (0, 2)),
            r"logits must have at least 3 classes, got the shape \[1, 2\]",
        ),
        (
            lambda: reorder_classes(torch.zeros(1, 5, 3), (0, 2)),
            r"classes are matched in logits .*, got the shape \[1, 5, 3\]: give a teacher with the classes",
        ),
        (lambda: resize_images(torch.zeros(1, 4), 3), r"images must be .* to be resized, got \[1, 4\]"),
        (
            lambda: InputMapping(data_normalization=DATA_NORMALIZATION, class_indices=(0,)).map_logits("text"),
            "must return logits to match classes, got a str",
        ),
        (
            lambda: adapt_teacher(
                from_callable(print, input_type="pixels", normalization=DATA_NORMALIZATION),
                InputMapping(data_normalization=DATA_NORMALIZATION, teacher_normalization=TEACHER_NORMALIZATION),
            ),
            "takes pixels, which have no normalization: remove normalize",
        ),
        (
            lambda: DATA_NORMALIZATION.invert(torch.zeros(1, 3, 2, 2)),
            "images must have 1 channels, got the shape",
        ),
    ],
)
def test_a_mistake_is_one_sentence(make, message):
    with pytest.raises(LimbeckError, match=message):
        make()


def test_layers_and_weights_of_an_adapted_network_have_its_own_names(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    mapping = InputMapping(data_normalization=Normalization.none(1), input_size=8)
    adapted, images = adapt_teacher(network, mapping).eval(), torch.rand(2, 1, 16, 16)
    expected = network[0](mapping.map_inputs(images)).detach()
    teacher = FrozenTeacher(adapted, {"mid": "0"})
    assert torch.equal(teacher.predict((images, None), Classification(3)).feature("mid"), expected)
    with pytest.raises(LimbeckError, match=r"Sequential has no module 'module\.0'; near it: 0"):
        FrozenTeacher(adapted, {"mid": "module.0"})
    assert [row[0] for row in list_layers(adapted, images)] == ["0", "1", "2"]
    network.requires_grad_(True)
    with freeze_modules(adapted, ["0"]):
        assert [p.requires_grad for p in network.parameters()] == [False, False, True, True]
    assert set(load_file(save_weights(adapted, tmp_path / "w.safetensors"))) == set(network.state_dict())
    other = adapt_teacher(copy.deepcopy(network), mapping)
    network[0].weight.data.add_(1)
    save_weights(adapted, tmp_path / "w.safetensors")
    assert torch.equal(load_weights(other, tmp_path / "w.safetensors").module[0].weight, network[0].weight)
