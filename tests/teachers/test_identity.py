"""Whatever changes the outputs of a network, and can be seen, changes its identity; nothing else does."""

from __future__ import annotations

import copy
import functools
import importlib
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck.models import small_vit
from limbeck.teachers import FrozenTeacher, from_callable
from limbeck.teachers.identity import _is_library, describe_network, fingerprint_network, network_signature

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
_SLOPE = 1.0


def halve(x):
    return x / 2


def activate(x):
    return halve(x.relu()) * _SLOPE


class Net(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.scale = nn.Linear(4, 3), scale

    def forward(self, x):
        return activate(self.fc(x)) * self.scale


def identity(network):
    return fingerprint_network(network.eval(), {})


def test_an_equal_network_has_the_same_identity_also_after_a_call_and_a_copy():
    network = Net()
    assert identity(network) == identity(Net()) == identity(copy.deepcopy(network))
    network(X)
    assert identity(network) == identity(Net())


def with_hook(network):
    network.fc.register_forward_hook(lambda module, args, output: output + 5.0)


def with_pre_hook(network):
    network.fc.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def with_forward(network):
    network.forward = types.MethodType(lambda self, x: self.fc(x) * 0, network)


def with_buffer(network):
    network.register_buffer("offset", torch.ones(2), persistent=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda network: setattr(network, "scale", 10.0),
        lambda network: setattr(network, "scale", torch.tensor(10.0)),
        lambda network: setattr(network, "scale", {"a": [1, 2]}),
        lambda network: setattr(network, "activation", F.relu),
        lambda network: setattr(network, "activation", functools.partial(F.leaky_relu, negative_slope=0.1)),
        lambda network: setattr(network, "config", types.SimpleNamespace(heads=3)),
        lambda network: setattr(network, "hidden", [nn.Linear(2, 2)]),
        with_hook,
        with_pre_hook,
        with_forward,
        with_buffer,
        lambda network: network.fc.weight.data.mul_(2),
        lambda network: setattr(network.fc, "in_features", 5),
    ],
)  # fmt: skip
def test_a_change_of_the_network_is_another_identity(change):
    network = Net()
    before = identity(network)
    change(network)
    assert identity(network) != before


@pytest.mark.parametrize("value", [2, "b", (1, 3), {"a": 2}, torch.ones(3), functools.partial(F.relu, inplace=True)])
def test_another_value_of_an_attribute_is_another_identity(value):
    other = {int: 1, str: "a", tuple: (1, 2), dict: {"a": 1}, torch.Tensor: torch.zeros(3)}.get(type(value), F.relu)
    assert identity(Net(value)) != identity(Net(other))
    assert identity(Net(copy.deepcopy(value))) == identity(Net(copy.deepcopy(value)))


def test_edited_helper_functions_constants_and_methods_are_another_identity(monkeypatch):
    before, module = identity(Net()), sys.modules[__name__]
    for name, value in {"activate": torch.tanh, "halve": lambda x: x / 3, "_SLOPE": 2.0}.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert identity(Net()) != before, name
    with monkeypatch.context() as patch:
        patch.setattr(Net, "forward", lambda self, x: self.fc(x))
        assert identity(Net()) != before
    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear, "forward", lambda self, x: x @ self.weight.T)
        assert identity(Net()) != before
    assert identity(Net()) == before


def local_net(shift, act):
    class Local(nn.Module):
        def forward(self, x):
            return act(x) + shift

    return Local()


def test_values_that_a_method_closes_over_are_seen():
    assert identity(local_net(1.0, torch.relu)) == identity(local_net(1.0, torch.relu))
    assert len({identity(local_net(*settings)) for settings in ((1.0, halve), (2.0, halve), (1.0, activate))}) == 3


