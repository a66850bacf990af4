"""Every registered loss at its defaults is built as in a recipe, trains, and ends with the same bits after a stop."""

from __future__ import annotations

import inspect
import signal
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

import limbeck
from limbeck.core.protocols import loss_attribute
from limbeck.data import InMemory, MasksInMemory, from_tensors
from limbeck.data.box_store import BoxStore
from limbeck.data.module import make_splits
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.split import Split
from limbeck.distiller import MutualTask, PeerStudents
from limbeck.losses import CrossEntropyLoss, LogitMSELoss, linear_outputs
from limbeck.losses._bases import LogitLoss
from limbeck.models import Detector, conv_ctc, seq2seq_transformer, small_cnn, speech_text_encoder, unet
from limbeck.recipe.registry import list_names, resolve_target
from limbeck.recipe.resolve_node import resolve_node
from limbeck.tasks import (
    Classification,
    Detection,
    Segmentation,
    SentenceEmbedding,
    SpeechCTC,
    SpeechTextAlignment,
    Translation,
)
from limbeck.teachers import PreviousEpochTeacher
from limbeck.testing import make_context
from limbeck.training import TrainingConfig, TrainingInterrupted

LAYERS = {"first_layer": "early", "last_layer": "late", "layer": "late", "layers": ["early"], "deepest_layer": "late"}
TOKEN_LAYERS = {f"{name}_layer": name for name in ("query", "key", "value")}
PATHS = {"early": "block1", "late": "block2"}
OF_SEQUENCES = ("CTCBestPathLoss", "CTCLoss", "CTCNBestLoss")
OF_TRANSLATIONS = ("SeqKDLoss",)
OF_MASKS = ("BoundaryKDLoss", "CIRKDLoss", "IFVDLoss", "SKDHolisticLoss")
OF_BOXES = ("CrossKDLoss", "DetectionLoss", "FGDLoss", "LDLoss")
OF_TEXTS = ("MarginMSELoss", "MiniLMLoss", "MiniLMv2Loss", "SupConLoss")
OF_PAIRS = ("EmbeddingCosineLoss", "EmbeddingMSELoss", "InfoNCEKDLoss", "InfoNCELoss", "StateMatchingLoss")
OF_HEADS = (
    "LinearCrossEntropyLoss", "LinearDistillationLoss", "LinearJSDLoss", "LinearKDLoss", "LinearReverseKLLoss",
)  # fmt: skip
OF_SIGMOIDS = ("BinaryKDLoss", "QualityFocalLoss")
HEAD = "head.classification_head"
SETTINGS = {
    "MiniLMLoss": {"num_heads": 2}, "MiniLMv2Loss": {"relation_heads": 2},
    **{key: {"student_side": "speech", "teacher_side": "text"} for key in OF_PAIRS[:2]},
    "CrossKDLoss": {
        "student_features": ["head"],
        "teacher_modules": [f"{HEAD}.conv.9", f"{HEAD}.conv.10", f"{HEAD}.conv.11", f"{HEAD}.cls_logits"],
    },
}  # fmt: skip
DETECTOR_PATHS = {"student": {"early": "backbone", "head": f"{HEAD}.conv.8"}, "teacher": {"early": "backbone"}}
FACTS = {"classes": 3, "seed": 0, "temperature": 4.0}


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    return from_tensors(torch.rand(48, 1, 8, 8), torch.arange(48) % 3)


@pytest.fixture(scope="module")
def sequences():
    torch.manual_seed(0)
    frames, tokens = [torch.randn(8 + i % 5, 4) for i in range(48)], [torch.tensor([1, 2])] * 48
    split = Split.from_sequences(SequenceStore({"input": frames, "target": tokens}), torch.arange(48) % 3)
    return make_splits("sequences", "abc", split, seed=0, validation=0.2, test=0.2)


@pytest.fixture(scope="module")
def pairs():
    torch.manual_seed(0)
    frames, ids = [torch.randn(8 + i % 5, 4) for i in range(48)], [torch.tensor([i % 7 + 1, 2]) for i in range(48)]
    store = SequenceStore({"input": frames, "input_ids": ids}, masks={"input_ids": "attention_mask"})
    split = Split.from_sequences(store, torch.arange(48) % 3)
    return make_splits("pairs", "abc", split, seed=0, validation=0.2, test=0.2)


