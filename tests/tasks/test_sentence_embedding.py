"""Sentence embeddings: R@1 of resamples is that of NumPy, and teachers read the source of a translation."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck import LimbeckError
from limbeck.core.task import DeployableTask
from limbeck.data.module import make_splits
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.split import Split
from limbeck.evaluation.embedding_map import embedding_map
from limbeck.losses import EmbeddingCosineLoss, EmbeddingMSELoss, FitNetLoss, MarginMSELoss, SupConLoss
from limbeck.models import sentence_encoder
from limbeck.tasks import SentenceEmbedding
from limbeck.tasks.text.retrieval import pack_statistics, rank_texts, retrieval_values, unpack_statistics
from limbeck.testing import check_task

TARGET = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1])  # class 3 has one text, class 2 as well
BY_CLASS = SentenceEmbedding(4, candidates=5)


def embeddings(seed=0, count=8):
    return np.random.default_rng(seed).normal(size=(count, 4))


def make_statistics(rows, target=TARGET, classes=None):
    classes = target if classes is None else classes
    return pack_statistics(torch.tensor(rows), target, classes, torch.arange(len(rows)))


def cosines(rows):
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def numpy_class_values(rows, target, weights, candidates):
    """The chance that the nearest of ``candidates`` weighted draws from the other texts is of the query's class."""
    similarity, values = cosines(rows), []
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        total, below, value = sum(weights[j] for j in others), 0.0, 0.0
        if not any(weights[j] and target[j] == target[i] for j in others):
            values.append(np.nan)
            continue
        for j in sorted(others, key=lambda j: -similarity[i, j]):
            upto = below + weights[j] / total
            value += (target[j] == target[i]) * ((1 - below) ** candidates - (1 - upto) ** candidates)
            below = min(upto, 1.0)
        values.append(value)
    return np.array(values)


def numpy_translation_values(rows, meaning, language, weights, candidates):
    similarity, values = cosines(rows), []
    for i in range(len(rows)):
        by_language = []
        for other in sorted(set(language) - {language[i]}):
            columns = [j for j in range(len(rows)) if language[j] == other]
            partners = [j for j in columns if meaning[j] == meaning[i] and weights[j]]
            if partners:
                (partner,) = partners
                others = [j for j in columns if meaning[j] != meaning[i]]
                nearer = sum(weights[j] for j in others if similarity[i, j] >= similarity[i, partner])
                fraction = nearer / max(sum(weights[j] for j in others), 1)
                by_language.append((1 - fraction) ** (candidates - 1))
        values.append(np.mean(by_language) if by_language else np.nan)
    return np.array(values)


WEIGHTS = torch.tensor([[1] * 8, [2, 1, 0, 1, 3, 1, 0, 0], [0, 4, 4, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]])


def test_retrieval_by_class_of_any_resample_is_that_of_numpy():
    rows = embeddings()
    texts = unpack_statistics(make_statistics(rows))
    for candidates in (2, 7, 1000):
        values = retrieval_values(texts, WEIGHTS, relevant="class", candidates=candidates)
        expected = [numpy_class_values(rows, TARGET.tolist(), w, candidates) for w in WEIGHTS.double().numpy()]
        np.testing.assert_allclose(values.numpy(), expected, atol=1e-12)


def test_retrieval_of_translations_of_any_resample_is_that_of_numpy():
    rows, meaning = embeddings(1, 9), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    language = torch.arange(9) % 3
    texts = unpack_statistics(make_statistics(rows, meaning, language))
    weights = torch.tensor([[1] * 9, [2, 1, 0, 1, 3, 1, 0, 0, 1], [1, 0, 0, 1, 1, 1, 1, 0, 0]])
    for candidates in (2, 7):
        values = retrieval_values(texts, weights, relevant="translation", candidates=candidates)
        expected = [
            numpy_translation_values(rows, meaning.tolist(), language.tolist(), w, candidates)
            for w in weights.double().numpy()
        ]
        np.testing.assert_allclose(values.numpy(), expected, atol=1e-12)


def test_with_many_candidates_the_nearest_text_decides():
    rows = embeddings()
    texts = unpack_statistics(make_statistics(rows))
    values = retrieval_values(texts, relevant="class", candidates=10_000)[0]
    ranking = rank_texts(texts, relevant="class")
    torch.testing.assert_close(values, ranking.nearest, atol=1e-9, rtol=0, equal_nan=True)