def encoder(**settings):
    return nn.TransformerEncoderLayer(12, **{"nhead": 2, "dim_feedforward": 16, "batch_first": True} | settings)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (lambda: small_vit(width=24, depth=1, num_heads=3, channels=1, patch_size=2),
         lambda: small_vit(width=24, depth=1, num_heads=6, channels=1, patch_size=2)),
        (lambda: nn.MultiheadAttention(12, 2), lambda: nn.MultiheadAttention(12, 4)),
        (encoder, lambda: encoder(nhead=4)),
        (encoder, lambda: encoder(norm_first=True)),
        (encoder, lambda: encoder(activation="gelu")),
    ],
)  # fmt: skip
def test_settings_of_layers_that_are_not_printed_are_seen(a, b):
    first, second = a(), b()
    second.load_state_dict(first.state_dict())
    assert identity(first) != identity(second)


def test_settings_of_timm_and_torchvision_networks_are_seen():
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    settings = {"img_size": 32, "depth": 1, "num_classes": 2, "fc_norm": False}
    pools = [timm.create_model("vit_tiny_patch16_224", global_pool=pool, **settings) for pool in ("token", "avg")]
    pools[1].load_state_dict(pools[0].state_dict())
    assert identity(pools[0]) != identity(pools[1])
    nets = [
        torchvision.models.googlenet(num_classes=2, aux_logits=False, init_weights=False, transform_input=transform)
        for transform in (False, True)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    assert network_signature(nets[0]) != network_signature(nets[1])


def test_the_signature_does_not_depend_on_weights():
    network = Net()
    before = network_signature(network)
    network.fc.weight.data.mul_(2)
    assert network_signature(network) == before


def test_attributes_that_each_call_changes_can_be_left_out():
    class Counts(Net):
        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(x)

    network = Counts()
    network(X)
    before = describe_network(network)
    network(X)
    changed = {path for path, text in describe_network(network).items() if before.get(path) != text}
    assert changed == {"network.calls"}
    teacher = FrozenTeacher(network)
    teacher.ignored_attributes = frozenset(changed)
    expected = teacher.fingerprint()
    network(X)
    assert teacher.fingerprint() == expected


def test_modules_that_refer_to_each_other_are_described():
    network = Net()
    network.parent = [network, network.fc]
    network.function = network.forward
    assert identity(network) == identity(network)


def test_a_callable_is_identified_by_its_code_and_what_it_closes_over():
    def make(weight, scale=1):
        calls = []

        def ask(x):
            calls.append(len(x))
            return halve(x) @ weight * scale

        return from_callable(ask)

    weight = torch.eye(4)
    settings = [(weight,), (weight.clone(),), (2 * weight,), (weight, 2)]
    prints = [identity(make(*values)) for values in settings]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    teacher = make(weight)
    before = identity(teacher)
    teacher(X)
    assert identity(teacher) == before


_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from torch import nn
from limbeck.teachers.identity import fingerprint_network
from nets import Net
torch.manual_seed(0)
print(fingerprint_network(Net().eval(), {}))
"""
_NETS = """
from torch import nn
import helpers
KINDS = {"a", "b", "c"}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.kinds = nn.Linear(2, 2), frozenset(KINDS)
        self.act = lambda x: x if x in {"p", "q", "r"} else x
    def forward(self, x):
        return helpers.act(self.fc(x)) if "a" in KINDS else x
"""


def test_identity_is_that_of_another_process_until_an_imported_module_is_edited(tmp_path: Path, run_python):
    (tmp_path / "nets.py").write_text(_NETS)
    prints = []
    for act in ("x.relu()", "x.relu()", "x.tanh()"):
        (tmp_path / "helpers.py").write_text(f"def act(x):\n    return {act}\n")
        done = run_python("-c", _SCRIPT, tmp_path, first="sys.dont_write_bytecode = True")
        assert done.returncode == 0, done.stderr
        prints.append(done.stdout)
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_package_installed_into_a_folder_has_a_version(tmp_path, monkeypatch, is_installed):
    """`pip install --target` writes the record of its files beside the package."""
    name = f"network_of_{'a_package' if is_installed else 'a_user'}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(
        "import torch\nclass Net(torch.nn.Identity): pass\n__version__ = '1'\n"
    )
    if is_installed:
        (tmp_path / f"{name}-1.dist-info").mkdir()
        (tmp_path / f"{name}-1.dist-info" / "RECORD").write_text(f"{name}/__init__.py,sha256=x,9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    network = importlib.import_module(name).Net()
    assert _is_library(type(network).__module__) is is_installed
