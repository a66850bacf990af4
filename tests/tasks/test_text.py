"""Text classification: macro F1 comes of counts by sample, and padding changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck import LimbeckError
from limbeck.core.task import DeployableTask
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.models import text_encoder
from limbeck.tasks import TextClassification
from limbeck.tasks.text.metrics import NLL

CLASSES = 5
TASK = TextClassification(CLASSES)
TARGET = torch.tensor([0, 1, 2, 2, 3, 0, 1, 2])  # class 4 is neither here nor predicted


def make_batch(num_samples=8, num_tokens=6):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.arange(num_samples) % 4 + 2
    return {
        "input_ids": torch.randint(1, 20, (num_samples, num_tokens), generator=generator),
        "attention_mask": (torch.arange(num_tokens) < lengths[:, None]).long(),
        "target": TARGET[:num_samples],
        "sample_id": torch.arange(num_samples) + 30,
    }


class Fixed(nn.Module):
    """Returns logits of its own."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, input_ids, attention_mask):
        return self.logits


def random_logits():
    logits = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(3))
    logits[:, 4] -= 9
    return logits


def make_encoder(**options):
    torch.manual_seed(0)
    return text_encoder(width=8, num_heads=2, classes=CLASSES, vocab_size=20, **options).eval()


def numpy_macro_f1(predicted, target, weights):
    scores = []
    for c in range(CLASSES):
        hits, p, t = ((weights * a).sum() for a in ((predicted == c) & (target == c), predicted == c, target == c))
        if p + t:
            scores.append(2 * hits / (p + t))
    return np.mean(scores)


def test_macro_f1_of_any_resample_is_that_of_numpy_and_scikit_learn():
    from sklearn.metrics import f1_score

    logits = random_logits()
    scores = TASK.score(Fixed(logits), make_batch())
    predicted, target = logits.argmax(1).numpy(), TARGET.numpy()
    expected = f1_score(target, predicted, average="macro")
    assert float(TASK.metric_value(scores.statistics)) == pytest.approx(expected, abs=1e-12)
    weights = torch.tensor([[1] * 8, [0, 0, 4, 4, 0, 0, 0, 0], [2, 1, 0, 1, 0, 3, 0, 1]])
    by_resample = [numpy_macro_f1(predicted, target, w) for w in weights.double().numpy()]
    np.testing.assert_allclose(TASK.metric_value(scores.statistics, weights).numpy(), by_resample, atol=1e-12)

    metrics = TASK.metrics()
    for part in (slice(0, 3), slice(3, 8)):
        metrics.update(scores.metric_args[0][part], scores.metric_args[1][part])
    values = metrics.compute()
    assert values["macro_f1"] == pytest.approx(expected, abs=1e-6)
    assert values["accuracy"] == pytest.approx((predicted == target).mean())
    by_class = f1_score(target, predicted, average=None, labels=range(4))
    np.testing.assert_allclose(values["per_class"][:4], by_class)
    assert np.isnan(values["per_class"][4])
    assert values["class_num_samples"] == [2, 2, 3, 1, 0]


def test_monitored_values_are_macro_f1_and_nll():
    batch, logits = make_batch(), random_logits()
    batch["target"] = batch["target"].clone()
    batch["target"][5] = -100
    monitored, scores = TASK.monitor(Fixed(logits), batch), TASK.score(Fixed(logits), batch)
    for statistics in (monitored, scores.statistics):
        assert statistics.isnan().all(dim=1).tolist() == [i == 5 for i in range(8)]
    labeled = torch.arange(8) != 5
    values = [float(TASK.metric_value(statistics[labeled])) for statistics in (monitored, scores.statistics)]
    assert values[0] == values[1]
    log_p = logits.double().log_softmax(1).numpy()
    losses = [-log_p[i, TARGET[i]] for i in range(8) if i != 5]
    assert float(TASK.metric_value(monitored[labeled], metric=NLL)) == pytest.approx(np.mean(losses), rel=1e-6)
    without_target = {name: value for name, value in batch.items() if name != "target"}
    assert TASK.score(Fixed(logits), without_target).statistics.isnan().all()
    metrics = TASK.metrics()
    metrics.update(*scores.metric_args)
    assert metrics.compute()["class_num_samples"] == [1, 2, 3, 1, 0]