def test_ranking_agrees_with_scikit_learn():
    from sklearn.metrics import average_precision_score

    rows, similarity = embeddings(), cosines(embeddings())
    ranking = rank_texts(unpack_statistics(make_statistics(rows)), relevant="class")
    for i in range(8):
        others, relevant = np.arange(8) != i, TARGET.numpy() == TARGET[i].item()
        if not relevant[others].any():
            assert ranking.average_precision[i].isnan()
            continue
        expected = average_precision_score(relevant[others], similarity[i][others])
        assert float(ranking.average_precision[i]) == pytest.approx(expected, abs=1e-12)
        nearest = np.where(others, similarity[i], -9).argmax()
        assert float(ranking.nearest[i]) == relevant[nearest]
        assert int(ranking.neighbors[i, 0]) == nearest


def test_equal_embeddings_retrieve_nothing_for_sure():
    rows = np.ones((4, 3))
    texts = unpack_statistics(make_statistics(rows, torch.tensor([0, 0, 1, 1])))
    assert rank_texts(texts, relevant="class").nearest.tolist() == [0.0] * 4
    values = retrieval_values(texts, relevant="class", candidates=50)
    assert float(values.max()) < 1e-6


def test_a_map_has_its_texts_on_two_components():
    rows = np.concatenate([embeddings()[:, :2] * [3, 1], np.zeros((8, 2))], axis=1)
    texts = unpack_statistics(make_statistics(rows))
    shown = embedding_map(texts.embedding, texts.classes, sample_ids=texts.sample_ids)
    order = sorted(range(8), key=lambda i: int(TARGET[i]))
    assert shown["sample_ids"] == order
    assert shown["classes"] == [int(TARGET[i]) for i in order]
    assert shown["explained"] == 1.0  # all are in a plane
    points = np.array(shown["points"])
    unit = rows[order] / np.linalg.norm(rows[order], axis=1, keepdims=True)
    distances = [np.linalg.norm(x[:, None] - x[None], axis=2) for x in (points, unit)]
    np.testing.assert_allclose(distances[0] / distances[0].max(), distances[1] / distances[1].max(), atol=2e-3)


