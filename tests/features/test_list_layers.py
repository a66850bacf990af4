"""Places are read as users write them, through the wrappers around a network, and listed with their shapes."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.features import FeatureExtractor, LayerRef, list_layers, parse_layer, unwrap_model

X = torch.ones(2, 4)


def _compiled(network):
    return torch.compile(network, backend="eager")


def net():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("layer2", LayerRef("layer2")),
        ("layer2:output", LayerRef("layer2")),
        ("layer2.0.conv:input", LayerRef("layer2.0.conv", "input")),
        ("relu@1", LayerRef("relu", "output", 1)),
        ("relu@12:input", LayerRef("relu", "input", 12)),
        ("", LayerRef("")),
        ("backbone.fpn#p4", LayerRef("backbone.fpn", keys=("p4",))),
        ("lstm@1:input#1#h.0", LayerRef("lstm", "input", 1, ("1", "h.0"))),
    ],
)
def test_a_layer_is_read_as_it_is_written(written, place):
    assert parse_layer(written) == place
    assert str(place) == written.removesuffix(":output")


@pytest.mark.parametrize(
    "written", ["a:b", "relu@", "relu@x", "relu@-1", "relu:input@1", "a:input:input", "a#", "a#b:input"]
)
def test_what_is_no_layer_is_refused_with_examples(written):
    with pytest.raises(LimbeckError, match="is not a layer: write layer2, layer2:input, relu@1"):
        parse_layer(written)


def test_an_unknown_path_names_the_nearest_and_how_to_list_them():
    network = nn.Module()
    network.layer1, network.layer2, network.head = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
    with pytest.raises(LimbeckError, match=r"Module has no module 'layre2'; near it: layer2, layer1 \(limbeck layers"):
        FeatureExtractor(network, {"mid": "layre2"})


def _fabric(network):
    return Fabric(accelerator="cpu", devices=1).setup_module(network)


@pytest.mark.parametrize("wrap", [nn.DataParallel, _compiled, _fabric, lambda n: _compiled(nn.DataParallel(n))])
def test_a_wrapped_network_is_read_by_its_own_paths(wrap):
    network = net()
    wrapped = wrap(network)
    assert unwrap_model(wrapped) is network
    extractor = FeatureExtractor(wrapped, {"mid": "0"})
    for scale in (1.0, 2.0, 3.0):
        with extractor.capture() as features:
            wrapped(scale * X)
        torch.testing.assert_close(features["mid"], network[0](scale * X))
        assert features["mid"].requires_grad


def test_a_network_compiled_before_it_was_read_error_names_the_remedy():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x).relu()

    compiled = _compiled(Net())
    compiled(X)
    sentence = r"compiled before \(then call torch.compiler.reset\(\)\)"
    with pytest.raises(LimbeckError, match=sentence), FeatureExtractor(compiled, {"mid": "layer"}).capture():
        compiled(X)


def test_a_module_of_the_users_own_called_module_is_no_wrapper():
    network = nn.Module()
    network.module = nn.Linear(1, 1)
    assert unwrap_model(network) is network


def test_the_listing_shows_path_class_shape_and_runs():
    shared = nn.ReLU()
    network = nn.Sequential(nn.Linear(4, 3), shared, nn.Sequential(nn.Linear(3, 2), shared))
    assert list_layers(network, X) == [
        ("0", "Linear", (2, 3), 1),
        ("1", "ReLU", (2, 2), 2),
        ("2", "Sequential", (2, 2), 1),
        ("2.0", "Linear", (2, 2), 1),
    ]


def test_the_listing_shows_what_did_not_run():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    assert list_layers(nn.DataParallel(Half()), X) == [("used", "Linear", (2, 3), 1), ("idle", "Linear", None, 0)]


def test_the_listing_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout())
    network[2].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert [shape for *_, shape, _ in list_layers(network, X)] == [(2, 3)] * 3
    assert [module.training for module in network.modules()] == [True, True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_listing_leaves_nothing_behind_where_the_network_fails():
    network = net()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list_layers(network, torch.ones(2, 5))
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


def test_the_listing_has_a_line_for_each_tensor_of_a_module():
    network = nn.Sequential(nn.LSTM(4, 3, batch_first=True))
    assert list_layers(network, torch.ones(2, 5, 4)) == [
        ("0#0", "LSTM", (2, 5, 3), 1),
        ("0#1#0", "LSTM", (1, 2, 3), 1),
        ("0#1#1", "LSTM", (1, 2, 3), 1),
    ]
