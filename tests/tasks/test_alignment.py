"""Speech and text retrieve each other: the metric counts nearer candidates, and what is missing counts nothing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.data import Split
from limbeck.data.module import make_splits
from limbeck.data.sequence_store import SequenceStore
from limbeck.losses import CTCLoss, EmbeddingCosineLoss, InfoNCEKDLoss, InfoNCELoss, StateMatchingLoss
from limbeck.models import speech_text_encoder
from limbeck.tasks import SpeechTextAlignment
from limbeck.tasks.alignment.batch import label_texts, read_texts
from limbeck.tasks.alignment.metrics import MEAN_RANK, compute_chrf, nearest_texts, outranked_fractions
from limbeck.teachers import FrozenTeacher
from limbeck.testing import check_task

TASK = SpeechTextAlignment(classes=2, candidates=5)
SMALL = {"speech_depth": 1, "mels": 4, "vocab_size": 12, "num_tokens": 4}


def make_data(count=60):
    torch.manual_seed(0)
    store = SequenceStore(
        {
            "input": [torch.randn(9 + i % 5, 4) for i in range(count)],
            "input_ids": [torch.randint(1, 12, (2 + i // 2 % 4,)) if i % 2 else torch.tensor([i // 2 % 11 + 1, 3])
                          for i in range(count)],
            "tokens": [torch.tensor([1, 2])] * count,
            "text": [torch.tensor([ord(char) for char in f"text {i}"]) for i in range(count)],
        },
        masks={"input_ids": "attention_mask"},
    )  # fmt: skip
    split = Split.from_sequences(store, torch.arange(count) % 2)
    return make_splits("pairs", ["en", "fr"], split, seed=0, validation=0.2, test=0.2)


def make_network(width=4, **settings):
    torch.manual_seed(width)
    return speech_text_encoder(**{"embedding_dim": 8, "speech_width": width, "text_width": 4, **SMALL, **settings})


def perfect(batch):
    """Embeddings of speech and text that are equal for equal texts and orthogonal to others."""
    _, texts = torch.unique(label_texts(batch["input_ids"], batch["attention_mask"]), return_inverse=True)
    embedding = torch.eye(int(texts.max()) + 2)[texts]
    return embedding, embedding


@pytest.mark.parametrize("teacher", [{"shared": "transformer", "embedding_dim": 12, "stride": 2}, {"num_tokens": 0}])
def test_contract_of_tasks(teacher):
    check_task(TASK, make_data(), make_network(), teacher=make_network(6, **teacher), oracle=perfect)


def fractions_by_numpy(queries, candidates, labels, weights):
    result = np.zeros(len(queries))
    for i, query in enumerate(queries):
        others = [j for j in range(len(queries)) if labels[j] != labels[i]]
        total = sum(weights[j] for j in others)
        nearer = sum(weights[j] for j in others if query @ candidates[j] >= query @ candidates[i])
        result[i] = nearer / total if total else 0.0
    return result


def test_fractions_and_metric_agree_with_numpy():
    rng = np.random.default_rng(0)
    speech, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 9, 3)))
    speech[4], labels = text[4], np.array([0, 1, 2, 3, 4, 2, 0, 2, 5])
    weights = rng.integers(0, 3, size=(4, 9))
    tensors = torch.tensor(speech), torch.tensor(text), torch.tensor(labels)
    fractions = outranked_fractions(*tensors, torch.tensor(weights).double())
    expected = [fractions_by_numpy(speech, text, labels, row) for row in weights]
    np.testing.assert_allclose(fractions.numpy(), expected, atol=1e-12)
    assert 0 < fractions.mean() < 1
    statistics = torch.cat([tensors[2][:, None].double(), *tensors[:2]], dim=1)
    for metric, value in ((None, lambda f: (1 - f) ** 4), (MEAN_RANK, lambda f: f)):
        by_resample = []
        for row in weights:
            sides = (fractions_by_numpy(*pair, labels, row) for pair in ((speech, text), (text, speech)))
            by_resample.append(np.average(np.mean([value(side) for side in sides], axis=0), weights=row))
        actual = TASK.metric_value(statistics, torch.tensor(weights), metric=metric)
        np.testing.assert_allclose(actual.numpy(), by_resample, atol=1e-12)


def test_r1_is_the_chance_that_no_drawn_candidate_is_nearer():
    """Of 4 candidates, drawn with replacement, the partner is nearest with probability (1 − f)^4."""
    rng = np.random.default_rng(0)
    angles = torch.tensor([0.0, 0.1, 0.2, 1.0, 2.0])
    points = torch.stack([angles.cos(), angles.sin()], dim=1).double()
    order = torch.tensor([1, 0, 2, 4, 3])
    statistics = torch.cat([torch.arange(5).double()[:, None], points, points[order]], dim=1)
    hits = []
    for _ in range(4000):
        query, (queries, candidates) = (
            rng.integers(5),
            ((points, points[order]), (points[order], points))[rng.integers(2)],
        )
        drawn = rng.choice([j for j in range(5) if j != query], size=4)
        scores = candidates @ queries[query]
        hits.append(bool((scores[drawn] < scores[query]).all()))
    assert np.mean(hits) == pytest.approx(float(TASK.metric_value(statistics)), abs=0.025)


def test_metrics_over_a_split_count_the_nearest_of_all():
    speech = torch.eye(3).double()[[0, 1, 1, 2]]  # the third clip is nearest to another text
    text, labels, classes = torch.eye(3).double()[[0, 1, 0, 2]], torch.tensor([5, 6, 5, 7]), torch.tensor([0, 0, 1, 1])
    metrics = TASK.metrics()
    metrics.update(speech[:1], text[:1], labels[:1], classes[:1], ["a"])
    metrics.update(speech[1:], text[1:], labels[1:], classes[1:], ["b", "a", "c"])
    values = metrics.compute()
    assert nearest_texts(speech, text, labels).tolist() == [0, 1, 1, 3]
    assert values["speech_to_text_r1"] == pytest.approx(3 / 4)
    assert values["text_to_speech_r1"] == 1
    # The third clip is wrong among any that has the text 6, which 1 of 2 others has; all others are right.
    assert values["per_class"][0] > values["per_class"][1]
    assert values["class_num_samples"] == [2, 2]


def test_chrf_is_that_of_sacrebleu():
    pytest.importorskip("sacrebleu", reason="needs sacrebleu: pip install sacrebleu")
    # One trigram of "abc" and "abd" each, two bigrams with one match, three characters with two.
    precision = recall = (2 / 3 + 1 / 2 + 0) / 3
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert compute_chrf(["abc"], ["abd"]) == pytest.approx(expected)
    assert compute_chrf(["same text"], ["same text"]) == pytest.approx(100)


def test_without_sacrebleu_chrf_is_left_out_with_a_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.warns(UserWarning, match="chrF needs sacrebleu, which is not installed, and is left out"):
        assert compute_chrf(["a"], ["a"]) is None


def test_a_label_is_the_text():
    ids, mask = (
        torch.randint(0, 9, (200, 5)),
        (torch.rand(200, 1) < 0.9) & (torch.arange(5) < torch.randint(1, 6, (200, 1))),
    )
    texts = [tuple(row[keep].tolist()) for row, keep in zip(ids, mask, strict=True)]
    labels = label_texts(ids, mask.long()).tolist()
    assert len(set(labels)) == len(set(texts))
    assert len(set(zip(texts, labels, strict=True))) == len(set(texts))
    assert min(labels) >= 0
    assert all(int(float(label)) == label for label in labels)
    longer = label_texts(torch.cat([ids, ids], dim=1), torch.cat([mask, mask & False], dim=1))
    assert longer.tolist() == labels


def make_batch():
    data = make_data()
    return data, next(data.validation_batches(batch_size=6))


def test_a_sample_without_speech_or_text_counts_nothing():
    _, batch = make_batch()
    batch["input_length"][0] = 0
    batch["attention_mask"][1] = 0
    batch["target"][2] = -100
    network = make_network().eval()
    scores = TASK.score(network, batch)
    assert scores.statistics.isnan().any(dim=1).tolist() == [True] * 3 + [False] * 3
    assert TASK.target(batch)[:3].tolist() == [-100] * 3
    assert TASK.sample_targets(batch)["token_length"].tolist() == [-1, 2, -1, 2, 2, 2]
    teacher = make_network(6)
    objective = {
        "target": InfoNCELoss(), "cosine": EmbeddingCosineLoss(student_side="speech", teacher_side="text"),
        "nce": InfoNCEKDLoss(), "states": StateMatchingLoss(), "ctc": CTCLoss(),
    }  # fmt: skip
    parts = [batch, {name: value[3:] for name, value in batch.items()}]
    losses = []
    for part in parts:
        distiller = limbeck.Distiller(network, teacher, objective=objective, task=TASK).prepare(part).eval()
        losses.append(distiller(part).by_loss)
    torch.testing.assert_close(losses[0]["target"], losses[1]["target"])
    # The clip without a target still has a text for the teacher, so those losses compare it too.
    both = {name: value[2:] for name, value in batch.items()}
    distiller = limbeck.Distiller(network, teacher, objective=objective, task=TASK).prepare(both).eval()
    for name in ("cosine", "nce", "states"):
        torch.testing.assert_close(losses[0][name], distiller(both).by_loss[name])


def test_a_teacher_of_texts_retrieves_nothing_and_teaches():
    _, batch = make_batch()
    teacher = make_network(speech_width=None)
    outputs = FrozenTeacher(teacher).predict(batch, TASK)
    assert "speech_embedding" not in outputs.by_sample
    assert float(TASK.metric_value(TASK.score(teacher, batch).statistics)) == 0
    decoded = TASK.decode_outputs(TASK.encode_outputs(outputs, batch), batch)
    assert decoded.by_sample.keys() == outputs.by_sample.keys()
    for name, tensor in outputs.by_sample.items():
        torch.testing.assert_close(decoded.by_sample[name], tensor)
    student = make_network()
    objective = {"states": StateMatchingLoss(), "text": EmbeddingCosineLoss(student_side="text", teacher_side="text")}
    loss = limbeck.Distiller(student, teacher, objective=objective, task=TASK).prepare(batch)(batch)
    loss.total.backward()
    assert student.speech.projection.weight.grad.abs().sum() > 0
    assert student.text.projection.weight.grad.abs().sum() > 0


class Fixed(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, **inputs):
        return self.output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(6, 4), "Fixed must return speech_embedding or text_embedding by name, got Tensor"),
        ({"text_states": torch.zeros(6, 2, 4)}, "must return speech_embedding or text_embedding by name"),
        ((torch.zeros(6, 4), torch.zeros(5, 4)), "text_embedding of Fixed must have 2 dimensions and 6 samples"),
        ((torch.zeros(6, 4), torch.zeros(6, 3)), "must have one width, that of the shared layer"),
        (
            {"speech_embedding": torch.zeros(6, 4), "speech_states": torch.zeros(6, 50, 4)},
            "one state and one row of CTC logits for every n input frames",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_refused(output, message):
    with pytest.raises(LimbeckError, match=message):
        TASK.outputs(Fixed(output), make_batch()[1])


def test_batches_and_data_that_do_not_fit_are_refused():
    data, batch = make_batch()
    with pytest.raises(LimbeckError, match="a batch must be a mapping with input, input_length"):
        TASK.target({"input": batch["input"]})
    flipped = {**batch, "attention_mask": batch["attention_mask"].flip(1)}
    with pytest.raises(LimbeckError, match="pad texts on the right"):
        TASK.model_inputs(flipped)
    with pytest.raises(LimbeckError, match="classes must be at least 1 and candidates at least 2, got 1 and 1"):
        SpeechTextAlignment(candidates=1)
    TASK.check_data(make_network(stride=4), data)
    TASK.check_data(make_network(stride=16, num_tokens=0), data)
    with pytest.raises(LimbeckError, match=r"has 1 frames of SpeechTextEncoder \(stride \d+\) and needs 2"):
        TASK.check_data(make_network(stride=16), data)


def test_the_report_lists_the_nearest_texts():
    _, batch = make_batch()
    speech, text = perfect(batch)
    scores = {
        "good": TASK.score(Fixed((speech, text)), batch),
        "bad": TASK.score(Fixed((speech.roll(1, 0), text)), batch),
    }
    examples = TASK.examples(batch, scores, {})
    texts = read_texts(batch)
    assert texts[0].startswith("text ")
    for example, expected in zip(examples, texts, strict=True):
        assert example.target.text == expected
        assert example.input.image.startswith(b"\x89PNG")
        assert example.predictions["good"].correct
        assert "texts shown: 1. text " in example.predictions["good"].text
        assert "(1.00)" in example.predictions["good"].text
    assert not all(example.predictions["bad"].correct for example in examples)
    batch["text"] = ["words"] * 6
    assert read_texts(batch) == ["words"] * 6
    del batch["text"]
    assert read_texts(batch)[0].split()[0].isdigit()


def test_outputs_have_no_rows():
    outputs = TASK.outputs(make_network(), make_batch()[1])
    assert isinstance(outputs, Outputs)
    assert outputs.logits is None
    assert torch.equal(outputs.by_sample["frame_length"], outputs.by_sample["speech_length"])
