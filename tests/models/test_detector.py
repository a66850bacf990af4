"""Detectors: losses and detections are those of torchvision, levels have names, bad settings are refused."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from limbeck import LimbeckError, models
from limbeck.features import list_layers
from limbeck.models.detector import require_detector_call
from limbeck.tasks.detection.boxes import select_detections

KINDS = ("retinanet", "fcos", "ssdlite", "faster_rcnn")
FIRST_LABEL = {"ssdlite": 1, "faster_rcnn": 1}
HEIGHT, WIDTH = 64, 96
IMAGES = torch.rand(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
TARGETS = {
    "boxes": torch.tensor([[[5.0, 5, 30, 40], [10, 10, 50, 60]], [[1.0, 1, 20, 20], [0, 0, 0, 0]], [[0.0] * 4] * 2]),
    "labels": torch.tensor([[0, 1], [2, -100], [-100, -100]]),
    "num_boxes": torch.tensor([2, 1, 0]),
}


def make(name, **options):
    torch.manual_seed(0)
    if name != "ssdlite":
        options = {"fpn_channels": 32, "levels": 3, **options}
    return models.detector(name, backbone="mobilenet_v3_small", classes=3, **options)


@pytest.fixture(scope="module")
def networks():
    """Each kind, with a transform that changes nothing for torchvision's own forward pass."""
    networks = {name: make(name) for name in KINDS}
    for network in networks.values():
        network.network.transform = GeneralizedRCNNTransform(
            HEIGHT, WIDTH, [0.0] * 3, [1.0] * 3, size_divisible=1, fixed_size=(WIDTH, HEIGHT)
        )
    return networks


@pytest.mark.parametrize("name", KINDS)
def test_losses_are_those_of_torchvision(networks, name):
    network = networks[name].train()
    network.network.transform.eval()  # which draws a size in train mode
    torch.manual_seed(1)  # Faster R-CNN draws anchors and proposals
    losses = {key: value for key, value in network(IMAGES, TARGETS).items() if key.startswith("loss_")}
    torch.manual_seed(1)
    boxes = [
        {"boxes": boxes[:n], "labels": labels[:n] + FIRST_LABEL.get(name, 0)}
        for boxes, labels, n in zip(*TARGETS.values(), strict=True)
    ]
    expected = network.network(list(IMAGES), boxes)
    assert len(losses) == len(expected) >= 2
    for key, value in expected.items():
        torch.testing.assert_close(losses[f"loss_{key.removeprefix('loss_')}"], value)


@pytest.mark.parametrize("name", KINDS)
def test_images_without_annotations_enter_no_loss(networks, name):
    network = networks[name].eval()
    unlabeled = {**TARGETS, "num_boxes": torch.tensor([-1, 1, -1])}
    only = {key: value[1:2] for key, value in TARGETS.items()}
    torch.manual_seed(1)
    losses = network(IMAGES, unlabeled)
    torch.manual_seed(1)
    for key, value in network(IMAGES[1:2], only).items():
        if key.startswith("loss_"):
            torch.testing.assert_close(losses[key], value)
    none = network(IMAGES, {**TARGETS, "num_boxes": torch.full((3,), -1)})
    assert [float(value.detach()) for key, value in none.items() if key.startswith("loss_")] == [0.0]


