"""Ignored boxes count neither in metrics nor in training, and move with their images."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from limbeck import LimbeckError
from limbeck.core.task import Scores
from limbeck.data import Augmentation, BoxStore, InMemory, Split, from_datasets, horizontal_flip, random_crop
from limbeck.data.box_store import CROWD, IGNORED
from limbeck.data.module import make_splits
from limbeck.models import detector
from limbeck.models.ignored_boxes import exclude_background
from limbeck.tasks import Detection
from limbeck.tasks.detection.boxes import Detections, TargetBoxes, match_detections

detectors = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "detectors.py")))
TASK = Detection(detectors.CLASSES)
THRESHOLDS = torch.tensor([0.5])


def find(*boxes):
    return Detections(torch.tensor(boxes), torch.linspace(0.9, 0.1, len(boxes)), torch.zeros(len(boxes)).long())


def target(boxes, ignored):
    return TargetBoxes(torch.tensor(boxes), torch.zeros(len(boxes)).long(), torch.tensor(ignored))


def is_ignored(found, boxes):
    return match_detections(found, *boxes, thresholds=THRESHOLDS)[1][0].tolist()


def test_detections_of_a_difficult_box_are_ignored_and_of_a_part_of_it_are_false():
    found = find([0.0, 0, 20, 20], [1, 0, 20, 20], [0, 0, 5, 5])
    assert is_ignored(found, target([[0.0, 0, 20, 20]], [IGNORED])) == [True, True, False]
    assert is_ignored(found, target([[0.0, 0, 20, 20]], [CROWD])) == [True, True, True]


def test_a_box_that_counts_is_matched_before_one_that_is_ignored():
    boxes = target([[0.0, 0, 20, 16], [0, 0, 20, 20]], [0, IGNORED])
    matched, ignored = match_detections(find([0.0, 0, 20, 20], [0, 0, 20, 19]), *boxes, thresholds=THRESHOLDS)
    assert (matched.tolist(), ignored.tolist()) == ([[0, 1]], [[False, True]])


@pytest.fixture(scope="module")
def store():
    boxes = [torch.tensor([[2.0, 2, 10, 10], [20, 20, 40, 40], [30, 4, 60, 30]])] * 8
    return BoxStore(boxes, [torch.tensor([0, 1, 2])] * 8, [torch.tensor([IGNORED, 0, CROWD])] * 8)


def test_boxes_that_count_come_first(store):
    fields = store.read(torch.tensor([0, 1]))
    assert fields["num_boxes"].tolist() == [1, 1]
    assert fields["labels"][0].tolist() == [1, 0, 2]
    assert fields["ignored"][0].tolist() == [0, IGNORED, CROWD]
    assert fields["boxes"][0, 0].tolist() == [20, 20, 40, 40]
    assert store.counted_labels(0).tolist() == [1]
    assert BoxStore(store.boxes, store.labels, [torch.zeros(3)] * 8).ignored is None
    assert BoxStore(store.boxes, store.labels).fingerprint() != store.fingerprint()
    with pytest.raises(LimbeckError, match=r"ignored must be 0, 1 or 2 \(crowd\), got \[0, 3\]"):
        BoxStore(store.boxes, store.labels, [torch.tensor([0, 0, 3])] * 8)


def test_ignored_boxes_move_with_their_images(store):
    images = torch.zeros(8, 3, 64, 64)
    augment = Augmentation((horizontal_flip(1.0), random_crop(30)))
    split = Split.from_boxes(InMemory(images), store)
    data = make_splits("boxes", "abc", split, seed=0, validation=0.25, test=0.25, augment=augment, num_labeled=3)
    batch = data.batches(batch_size=4).batch(0)
    is_box = (torch.arange(batch["labels"].shape[1]) < batch["num_boxes"][:, None]) | (batch["ignored"] > 0)
    assert (batch["labels"] >= 0).equal(is_box)
    assert batch["labels"][batch["ignored"] == CROWD].unique().tolist() == [2]
    assert (batch["boxes"][is_box][:, 2:] - batch["boxes"][is_box][:, :2]).min() >= 1
    unlabeled = batch["num_boxes"] < 0
    assert unlabeled.sum() == 1
    assert batch["ignored"][unlabeled].sum() == 0
    TASK.sample_targets(batch)
    with pytest.raises(LimbeckError, match="ignored boxes must come after the num_boxes boxes that count"):
        TASK.sample_targets({**batch, "ignored": torch.ones_like(batch["labels"])})
    with pytest.raises(LimbeckError, match=r"ignored must be \[batch, k\] as labels"):
        TASK.sample_targets({**batch, "ignored": batch["ignored"][:, :0]})


@pytest.mark.parametrize("name", ["retinanet", "fcos", "ssdlite"])
def test_anchors_on_ignored_boxes_are_not_background(name):
    if name == "ssdlite":
        network = detector(name, backbone="mobilenet_v3_small", classes=detectors.CLASSES, levels=2)
    else:
        network = detectors.tiny_detector(name)
    network.train()
    batch = {
        "input": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
        "boxes": torch.tensor([[[4.0, 4, 20, 20], [-900, 24, 900, 900]], [[30, 30, 60, 60], [0, 0, 0, 0]]]),
        "labels": torch.tensor([[0, 1], [2, -100]]), "num_boxes": torch.tensor([1, 1]),
    }  # fmt: skip
    gradients = {}
    for ignored in (0, IGNORED, CROWD):
        targets = batch | {"ignored": torch.tensor([[0, ignored], [0, 0]])}
        outputs = network(batch["input"], targets)
        (gradient,) = torch.autograd.grad(outputs["loss_classification"], outputs["logits"])
        gradients[ignored] = gradient.abs().sum(dim=2)
    anchors = outputs["anchors"]
    inside = (anchors[:, 1] >= 24) & (gradients[0][0] > 0)
    above = anchors[:, 3] <= 24
    assert inside.any()
    assert gradients[IGNORED][0, inside].eq(0).all()
    assert gradients[IGNORED][0, above].gt(0).any()
    if name != "ssdlite":  # which selects the hardest background
        assert gradients[IGNORED][0, above].equal(gradients[0][0, above])
        assert gradients[IGNORED][1].equal(gradients[0][1])
    assert gradients[IGNORED].equal(gradients[CROWD])


def test_proposals_on_ignored_boxes_are_not_background():
    torch.manual_seed(0)
    network = detector("faster_rcnn", backbone="mobilenet_v3_small", classes=3, levels=3, fpn_channels=32).train()
    batch = {
        "boxes": torch.tensor([[[4.0, 4, 20, 20], [0, 24, 64, 64]]]), "labels": torch.tensor([[0, 1]]),
        "num_boxes": torch.tensor([1]), "ignored": torch.tensor([[0, IGNORED]]),
    }  # fmt: skip
    images = torch.rand(1, 3, 64, 64)
    outputs = network(images, batch)
    (gradient,) = torch.autograd.grad(outputs["loss_objectness"], outputs["logits"], retain_graph=True)
    is_inside = (outputs["anchors"][:, :2] >= torch.tensor([0, 24])).all(1) & (outputs["anchors"][:, 2:] <= 64).all(1)
    assert is_inside.any()
    assert gradient[0, is_inside].eq(0).all()
    assert gradient.abs().sum() > 0
    whole = batch | {"boxes": torch.tensor([[[0.0, 0, 64, 64]] * 2]), "num_boxes": torch.tensor([0])}
    whole["ignored"] = torch.ones(1, 2).long()
    assert all(bool(value.isfinite()) for name, value in network(images, whole).items() if name.startswith("loss_"))


def test_background_is_excluded_unless_none_is_left():
    boxes, targets = [torch.tensor([[0.0, 0, 4, 4], [8, 8, 9, 9]])], [{"ignored": torch.tensor([[0.0, 0, 9, 5]])}]
    (labels,) = exclude_background([torch.tensor([0, 2])], boxes, targets, value=-100)
    assert labels.tolist() == [-100, 2]
    (labels,) = exclude_background([torch.tensor([0])], [boxes[0][:1]], targets, value=-1)
    assert labels.tolist() == [0]


def test_the_report_shows_detections_of_ignored_boxes_as_neither():
    batch = {
        "input": torch.zeros(1, 3, 40, 40), "sample_id": torch.tensor([7]), "num_boxes": torch.tensor([1]),
        "boxes": torch.tensor([[[2.0, 2, 12, 12], [20, 20, 38, 38]]]), "labels": torch.tensor([[0, 0]]),
        "ignored": torch.tensor([[0, IGNORED]]),
    }  # fmt: skip
    found = find([20.0, 20, 38, 38], [0, 30, 5, 39])
    (example,) = TASK.examples(batch, {"student": Scores(torch.zeros(1, 1), [found])}, {"class_names": ["cell"]})
    assert example.target.text == "1 cell"
    assert example.predictions["student"].text == "0 correct, 0 false (red), 1 missed (yellow)"


def test_crowds_of_a_torch_data_set_are_ignored():
    class Boxes(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            target = {"boxes": torch.tensor([[1.0, 1, 5, 5], [0, 0, 8, 8]]), "labels": torch.tensor([0, 1])}
            return torch.full((3, 8, 8), index / 10), target | {"iscrowd": torch.tensor([0, index % 2])}

    data = from_datasets(Boxes())
    ignored = data.train.read_fields(torch.arange(len(data.train)))["ignored"]
    assert ignored.unique().tolist() == [0, CROWD]
