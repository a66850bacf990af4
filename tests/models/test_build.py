"""torchvision and timm by name: right classes and channels, and one sentence for whatever goes wrong."""

from __future__ import annotations

import subprocess
import sys
from urllib.error import URLError

import pytest
import torch

from limbeck import models
from limbeck.core.errors import LimbeckError


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_has_the_classes_and_channels_asked_for(name, channels):
    net = models.torchvision(name, classes=7, channels=channels).eval()
    assert net(torch.zeros(2, channels, 64, 64)).shape == (2, 7)


def test_torchvision_takes_a_transformer_of_one_channel():
    net = models.torchvision("vit_b_32", classes=3, channels=1, image_size=32).eval()
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 3)


def test_inception_networks_come_without_auxiliary_heads(recwarn):
    net = models.torchvision("googlenet", classes=4).train()
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 4)
    assert not [warning for warning in recwarn if "initialization" in str(warning.message)]


def test_a_new_first_convolution_keeps_the_spread_of_the_old():
    torch.manual_seed(0)
    three = models.torchvision("resnet18", classes=2).conv1.weight.std()
    five = models.torchvision("resnet18", classes=2, channels=5).conv1.weight.std()
    assert five.item() == pytest.approx(three.item(), rel=0.05)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet81", {}, "no network for classification or segmentation named 'resnet81'; the nearest: resnet18"),
        ("fcn_resnet51", {}, "no network for classification or segmentation named 'fcn_resnet51'; the nearest: fcn_re"),
        ("fcn_resnet50", {"aux_loss": True}, "fcn_resnet50: aux_loss cannot be set"),
        ("resnet18", {"num_classes": 5}, "use 'classes' instead of 'num_classes'"),
        ("resnet18", {"dropuot": 0.1}, "could not build resnet18 with .*unexpected keyword argument 'dropuot'"),
        ("vit_b_16", {"image_size": 30}, "could not build vit_b_16"),
        ("googlenet", {"aux_logits": True}, "no loss would train auxiliary heads"),
        ("resnet18", {"channels": 0}, "channels must be an integer of at least 1"),
        ("resnet18", {"pretrained": True, "weights": "runs/a"}, "not both"),
        ("resnet18", {"weights": "nowhere.pt"}, "there are no weights at nowhere.pt"),
    ],
)
def test_torchvision_says_what_is_wrong(name, options, says):
    with pytest.raises(LimbeckError, match=says):
        models.torchvision(name, classes=10, **options)


def published(monkeypatch, name):
    """Let torchvision 'download' a network with 1,000 classes; gives its state dict."""
    from torchvision import models as zoo
    from torchvision.models import _api

    torch.manual_seed(1)
    state = zoo.get_model(name).state_dict()
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda *_, **__: state)
    return state


@pytest.mark.parametrize(
    ("name", "head"), [("mobilenet_v3_small", "classifier.3."), ("squeezenet1_1", "classifier.1.")]
)
def test_a_pretrained_network_of_other_classes_gets_a_new_head_only(monkeypatch, name, head):
    state = published(monkeypatch, name)
    net = models.torchvision(name, classes=7, pretrained=True).eval()
    for key, tensor in net.state_dict().items():
        assert len(tensor) == 7 if key.startswith(head) else torch.equal(tensor, state[key])
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_a_pretrained_network_of_the_same_classes_keeps_its_head(monkeypatch):
    state = published(monkeypatch, "squeezenet1_1")
    net = models.torchvision("squeezenet1_1", classes=1000, pretrained=True)
    assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items())


def test_a_pretrained_network_sees_grey_as_three_equal_colours(monkeypatch):
    published(monkeypatch, "squeezenet1_1")
    colour = models.torchvision("squeezenet1_1", classes=1000, pretrained=True).eval()
    grey = models.torchvision("squeezenet1_1", classes=1000, channels=1, pretrained=True).eval()
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(grey(image), colour(image.expand(-1, 3, -1, -1)))


def test_a_network_that_rescales_colours_keeps_three(monkeypatch):
    from torchvision import models as zoo
    from torchvision.models import _api

    state = zoo.googlenet(init_weights=False).state_dict()
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda *_, **__: state)
    net = models.torchvision("googlenet", classes=5, pretrained=True).train()
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 5)
    with pytest.raises(LimbeckError, match="made for three colors"):
        models.torchvision("googlenet", classes=5, channels=1, pretrained=True)