@pytest.mark.parametrize("name", KINDS)
def test_detections_are_those_of_torchvision(networks, name):
    network = networks[name].eval()
    inner = network.network
    settings = inner.roi_heads if name == "faster_rcnn" else inner
    settings.score_thresh, settings.nms_thresh, settings.detections_per_img = 0.0, 0.5, 20
    inner.topk_candidates = 10_000
    with torch.no_grad():
        raw, expected = network(IMAGES), inner(list(IMAGES))
    for i, reference in enumerate(expected):
        found = select_detections(
            raw["boxes"][i], raw["scores"][i], score_threshold=0.0, nms_threshold=0.5, num_candidates=100_000,
            max_detections=20,
        )  # fmt: skip
        torch.testing.assert_close(found.scores, reference["scores"])
        torch.testing.assert_close(found.boxes, reference["boxes"], rtol=1e-4, atol=1e-3)
        assert (found.labels + FIRST_LABEL.get(name, 0)).tolist() == reference["labels"].tolist()


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_the_anchors_of_all_levels(networks, name):
    raw = networks[name].train()(IMAGES)
    num_rows, classes = len(raw["anchors"]), {"ssdlite": 4, "faster_rcnn": 1}.get(name, 3)
    assert raw["logits"].shape == (3, num_rows, classes)
    assert raw["box_deltas"].shape == raw["row_boxes"].shape == (3, num_rows, 4)
    assert raw["level"].shape == (num_rows,)
    assert raw["level"].diff().min() == 0
    if name != "ssdlite":  # strides 8, 16, 32
        per_location = {"retinanet": 9, "fcos": 1, "faster_rcnn": 3}[name]
        assert raw["level"].bincount().tolist() == [per_location * n for n in (8 * 12, 4 * 6, 2 * 3)]
    if name == "fcos":
        sides = raw["anchors"][:, 2:] - raw["anchors"][:, :2]
        assert torch.equal(sides, 8 * 2 ** raw["level"][:, None].float().expand(-1, 2))


def test_levels_of_the_pyramid_are_layers():
    network = make("retinanet", levels=5)
    shapes = {layer: shape for layer, _, shape, _ in list_layers(network, IMAGES) if "fpn#" in layer}
    assert shapes == {
        f"backbone.fpn#{name}": (3, 32, height, width)
        for name, height, width in (("0", 8, 12), ("1", 4, 6), ("2", 2, 3), ("p6", 1, 2), ("p7", 1, 1))
    }
    anchors = network(IMAGES)["anchors"][:9]
    areas = (anchors[:, 2:] - anchors[:, :2]).prod(dim=1).sqrt()
    torch.testing.assert_close(areas.reshape(3, 3).mean(dim=0), torch.tensor([32.0, 40.0, 50.0]), rtol=0.03, atol=0)


@pytest.mark.parametrize(
    "backbone", ["resnet18", "efficientnet_b0", "timm:tf_efficientnet_lite0", "timm:convnext_atto"]
)
def test_backbones(backbone):
    pytest.importorskip("timm")
    network = models.detector("fcos", backbone=backbone, classes=1, channels=1, fpn_channels=32, levels=4).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 96, 96))["logits"].shape == (1, 144 + 36 + 9 + 4, 1)


def test_weights_are_saved_by_the_names_of_torchvision(tmp_path):
    network, other = (
        make("fcos"),
        models.detector("fcos", backbone="mobilenet_v3_small", classes=3, fpn_channels=32, levels=3),
    )
    path = models.save_weights(network, tmp_path / "net.safetensors")
    models.load_weights(other, path)
    models.load_weights(other.network, path)
    assert torch.equal(
        other.network.head.regression_head.bbox_reg.weight, network.network.head.regression_head.bbox_reg.weight
    )


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": "yolo"}, "name must be retinanet, fcos, ssdlite, faster_rcnn, got 'yolo'"),
        ({"levels": 7}, "levels of retinanet must be from 3 to 5, got 7"),
        ({"levels": 3.0}, "levels must be an integer of at least 1, got 3.0"),
        ({"anchor_scale": float("nan")}, "anchor_scale of retinanet must be from 0.125 to 100, got nan"),
        ({"anchor_scale": 0.01}, "anchor_scale of retinanet must be from 0.125 to 100, got 0.01"),
        ({"fpn_channels": 48}, "fpn_channels must be a multiple of 32, got 48"),
        ({"name": "ssdlite", "anchor_scale": 2.0}, "anchor_scale of ssdlite must be None"),
        ({"backbone": "vit_b_16"}, "vit_b_16 cannot be the backbone of a detector"),
        ({"classes": 0}, "classes must be an integer of at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, error):
    with pytest.raises(LimbeckError, match=error):
        models.detector(**{"classes": 3, **options})


def test_other_networks_are_refused():
    with pytest.raises(LimbeckError, match="must be a RetinaNet, FCOS, SSD or FasterRCNN"):
        models.Detector(torch.nn.Identity())
    with pytest.raises(LimbeckError, match=r"takes a list: give limbeck.models.Detector\(network\)"):
        require_detector_call(make("fcos").network)