def make_data(*, translation=False):
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(1, 20, (2 + i % 4,), generator=generator) for i in range(48)]
    fields, masks, target = {"input_ids": ids}, {"input_ids": "attention_mask"}, torch.arange(48) % 4
    if translation:
        target = torch.arange(48) % 2
        fields |= {"source_input_ids": ids[::-1], "meaning": [torch.tensor([i // 2]) for i in range(48)]}
        masks["source_input_ids"] = "source_attention_mask"
    split = Split.from_sequences(SequenceStore(fields, masks=masks), target)
    facts = {"vocab_size": 20, "vocabulary": ["[PAD]", *(f"w{i}" for i in range(1, 20))]}
    store = SequenceStore(
        {name: values for name, values in fields.items() if "source" not in name}, masks={"input_ids": "attention_mask"}
    )
    validation = Split.from_sequences(store, target, first_id=48)
    if translation:  # so few that all translations are in a batch of the checks
        validation = validation.subset(torch.arange(8))
    return make_splits(
        "texts", [str(i) for i in range(2 if translation else 4)], split, seed=0, validation=validation,
        test=validation, facts=facts,
    )  # fmt: skip


def make_network(width=8, **options):
    torch.manual_seed(width)
    return sentence_encoder(width=width, vocab_size=20, **options).eval()


@pytest.mark.parametrize("translation", [False, True])
def test_contract_of_tasks(translation):
    data = make_data(translation=translation)
    vocabulary = tuple(data.facts["vocabulary"])
    if translation:
        task, field = SentenceEmbedding(2, "translation", candidates=20, vocabulary=vocabulary), "meaning"
    else:
        task, field = SentenceEmbedding(4, candidates=20, vocabulary=vocabulary), "target"

    def oracle(batch):
        return torch.eye(50)[batch[field].reshape(-1)]

    # In the translation task each training text has a source, which student and teacher embed as well.
    check_task(task, data, make_network(), teacher=make_network(12, depth=1), oracle=oracle)
    assert isinstance(task, DeployableTask)


def test_the_teacher_reads_the_source_and_the_student_both():
    data = make_data(translation=True)
    task = SentenceEmbedding(2, "translation")
    student, teacher = make_network(8, embedding_dim=12), make_network(12)
    objective = {"text": EmbeddingMSELoss(), "source": EmbeddingCosineLoss(student_side="source")}
    distiller = limbeck.Distiller(student, teacher, objective=objective, task=task)
    batch = data.batches(batch_size=6).batch(0)
    distiller.prepare(batch).train()
    loss = distiller(batch)
    source = {name: batch[f"source_{name}"] for name in ("input_ids", "attention_mask")}
    text = {name: batch[name] for name in source}
    expected = (student(**text) - teacher(**source)).square().sum(dim=1).mean()
    torch.testing.assert_close(loss.by_loss["text"], expected)
    cosine = nn.functional.cosine_similarity(student(**source), teacher(**source)).mean()
    torch.testing.assert_close(loss.by_loss["source"], 1 - cosine)
    loss.total.backward()
    assert student.embedding.weight.grad.abs().sum() > 0


def test_losses_on_tokens_are_refused_where_student_and_teacher_read_different_texts():
    data = make_data(translation=True)
    layers = {name: {"mid": "embedding"} for name in ("student", "teacher")}
    distiller = limbeck.Distiller(
        make_network(), make_network(8), objective={"mid": FitNetLoss("mid")}, feature_layers=layers,
        task=SentenceEmbedding(2, "translation"),
    )  # fmt: skip
    with pytest.raises(LimbeckError, match="'embedding' ran 2 times in one forward pass"):
        distiller.prepare(data.batches(batch_size=6).batch(0))


def test_targets_reach_the_losses_by_class_and_by_meaning():
    batch = make_data(translation=True).batches(batch_size=6).batch(0)
    by_meaning = SentenceEmbedding(2, "translation")
    assert torch.equal(by_meaning.target(batch), batch["meaning"][:, 0])
    batch["target"][0] = -100
    assert int(by_meaning.target(batch)[0]) == -100
    distiller = limbeck.Distiller(
        make_network(), make_network(12), objective={"target": SupConLoss(), "margin": MarginMSELoss(triples="all")},
        task=by_meaning,
    )  # fmt: skip
    distiller(batch).total.backward()
    with pytest.raises(LimbeckError, match="translations need the field meaning in a batch: use MultilingualSentences"):
        by_meaning.target({name: value for name, value in batch.items() if name != "meaning"})


def test_examples_and_details_show_the_nearest_texts():
    data = make_data()
    task = SentenceEmbedding(4, vocabulary=tuple(data.facts["vocabulary"]))
    batch = next(data.validation_batches(batch_size=12))
    network = make_network()
    scores = {"student": task.score(network, batch)}
    first = task.examples(batch, scores, {"class_names": ["a", "b", "c", "d"]})[0]
    assert first.input.text.startswith("w")
    nearest = (scores["student"].predictions[0] @ torch.stack(scores["student"].predictions[1:]).T).argmax()
    assert first.predictions["student"].correct == (batch["target"][nearest + 1] == batch["target"][0])
    assert first.predictions["student"].text.startswith("nearest of the 11 other texts shown: 1. w")
    metrics = task.metrics()
    metrics.update(*scores["student"].metric_args)
    neighbors = metrics.compute()["neighbors"]
    assert len(neighbors) == 8
    assert neighbors[0]["text"] == first.input.text
    assert neighbors[0]["neighbors"][0]["relevant"] is first.predictions["student"].correct
    # Without a vocabulary there is no text to show.
    plain = SentenceEmbedding(4)
    metrics = plain.metrics()
    metrics.update(*plain.score(network, batch).metric_args)
    assert "neighbors" not in metrics.compute()


def test_the_value_depends_neither_on_the_order_nor_on_the_width_of_padding():
    rows = embeddings()
    values = {
        round(float(BY_CLASS.metric_value(make_statistics(rows)[list(order)])), 9)
        for order in list(permutations(range(8)))[::997]
    }
    assert len(values) == 1
    wide = np.concatenate([rows, np.zeros((8, 396))], axis=1)
    assert make_statistics(rows).shape[1] == 3 + 384
    assert make_statistics(wide).shape[1] == 3 + 768
    assert float(BY_CLASS.metric_value(make_statistics(wide))) == pytest.approx(values.pop(), abs=1e-8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"relevant": "meaning"}, "relevant must be class or translation, got 'meaning'"),
     ({"candidates": 1}, "candidates must be at least 2, got 1"),
     ({"classes": 1, "relevant": "translation"}, "translations need at least 2 languages, got 1"),
     ({"classes": 0}, "classes must be at least 1, got 0")],
)  # fmt: skip
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(LimbeckError, match=message):
        SentenceEmbedding(**{"classes": 4, **settings})


def test_networks_that_do_not_fit_are_refused():
    batch = next(make_data().validation_batches(batch_size=4))
    network = make_network()
    network.forward = lambda input_ids, attention_mask: torch.zeros(4, 3, 2)
    with pytest.raises(LimbeckError, match=r"must return embeddings \[4, width\], got \[4, 3, 2\]: pool its tokens"):
        BY_CLASS.outputs(network, batch)
    small = sentence_encoder(width=4, vocab_size=10)
    with pytest.raises(LimbeckError, match="an embedding for each of the 20 tokens of the data, got 10"):
        BY_CLASS.check_data(small, make_data())
    with pytest.raises(LimbeckError, match="must be a mapping with input_ids and attention_mask"):
        BY_CLASS.outputs(network, (batch["input_ids"], batch["target"]))
