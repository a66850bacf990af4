"""FeatureExtractor captures inputs and outputs of layers, whatever runs after them, and removes its hooks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from limbeck.core.errors import LimbeckError
from limbeck.features import FeatureExtractor

X = torch.tensor([[1.0, -2.0], [-3.0, 4.0]])


class Twice(nn.Module):
    """One ReLU that runs twice, once in place."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(2, 3), nn.Linear(3, 4), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.second(self.relu(self.first(x))))


def capture_features(network, layers, *inputs, **named):
    with FeatureExtractor(network, layers).capture() as features:
        network(*inputs, **named)
    return features


def hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_an_output_and_an_input_are_what_the_layer_gave_and_took():
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    features = capture_features(network, {"out": "1", "in": "2:input", "raw": "0:input", "explicit": "1:output"}, X)
    expected = network[0](X).tanh()
    assert all(torch.equal(features[name], expected) for name in ("out", "in", "explicit"))
    assert torch.equal(features["raw"], X)


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_a_relu_in_layer_does_not_change_what_is_read(passes):
    network = Twice()
    extractor = FeatureExtractor(network, {"out": "first", "in": "relu@0:input", "after": "relu@0"})
    # The first pass copies, and later ones may have learned that they need not: all read the same.
    for _ in range(passes):
        with extractor.capture() as features:
            network(X)
    expected = network.first(X)
    assert torch.equal(features["out"], expected)
    assert torch.equal(features["in"], expected)
    assert torch.equal(features["after"], expected.relu())


def test_a_tensor_that_is_not_overwritten_is_copied_only_once():
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    seen = []
    network[0].register_forward_hook(lambda _, __, out: seen.append(out))
    extractor = FeatureExtractor(network, {"mid": "0"})
    for _ in range(2):
        with extractor.capture() as features:
            network(X)
    assert features["mid"] is seen[1]


def test_a_tensor_overwritten_in_some_passes_only_is_an_error_and_not_a_wrong_number():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.overwrite = nn.Linear(2, 3), False

        def forward(self, x):
            x = self.layer(x)
            return x.relu_() if self.overwrite else x

    network = Sometimes()
    extractor = FeatureExtractor(network, {"mid": "layer"})
    with extractor.capture():
        network(X)
    network.overwrite = True
    with pytest.raises(LimbeckError, match="overwritten in place in some passes"), extractor.capture():
        network(X)


def test_a_module_that_runs_twice_is_read_by_its_run():
    network = Twice()
    features = capture_features(network, {"a": "relu@0", "b": "relu@1", "c": "relu@1:input"}, X)
    first = network.first(X).relu()
    assert torch.equal(features["a"], first)
    assert torch.equal(features["b"], network.second(first).relu())
    assert torch.equal(features["c"], network.second(first))


def test_a_module_that_runs_twice_must_name_its_run_and_refuses_a_third():
    with pytest.raises(LimbeckError, match=r"ran 2 times.*write relu@0 … relu@1"):
        capture_features(Twice(), {"a": "relu"}, X)
    with pytest.raises(LimbeckError, match="ran 2 times, so there is no run @2"):
        capture_features(Twice(), {"a": "relu@2"}, X)


def test_a_module_in_two_places_is_found_by_both_paths():
    shared = nn.Tanh()
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 3), shared), nn.Sequential(nn.Linear(3, 2), shared))
    features = capture_features(network, {"a": "0.1@1", "b": "1.1@1"}, X)
    assert torch.equal(features["a"], features["b"])


def test_no_hook_is_left_behind():
    network = Twice()
    capture_features(network, {"a": "first", "b": "second:input"}, X)
    assert hooks(network) == 0


@pytest.mark.parametrize("error", [ValueError("a fault in the network"), KeyboardInterrupt()])
def test_no_hook_is_left_behind_by_an_error(error):
    network, during = Twice(), []

    def fail(x):
        during.append(hooks(network))
        raise error

    network.forward = fail
    with pytest.raises(type(error)):
        capture_features(network, {"a": "first", "b": "second:input"}, X)
    assert [*during, hooks(network)] == [2, 0]


def test_no_hook_is_left_behind_where_a_layer_did_not_run():
    network = Twice()
    sentence = "the feature 'a' was not captured: 'first' did not run"
    with pytest.raises(LimbeckError, match=sentence), FeatureExtractor(network, {"a": "first"}).capture():
        network.second(torch.zeros(1, 3))
    assert hooks(network) == 0


class Wide(nn.Module):
    """Takes its input by keyword; returns nested tensors, one tensor in a tuple, or no tensor."""

    def __init__(self, gives):
        super().__init__()
        self.gives = gives

    def forward(self, *, words=None, x, mask=None):
        return {
            "nested": {"p3": x + 1, 4: (x + 2, [x + 3])}, "tuple": (None, x + 1), "tensor": x + 1, "text": "nothing"
        }[self.gives]  # fmt: skip