@pytest.fixture(scope="module")
def sentences():
    sources, targets = [torch.arange(2 + i % 3) for i in range(48)], [torch.tensor([3 + i % 4, 0]) for i in range(48)]
    store = SequenceStore(
        {"input_ids": sources, "target": targets}, pad_values={"target": -100}, masks={"input_ids": "attention_mask"}
    )
    split = Split.from_sequences(store, torch.zeros(48).long())
    return make_splits("sentences", "a", split, seed=0, validation=0.2, test=0.2)


@pytest.fixture(scope="module")
def masks():
    torch.manual_seed(0)
    images, masks = torch.rand(48, 1, 8, 8), torch.randint(0, 3, (48, 8, 8))
    split = Split.from_masks(InMemory(images), MasksInMemory(masks))
    return make_splits("masks", "abc", split, seed=0, validation=0.2, test=0.2)


@pytest.fixture(scope="module")
def boxes():
    torch.manual_seed(0)
    corners = torch.rand(24, 2, 2) * 16
    store = BoxStore(list(torch.cat([corners, corners + 12], dim=2)), [torch.tensor([i % 3, 1]) for i in range(24)])
    split = Split.from_boxes(InMemory(torch.rand(24, 3, 32, 32)), store)
    return make_splits("boxes", "abc", split, seed=0, validation=0.2, test=0.2)


def tiny_detector():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU(), nn.Conv2d(4, 32, 2, stride=2))
    backbone.out_channels = 32
    return Detector(FCOS(backbone, 3, anchor_generator=AnchorGenerator(((8,),), ((1.0,),))))


class HeadTask:
    """Rows are images; hidden states and the last layer in place of logits."""

    def outputs(self, network, batch):
        return linear_outputs(network[:-1](batch["input"]), network[-1])

    def target(self, batch):
        return batch["target"]


def network_with_head(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 3))


class TinyAttention(nn.Module):
    """Tokens that attend to each other, in layers of their own for queries, keys and values."""

    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(9, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, input_ids, attention_mask):
        tokens = self.embedding(input_ids)
        logits = self.query(tokens) @ self.key(tokens).mT
        attention = logits.masked_fill(attention_mask[:, None] == 0, -torch.inf).softmax(dim=2)
        return (attention @ self.value(tokens)).mean(dim=1)


def build(name):
    """The loss with its defaults; the layers that have none are those of the networks."""
    parameters = inspect.signature(resolve_target(name, ["loss"])[1]).parameters
    names = LAYERS | TOKEN_LAYERS
    layers = {key: value for key, value in names.items() if key in parameters} | SETTINGS.get(name, {})
    return resolve_node({"use": name, **layers}, "loss", provided=FACTS).build(), bool(layers)