@pytest.mark.parametrize("depth", [0, 2])
def test_padding_changes_nothing(depth):
    network, batch = make_encoder(depth=depth), make_batch()
    padded = {
        **batch,
        "input_ids": torch.cat([batch["input_ids"], torch.full((8, 5), 19)], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.zeros(8, 5, dtype=torch.long)], dim=1),
    }
    single = {name: batch[name][1:2, :3] for name in ("input_ids", "attention_mask")}
    logits = TASK.outputs(network, batch).logits
    torch.testing.assert_close(TASK.outputs(network, padded).logits, logits)
    torch.testing.assert_close(TASK.outputs(network, single).logits, logits[1:2])


def test_student_learns_from_teacher_and_target():
    student, teacher = make_encoder(depth=0), make_encoder(depth=2)
    loss = limbeck.Distiller(student, teacher, objective={"target": CrossEntropyLoss(), "kd": KDLoss()}, task=TASK)
    loss(make_batch()).total.backward()
    assert student.embedding.weight.grad.abs().sum() > 0


def test_the_deployed_network_takes_its_inputs_in_order():
    network, batch = make_encoder(depth=1), make_batch()
    deployed = TASK.deployment_model(network, None)
    torch.testing.assert_close(
        deployed(batch["input_ids"], batch["attention_mask"]), TASK.outputs(network, batch).logits
    )
    args, kwargs, _ = TASK.model_inputs(batch)
    assert (args, list(kwargs)) == ((), list(TASK.input_axes))
    assert isinstance(TASK, DeployableTask)


def test_cached_outputs_are_the_logits():
    batch, outputs = make_batch(), TASK.outputs(make_encoder(), make_batch())
    decoded = TASK.decode_outputs(TASK.encode_outputs(outputs, batch), batch)
    assert torch.equal(decoded.logits, outputs.logits)


def test_examples_show_texts_and_classes():
    batch = make_batch(num_samples=2)
    scores = TASK.score(Fixed(torch.eye(CLASSES)[[0, 2]]), batch)
    facts = {"class_names": ["a", "b", "c", "d", "e"], "vocabulary": [f"w{i}" for i in range(19)] + ["##s"]}
    ids = batch["input_ids"].tolist()
    ids[0][1] = 19
    batch["input_ids"] = torch.tensor(ids)
    first, second = TASK.examples(batch, {"student": scores}, facts)
    assert first.input.text == f"w{ids[0][0]}s"
    assert (first.sample_id, first.target.text, first.predictions["student"]) == (30, "a", ("a", b"", True))
    assert (second.target.text, second.predictions["student"]) == ("b", ("c", b"", False))
    texts = TASK.examples({**batch, "text": ["one", "two"]}, {}, {})
    assert [example.input.text for example in texts] == ["one", "two"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"target": torch.full((8,), 5)}, r"labels must be in 0\.\.4 for 5 classes, or -100 for no label, got 5"),
     ({"attention_mask": None}, "must be a mapping with input_ids and attention_mask, got"),
     ({"target": torch.full((8,), -1)}, "got -1")],
)  # fmt: skip
def test_wrong_batches_are_refused(change, message):
    batch = {name: value for name, value in (make_batch() | change).items() if value is not None}
    with pytest.raises(LimbeckError, match=message):
        TASK.monitor(make_encoder(), batch)


def test_a_network_of_other_classes_is_refused():
    with pytest.raises(LimbeckError, match=r"must be \[8, 5\], got \[8, 4\]; give the network a head of 5 classes"):
        TASK.outputs(Fixed(torch.zeros(8, 4)), make_batch())