def test_a_tensor_of_a_dict_or_tuple_is_read_by_its_keys():
    layers = {"a": "#p3", "b": "#4#0", "c": "#4#1", "in": ":input", "mask": ":input#mask"}
    features = capture_features(Wide("nested"), layers, words="no tensor", x=X, mask=X > 0)
    for name, expected in {"a": X + 1, "b": X + 2, "c": X + 3, "in": X, "mask": X > 0}.items():
        assert torch.equal(features[name], expected)
    assert torch.equal(capture_features(Wide("tuple"), {"one": ""}, x=X)["one"], X + 1)


@pytest.mark.parametrize(
    ("gives", "layer", "sentence"),
    [
        ("nested", "", r"'mid' cannot be captured: .* has 3 tensors, .*: write #p3 \[2, 2\], #4#0 .*, #4#1#0 "),
        ("nested", "#4", r"has 2 tensors, and a feature is one: write #4#0 \[2, 2\], #4#1#0 "),
        ("nested", "#p9", r"has no tensor #p9: write #p3 \[2, 2\], #4#0 "),
        ("tensor", "#p9", "is one tensor, so it has no #p9: write "),
        ("tensor", ":input#y", r"the input of '' has no tensor #y: write :input#x \[2, 2\]"),
        ("text", "", "the output of '' has no tensor: use another layer"),
    ],
)
def test_a_layer_that_is_not_one_tensor_is_refused_with_the_keys(gives, layer, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        capture_features(Wide(gives), {"mid": layer}, x=X)


def test_one_level_of_a_feature_pyramid_is_read_also_by_an_early_exit():
    from collections import OrderedDict

    from torchvision.ops import FeaturePyramidNetwork

    from limbeck.distiller.deployment import EarlyExit

    fpn = FeaturePyramidNetwork([2, 4], 3)
    maps = OrderedDict(p3=torch.rand(2, 2, 4, 4), p4=torch.rand(2, 4, 2, 2))
    features = capture_features(nn.Sequential(fpn), {"mid": "0#p4"}, maps)
    assert torch.equal(features["mid"], fpn(maps)["p4"])
    assert torch.equal(EarlyExit(nn.Sequential(fpn), "0#p4", nn.Flatten())(maps), fpn(maps)["p4"].flatten(1))


@pytest.mark.parametrize("place", ["first", "relu@0:input", "relu@0"])
def test_a_gradient_flows_through_a_layer(place):
    network = Twice()
    # Two passes: the second reads without a copy where it may.
    for _ in range(2):
        network.zero_grad()
        capture_features(network, {"mid": place}, X)["mid"].square().sum().backward()
    hidden = network.first.weight.detach() @ X.T + network.first.bias.detach()[:, None]
    if place == "relu@0":
        hidden = hidden.relu()
    torch.testing.assert_close(network.first.weight.grad, 2 * hidden @ X)
    assert network.second.weight.grad is None


class Saving(nn.Module):
    """A block whose activations are computed again in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.layer, self.head, self.reentrant = nn.Linear(2, 3), nn.Linear(3, 2), reentrant

    def forward(self, x):
        return self.head(checkpoint(lambda y: F.relu(self.layer(y)), x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("place", ["layer", "head:input"])
def test_gradient_checkpointing_does_not_disturb_a_layer(place):
    network = Saving(reentrant=False)
    gradients = []
    for layer in (network, nn.Sequential(copy.deepcopy(network.layer), nn.ReLU(), copy.deepcopy(network.head))):
        path = {"layer": "0", "head:input": "2:input"}[place] if layer is not network else place
        with FeatureExtractor(layer, {"mid": path}).capture() as features:
            out = layer(X)
        (features["mid"].square().sum() + out.sum()).backward()
        assert hooks(layer) == 0
        gradients.append([p.grad for p in layer.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_layer_that_runs_without_gradients_is_refused_since_it_has_no_gradient():
    network, x = Saving(reentrant=True), X.clone().requires_grad_()
    with pytest.raises(LimbeckError, match=r"'layer' ran without gradients.*use_reentrant=False"):
        capture_features(network, {"mid": "layer"}, x)
    assert torch.equal(capture_features(network, {"mid": "head:input"}, x)["mid"], network.layer(X).relu())


def test_a_pass_without_gradients_is_read_as_well():
    for quiet in (torch.no_grad, torch.inference_mode):
        network = Twice()
        extractor = FeatureExtractor(network, {"mid": "first"})
        for _ in range(2):
            with quiet(), extractor.capture() as features:
                network(X)
            assert torch.equal(features["mid"], network.first(X))


def test_layers_follow_a_copy_of_their_network():
    network = Twice()
    other, extractor = copy.deepcopy((network, FeatureExtractor(network, {"mid": "first"})))
    nn.init.zeros_(other.first.weight)
    with extractor.capture() as features:
        other(X)
    assert torch.equal(features["mid"], other.first(X))