def make_distiller(name):
    torch.manual_seed(0)
    loss, reads_layers = build(name)
    if name in OF_SEQUENCES:
        teachers = [conv_ctc(width=8, depth=1, classes=3, mels=4)] if loss_attribute(loss, "needs_teacher") else []
        student = conv_ctc(width=4, depth=1, classes=3, mels=4)
        return limbeck.Distiller(student, *teachers, objective={"loss": loss}, task=SpeechCTC(3))
    if name in OF_PAIRS:
        networks = [
            speech_text_encoder(
                embedding_dim=8, speech_width=width, speech_depth=1, text_width=4, mels=4, vocab_size=9, num_tokens=3
            )
            for width in (4, 8)
        ]
        teachers = networks[1:] if loss_attribute(loss, "needs_teacher") else []
        return limbeck.Distiller(networks[0], *teachers, objective={"loss": loss}, task=SpeechTextAlignment(3))
    if name in OF_TRANSLATIONS:
        student, teacher = (
            seq2seq_transformer(width=width, depth=1, num_heads=2, dropout=0.0, vocab_size=8) for width in (4, 8)
        )
        task = Translation(8, hypothesis_beams=1, max_tokens=4)
        return limbeck.Distiller(student, {"teacher": teacher}, objective={"loss": loss}, task=task)
    if name in OF_TEXTS:
        teachers = {"teacher": TinyAttention(8)} if loss_attribute(loss, "needs_teacher") else {}
        paths = {path: path for path in TOKEN_LAYERS.values()}
        layers = dict.fromkeys(("student", *teachers), paths) if reads_layers else {}
        return limbeck.Distiller(
            TinyAttention(4), teachers, objective={"loss": loss}, feature_layers=layers, task=SentenceEmbedding(3)
        )
    if name in OF_MASKS:
        student, teacher = (unet(width=width, depth=1, classes=3, channels=1) for width in (2, 4))
        layers = {key: {"late": "bottleneck"} for key in ("student", "teacher")} if reads_layers else {}
        return limbeck.Distiller(
            student, {"teacher": teacher}, objective={"loss": loss}, feature_layers=layers, task=Segmentation(3)
        )
    if name in OF_BOXES:
        teachers = {"teacher": tiny_detector()} if loss_attribute(loss, "needs_teacher") else {}
        layers = DETECTOR_PATHS if reads_layers else {}
        return limbeck.Distiller(
            tiny_detector(), teachers, objective={"loss": loss}, feature_layers=layers, task=Detection(3)
        )
    if name in OF_HEADS:
        teachers = [network_with_head(4)] if loss_attribute(loss, "needs_teacher") else []
        return limbeck.Distiller(network_with_head(2), *teachers, objective={"loss": loss}, task=HeadTask())
    student, task = small_cnn(width=2, depth=2, classes=3), Classification(3)
    teachers = {"teacher": small_cnn(width=4, depth=2, classes=3)} if loss_attribute(loss, "needs_teacher") else {}
    if name == "PSKDLoss":
        teachers = {"teacher": PreviousEpochTeacher(classes=3)}
    if name == "DMLLoss":
        student, task = PeerStudents({"a": student, "b": small_cnn(width=3, depth=2, classes=3)}), MutualTask(task, 2)
        teachers = {}
    layers = dict.fromkeys(("student", *teachers), PATHS) if reads_layers else {}
    return limbeck.Distiller(student, teachers, objective={"loss": loss}, feature_layers=layers, task=task)


def train(name, data, run_dir, *, stop=False, resume=False):
    distiller, calls = make_distiller(name), []

    def stop_at_second(*_):
        calls.append(1)
        if stop and len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)

    distiller.register_forward_hook(stop_at_second)
    training = TrainingConfig(batch_size=8, batch_pairing="same_class" if name == "CSKDLoss" else "none")
    with pytest.raises(TrainingInterrupted) if stop else nullcontext():
        limbeck.training.fit(distiller, data, steps=4, training=training, run_dir=run_dir, callbacks=[], resume=resume)
    return distiller.state_dict()


@pytest.mark.parametrize("name", list_names("loss"))
def test_a_loss_at_its_defaults_trains_stops_and_resumes(
    name, images, sequences, sentences, pairs, masks, boxes, tmp_path
):
    data = {**dict.fromkeys(OF_SEQUENCES, sequences), **dict.fromkeys(OF_MASKS, masks)}.get(name, images)
    data = pairs if name in OF_PAIRS + OF_TEXTS else data
    data = sentences if name in OF_TRANSLATIONS else data
    data = boxes if name in OF_BOXES else data
    start = make_distiller(name).prepare(data.batches(batch_size=8).batch(0)).state_dict()
    expected = train(name, data, tmp_path / "whole")
    train(name, data, tmp_path / "parts", stop=True)
    resumed = train(name, data, tmp_path / "parts", resume=True)
    assert resumed.keys() == expected.keys()
    assert all(torch.equal(resumed[key], expected[key]) for key in expected)
    weights = [key for key in expected if key.startswith("student.") and key.endswith("weight")]
    assert any(not torch.equal(start[key], expected[key]) for key in weights)


def test_a_softmax_of_one_number_is_refused_since_it_is_always_one():
    context = make_context(classes=1)
    losses = [build(name)[0] for name in list_names("loss") if name not in (*OF_MASKS, *OF_SIGMOIDS)]
    softmax_losses = [loss for loss in losses if isinstance(loss, LogitLoss | CrossEntropyLoss)]
    assert len(softmax_losses) == 10
    for loss in softmax_losses:
        with pytest.raises(limbeck.LimbeckError, match=r"at least 2 classes for a softmax, got \[6, 1\]: use"):
            loss(context)
    assert LogitMSELoss()(context) > 0
