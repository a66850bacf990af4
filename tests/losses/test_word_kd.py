"""Word- and sequence-level distillation and the weights of language pairs against NumPy in float64."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from limbeck import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import SeqKDLoss, WordKDLoss, kd_loss, seq_kd_loss, word_kd_loss
from limbeck.losses._pair_weights import PairWeights
from limbeck.testing import check_loss, make_context

NAMES = ("cs-en", "de-en", "fr-en")
SIMILARITY = {
    "languages": ["cs", "de", "fr", "en"],
    "uriel": [[1, 0.8, 0.7, 0.6], [0.8, 1, 0.9, 0.5], [0.7, 0.9, 1, 0.4], [0.6, 0.5, 0.4, 1]],
    "script": [[1, 0.5, 0.5, 0.5], [0.5, 1, 0.5, 0.5], [0.5, 0.5, 1, 0.5], [0.5, 0.5, 0.5, 1]],
}
COUNTS = [[6, 0, 3, 1], [2, 5, 3, 1], [4, 5, 4, 1]]  # tokens by languages
FACTS = {"class_names": NAMES, "language_similarity": SIMILARITY, "subword_counts": COUNTS}


def random_logits(seed, shape=(7, 9), scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax(z):
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("top_k", [None, 1, 3, 9])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_value_is_that_of_numpy(top_k, temperature):
    student, teacher, weights = random_logits(0), random_logits(1), torch.rand(7) + 0.5
    p, q = (softmax(x.double().numpy() / temperature) for x in (teacher, student))
    if top_k not in (None, 9):
        top = np.argsort(-p, axis=1)[:, :top_k]
        tops = [np.take_along_axis(x, top, axis=1) for x in (p, q)]
        p, q = (np.concatenate([x, 1 - x.sum(axis=1, keepdims=True)], axis=1) for x in tops)
    expected = temperature**2 * (weights.numpy() * (p * np.log(p / q)).sum(axis=1)).mean()
    value = word_kd_loss(student, teacher, temperature=temperature, top_k=top_k, row_weights=weights)
    assert float(value) == pytest.approx(expected, rel=1e-4)


def test_the_bucket_is_a_lower_bound_with_nearly_the_full_gradient():
    student, teacher = random_logits(0, (40, 60)).requires_grad_(), random_logits(1, (40, 60))
    losses = {k: word_kd_loss(student, teacher, top_k=k) for k in (1, 4, 16, 60)}
    values = [float(loss.detach()) for loss in losses.values()]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(float(kd_loss(student, teacher, temperature=1.0).detach()), rel=1e-6)
    full, bucket = (torch.autograd.grad(losses[k], student)[0].flatten() for k in (60, 16))
    assert float(torch.cosine_similarity(full, bucket, dim=0)) > 0.95
    # Finite where one class has all of the probability.
    sure = torch.tensor([[100.0, 0.0, 0.0]])
    for pair in ((sure, random_logits(2, (1, 3))), (random_logits(2, (1, 3)), sure), (sure, -sure)):
        start = pair[0].clone().requires_grad_()
        loss = word_kd_loss(start, pair[1], top_k=1)
        loss.backward()
        assert loss.isfinite()
        assert start.grad.isfinite().all()


def test_a_small_bucket_has_its_gradient():
    student = torch.tensor([[30.0, 0.0, -1.0]], dtype=torch.float32)  # a bucket below the rounding of float32
    teacher = torch.tensor([[5.0, 1.0, 0.0]])
    gradients = []
    for dtype in (torch.float32, torch.float64):
        logits = student.to(dtype, copy=True).requires_grad_()
        gradients.append(torch.autograd.grad(word_kd_loss(logits, teacher.to(dtype), top_k=1), logits)[0].double())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-8)
    p = softmax(teacher.double().numpy())[0]
    share = np.exp([0.0, -1.0]) / np.exp([0.0, -1.0]).sum()  # of the bucket, by the student
    q = softmax(student.double().numpy())[0]
    expected = q - np.concatenate([p[:1], p[1:].sum() * share])
    np.testing.assert_allclose(gradients[1][0].numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("loss", [WordKDLoss(temperature=2.0), WordKDLoss(top_k=2), WordKDLoss(rows="all")])
def test_contract_of_losses(loss):
    check_loss(loss)


def sentence_context(*, is_hypothesis=(0, 0, 1, 0, 1, 1), rows_pair=(0, 0, 0, 1, 1, 2), **options):
    """Six rows of three sentences, the last without a target."""
    context = make_context(rows=6, classes=3, **options)
    kinds, pair = torch.tensor(is_hypothesis).bool(), torch.tensor(rows_pair)
    token = torch.tensor([0, 1, 2, 1, 0, 2])
    by_row = {"is_hypothesis": kinds, "token": token, "pair": pair}
    ids = torch.tensor([[0, 1], [1, 2], [2, 0]])
    by_sample = {
        "input_ids": ids,
        "attention_mask": torch.tensor([[1, 1], [1, 0], [1, 1]]),
        "hypothesis_length": kinds[:3],
    }
    student = replace(context.student, by_row=by_row, by_sample=by_sample, row_to_sample=pair, features={})
    teacher = replace(context.teacher, by_row=by_row, by_sample=by_sample, row_to_sample=pair, features={})
    target = token.masked_fill(kinds, -100)
    return replace(context, student=student, teacher=teacher, teachers={"teacher": teacher}, target=target)


def test_contract_of_the_sequence_loss():
    skip = {"zero at agreement", "unchanged by repetition", "unchanged by an impossible class"}
    check_loss(SeqKDLoss(), context_factory=sentence_context, skip=skip)


def test_rows_of_one_kind():
    context = sentence_context()
    student, teacher = context.student.logits.detach(), context.teacher.logits.detach()
    log_q, tokens = np.log(softmax(student.double().numpy())), context.student.by_row["token"].numpy()
    hypothesis = np.array([False, False, True, False, True, True])
    for rows, mask in (("reference", ~hypothesis), ("hypothesis", hypothesis), ("all", hypothesis | ~hypothesis)):
        expected = kd_loss(student[torch.tensor(mask)], teacher[torch.tensor(mask)], temperature=2.0)
        assert float(WordKDLoss(rows=rows, temperature=2.0)(context).detach()) == pytest.approx(
            float(expected), rel=1e-5
        )
    expected = -log_q[np.arange(6), tokens][hypothesis].mean()
    assert float(SeqKDLoss()(context).detach()) == pytest.approx(expected, rel=1e-5)
    assert float(seq_kd_loss(student[:0], torch.zeros(0).long())) == 0.0


def numpy_weights(measures, sharpness, anchor=0):
    index = [SIMILARITY["languages"].index(name.split("-")[0]) for name in NAMES]
    values = np.ones(3)
    for measure in measures:
        values = values * np.array([SIMILARITY[measure][i][index[anchor]] for i in index])
    values = values**sharpness
    return values / values.mean()


@pytest.mark.parametrize("measures", [("uriel",), ("uriel", "script")])
def test_weights_by_similarity(measures):
    context = sentence_context()
    settings = {"similarity": measures, "anchor": "cs-en", "sharpness": 3.0, **FACTS}
    loss, weights = WordKDLoss(**settings), numpy_weights(measures, 3.0)
    np.testing.assert_allclose(loss.pair_weights.similarity.numpy(), weights, rtol=1e-5)
    p, q = (softmax(o.logits.detach().double().numpy()) for o in (context.teacher, context.student))
    by_row = weights[[0, 0, 0, 1, 1, 2]] * (p * np.log(p / q)).sum(axis=1)
    assert float(WordKDLoss(temperature=1.0, **settings)(context).detach()) == pytest.approx(by_row.mean(), rel=1e-5)
    kinds = np.array([0, 0, 1, 0, 1, 1], bool)
    nll = -np.log(q)[np.arange(6), context.student.by_row["token"].numpy()]
    expected = (weights[[0, 0, 0, 1, 1, 2]] * nll)[kinds].mean()
    assert float(SeqKDLoss(**settings)(context).detach()) == pytest.approx(expected, rel=1e-5)
    shuffled = WordKDLoss(shuffle_seed=4, **settings).pair_weights.similarity
    np.testing.assert_allclose(shuffled.numpy(), weights[[0, 2, 1]], rtol=1e-5)  # the anchor keeps its own


def test_weights_by_the_subwords_of_each_sample():
    frequencies = np.array(COUNTS, float)
    frequencies /= frequencies.sum(axis=0)
    expected = []
    for pair, ids in enumerate(([0, 1], [1], [2, 0])):
        own, anchor = frequencies[ids, pair], frequencies[ids, 0]
        expected.append(np.minimum(1, 2 * anchor / (own + anchor)).mean() ** 2)
    weights = PairWeights(similarity=["sample"], anchor="cs-en", sharpness=2.0, **FACTS)
    context = sentence_context()
    actual = weights(context.student, context.teacher, context.target)
    np.testing.assert_allclose(actual.numpy(), np.array(expected)[[0, 0, 0, 1, 1, 2]], rtol=1e-5)
    assert expected[0] == 1.0 != expected[1]


@pytest.mark.parametrize("by", ["pair", "sample"])
def test_weights_fall_as_the_student_catches_up(by):
    weights = PairWeights(catch_up=0.8, catch_up_by=by, **FACTS).train()
    contexts = [sentence_context(seed=seed) for seed in (0, 1)]
    gaps = []
    for context in contexts:
        nll = [
            -np.log(softmax(o.logits.detach().double().numpy()))[np.arange(6), context.student.by_row["token"].numpy()]
            for o in (context.student, context.teacher)
        ]
        gap = nll[0] - nll[1]
        gaps.append([gap[:2].mean(), gap[3]])  # of the targets of the first two pairs; the third has none
        actual = weights(context.student, context.teacher, context.target)
    running = [0.98 * first + 0.02 * second for first, second in zip(*gaps, strict=True)]
    np.testing.assert_allclose(weights.gap[:2].numpy(), running, rtol=1e-4)
    by_pair = np.append(np.clip(np.array(running) / 0.8, 0, 1), 1.0)  # full before the first target
    by_sample = np.append(np.clip(np.array(gaps[1]) / 0.8, 0, 1), 1.0)
    expected = (by_pair if by == "pair" else by_sample)[[0, 0, 0, 1, 1, 2]]
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-6)
    state = weights.gap.clone()
    weights.eval()(contexts[0].student, contexts[0].teacher, contexts[0].target)
    assert torch.equal(weights.gap, state)
    # The product of both kinds.
    both = PairWeights(similarity=["uriel"], anchor="cs-en", catch_up=0.8, catch_up_by="sample", **FACTS).train()
    product = both(contexts[0].student, contexts[0].teacher, contexts[0].target).numpy()
    first = np.append(np.clip(np.array(gaps[0]) / 0.8, 0, 1), 1.0)[[0, 0, 0, 1, 1, 2]]
    np.testing.assert_allclose(
        product, first * numpy_weights(("uriel",), 1.0)[[0, 0, 0, 1, 1, 2]], rtol=1e-4, atol=1e-6
    )


def test_samples_that_a_teacher_skips_count_for_nothing():
    context = sentence_context()
    valid = torch.tensor([True, False, True])
    teacher = replace(context.teacher, valid=valid)
    masked = replace(context, teacher=teacher, teachers={"teacher": teacher})
    rows = torch.tensor([0, 1, 2, 5])
    expected = kd_loss(context.student.logits[rows], context.teacher.logits[rows], temperature=1.0)
    assert float(WordKDLoss(temperature=1.0)(masked).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    settings = {"similarity": ["uriel"], "anchor": "cs-en", **FACTS}
    assert WordKDLoss(**settings, catch_up=1.0)(masked).isfinite()
    weights = PairWeights(**{**settings, "similarity": ["uriel", "sample"]})
    pair = masked.pair()
    assert len(weights(*pair, masked.pair_with_target()[2])) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rows": "both"}, "rows must be all, reference or hypothesis"), ({"top_k": 0}, "top_k at least 1"),
     ({"similarity": ["uriel"]}, "anchor must be one of the language pairs"),
     ({"shuffle_seed": 0}, "anchor, sharpness and shuffle_seed need similarity"),
     ({"similarity": "uriel", "anchor": "cs-en"}, r"similarity must be a list of names, got 'uriel': write \[uriel\]"),
     ({"similarity": ["genes"], "anchor": "cs-en"}, "similarity must be of uriel, script, or sample, got 'genes'"),
     ({"catch_up": 0.0}, r"catch_up must be in \(0, inf\)"), ({"catch_up_by": "row"}, "catch_up_by must be pair or"),
     ({"temperature": -1.0}, "a temperature must be above zero")],
)  # fmt: skip
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(LimbeckError, match=message):
        WordKDLoss(**{**FACTS, **settings})


def test_missing_rows_and_facts_are_named():
    with pytest.raises(LimbeckError, match="rows: reference needs rows of sentences: use the task Translation"):
        WordKDLoss(rows="reference")(make_context())
    with pytest.raises(LimbeckError, match="SeqKDLoss needs translations of a teacher"):
        SeqKDLoss().train()(make_context())
    without = {name: value for name, value in SIMILARITY.items() if name != "uriel"}
    with pytest.raises(LimbeckError, match="uriel needs pip install --no-deps lang2vec"):
        WordKDLoss(similarity=["uriel"], anchor="cs-en", **{**FACTS, "language_similarity": without})
    with pytest.raises(LimbeckError, match="shuffle_seed needs at least two language pairs beside the anchor, got 1"):
        WordKDLoss(similarity=["uriel"], anchor="cs-en", shuffle_seed=0, **{**FACTS, "class_names": NAMES[:2]})
    weighted = partial(WordKDLoss, similarity=["uriel"], anchor="cs-en", **FACTS)
    with pytest.raises(LimbeckError, match="need rows with 'pair'"):
        weighted()(make_context())
    with pytest.raises(LimbeckError, match="sample needs data that declares subword_counts"):
        SeqKDLoss(similarity=["sample"], anchor="cs-en", class_names=NAMES)
    context = LossContext(student=Outputs(logits=torch.zeros(2, 3)), teacher=Outputs(logits=torch.zeros(2, 3)))
    assert float(WordKDLoss()(context).detach()) == 0.0