def test_pretrained_without_a_network_is_one_sentence(monkeypatch):
    from torchvision.models import _api

    def offline(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(_api, "load_state_dict_from_url", offline)
    with pytest.raises(LimbeckError, match=r"publishes for resnet18 could not be fetched.*connect to a network"):
        models.torchvision("resnet18", classes=10, pretrained=True)


def test_weights_are_loaded_into_what_was_built(tmp_path):
    first = models.torchvision("squeezenet1_1", classes=3, channels=1)
    models.save_weights(first, tmp_path / "student.safetensors")
    again = models.torchvision("squeezenet1_1", classes=3, channels=1, weights=str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_timm_has_the_classes_and_channels_asked_for(channels):
    pytest.importorskip("timm")
    net = models.timm("test_resnet", classes=7, channels=channels).eval()
    assert net(torch.zeros(2, channels, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet81", {}, "timm has no network named 'resnet81'; the nearest: resnet18"),
        ("resnet18.nonsense", {}, "could not build resnet18.nonsense .*Invalid pretrained tag"),
        ("resnet18", {"in_chans": 1}, "use 'channels' instead of 'in_chans'"),
        ("resnet18", {"checkpoint_path": "a.pt"}, "use 'weights' instead of 'checkpoint_path'"),
        ("resnet18", {"dropuot": 0.1}, "unexpected keyword argument 'dropuot'"),
        ("resnet18", {"features_only": True}, "no logits"),
        ("resnet18", {"pretrained": True, "weights": "runs/a"}, "not both"),
    ],
)
def test_timm_says_what_is_wrong(name, options, says):
    pytest.importorskip("timm")
    with pytest.raises(LimbeckError, match=says):
        models.timm(name, classes=10, **options)


def test_timm_pretrained_without_a_network_is_one_sentence(monkeypatch):
    zoo = pytest.importorskip("timm")

    def offline(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(zoo, "create_model", offline)
    with pytest.raises(LimbeckError, match="timm publishes for resnet18 could not be fetched"):
        models.timm("resnet18", classes=10, pretrained=True)


def test_timm_weights_are_loaded(tmp_path):
    pytest.importorskip("timm")
    first = models.timm("test_resnet", classes=3)
    file = models.save_weights(first, tmp_path / "teacher.safetensors")
    again = models.timm("test_resnet", classes=3, weights=file)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "extra"),
    [("resnet18", "timm"), ("tf_efficientnet_lite0", "efficientnet"), ("tf_efficientnet_lite4.in1k", "efficientnet")],
)
def test_timm_absent_says_what_to_install(monkeypatch, name, extra):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(LimbeckError, match=rf"{name} comes from timm, .* pip install 'limbeck\[{extra}\]'"):
        models.timm(name, classes=10)


def test_registry_lists_every_builder_and_imports_no_zoo():
    script = (
        "import sys, limbeck.models; assert not {'torchvision', 'timm', 'safetensors'} & set(sys.modules); "
        "from limbeck.recipe.registry import list_names; print(*list_names('model'))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    no_builders = {"Detector", "create_model", "load_weights", "save_weights"}
    assert set(run.stdout.split()) == set(models.__all__) - no_builders
    assert all(getattr(models, name).__name__ == name for name in run.stdout.split())


def test_cifar_stem_keeps_small_images_large():
    net = models.torchvision("resnet18", classes=10, stem="cifar")
    sides = []
    net.layer1.register_forward_hook(lambda _, __, out: sides.append(out.shape[-1]))
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sides == [32]
    # The figure of the usual CIFAR ResNet-18 (11.17 M parameters with 10 classes).
    assert sum(p.numel() for p in net.parameters()) == 11_173_962


@pytest.mark.parametrize("wrong", [{"name": "vgg11"}, {"name": "mobilenet_v3_small"}])
def test_cifar_stem_is_refused_where_there_is_no_such_stem(wrong):
    with pytest.raises(LimbeckError, match="stem: cifar"):
        models.torchvision(classes=10, stem="cifar", **wrong)
