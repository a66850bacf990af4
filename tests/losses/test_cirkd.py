"""CIRKD compares softmaxed cosines of pixels to pixels of the batch, and to pixels and regions in bounded memories."""

from __future__ import annotations

import io
import runpy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import limbeck.losses._class_memory as class_memory
from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import CIRKDLoss, cirkd_loss, cirkd_memory_loss
from limbeck.losses import _relations as relations
from limbeck.losses._class_memory import ClassMemory, rank_in_group, sample_in_groups
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))
SHAPES = {"student_feature_shapes": {"mid": (8, 4, 4)}, "teacher_feature_shapes": {"mid": (6, 2, 3)}}
CLASSES = 5


def unit(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def log_softmax(row):
    shifted = row - row.max()
    return shifted - np.log(np.exp(shifted).sum())


def divergence(student, teacher, others_s, others_t, tau):
    """Mean over pixels of KL(teacher ‖ student), pixel by pixel."""
    values = []
    for s, t in zip(student, teacher, strict=True):
        log_q, log_p = log_softmax(others_s @ s / tau), log_softmax(others_t @ t / tau)
        values.append((np.exp(log_p) * (log_p - log_q)).sum())
    return np.mean(values)


def paper(student, teacher, tau=0.1):
    student, teacher = shared.matched(student, teacher)
    images = [
        [unit(image.reshape(len(image), -1).T) for image in maps] for maps in (student, teacher)
    ]  # fmt: skip
    pairs = [
        divergence(images[0][i], images[1][i], images[0][j], images[1][j], tau)
        for i in range(len(student)) for j in range(len(student))
    ]  # fmt: skip
    return np.mean(pairs)


def make_masked_context(**options):
    context = make_context(**{**SHAPES, "classes": CLASSES, **options})
    draw = torch.Generator().manual_seed(options.get("seed", 0))
    mask = torch.randint(-1, CLASSES, (len(context.sample_ids), 4, 6), generator=draw)
    return replace(context, sample_targets={"mask": torch.where(mask < 0, -100, mask)})


def prepared(context, **options):
    torch.manual_seed(0)
    loss_fn = CIRKDLoss("mid", **{"pixel_memory_size": 40, "region_memory_size": 6, **options})
    loss_fn.prepare(context)
    return loss_fn


def test_it_passes_every_check_without_memory():
    loss_fn = CIRKDLoss("mid", pixel_weight=0.0, region_weight=0.0)
    check_loss(loss_fn, context_factory=partial(make_context, **SHAPES))
    assert not loss_fn.state_dict()


def test_it_passes_every_check_with_memory_but_zero_at_agreement_through_the_head():
    loss_fn = prepared(make_masked_context())
    loss_fn(make_masked_context(seed=9))  # fills the memories
    loss_fn.prepare = lambda context: None  # the check would empty them again
    check_loss(loss_fn.eval(), context_factory=make_masked_context, skip={"zero at agreement"})


def test_values_computed_by_hand():
    # Student cosines (1, 0) and (0, 1), teacher (1, 1): with q = e/(1+e), KL = −½ ln(4 q (1 − q)).
    q = np.e / (1 + np.e)
    expected = -0.5 * np.log(4 * q * (1 - q))
    student = torch.tensor([[[[2.0, 0.0]], [[0.0, 5.0]]]])
    assert float(cirkd_loss(student, torch.ones(1, 3, 1, 2), temperature=1.0)) == pytest.approx(expected, rel=1e-5)
    # Mean over two rows, of which the second agrees.
    embeddings = torch.eye(2), torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0]])
    value = cirkd_memory_loss(*embeddings, torch.eye(2), temperature=1.0)
    assert float(value) == pytest.approx(expected / 2, rel=1e-5)


@shared.FEW
@given(shared.features(same_channels=False, same_size=False), st.sampled_from([0.1, 1.0]))
def test_the_relations_within_a_batch_agree_with_the_paper_in_numpy(pair, tau):
    shared.close(cirkd_loss(*map(torch.tensor, pair), temperature=tau), paper(*pair, tau))


def test_patches_are_averaged_first():
    student, teacher = torch.randn(2, 3, 6, 4), torch.randn(2, 5, 3, 2)
    pooled = torch.nn.functional.avg_pool2d(student, 2)
    expected = cirkd_loss(torch.nn.functional.avg_pool2d(pooled, (3, 2)), teacher.mean(dim=(2, 3), keepdim=True))
    torch.testing.assert_close(cirkd_loss(student, teacher, patch_size=3), expected)


def test_half_precision_is_computed_in_float32():
    shared.check_half(cirkd_loss, paper, (2, 3, 4, 4), (2, 5, 4, 4))


def test_the_gradient_is_that_of_finite_differences():
    shared.check_gradient(cirkd_loss, (2, 3, 2, 2), (2, 5, 2, 2))


@pytest.mark.parametrize("stored", [0, 1])
def test_one_stored_embedding_or_none_and_no_pixel_give_zero(stored):
    student = torch.randn(3, 4, requires_grad=True)
    value = cirkd_memory_loss(student, torch.randn(3, 4), torch.randn(stored, 4))
    value.backward()
    assert value.item() == 0.0
    assert not student.grad.any()
    assert cirkd_loss(torch.zeros(0, 3, 2, 2), torch.zeros(0, 3, 2, 2)).item() == 0.0


def test_the_class_agrees_with_numpy_over_batches():
    contexts = [make_masked_context(seed=seed, dtype=torch.float64) for seed in range(3)]
    loss_fn = prepared(contexts[0], pixel_memory_size=500, region_memory_size=500)
    pixels, regions = [[] for _ in range(CLASSES)], [[] for _ in range(CLASSES)]
    for context in contexts:
        student, teacher = (outputs.feature("mid") for outputs in (context.student, context.teacher))
        small, large = shared.matched(student.detach().numpy(), teacher.detach().numpy())
        with torch.no_grad():
            head = loss_fn.head(torch.tensor(small)).numpy()
        mask = context.sample_target("mask")[:, ::2, ::2].numpy()
        rows_s, rows_t = [], []
        for image, labels in enumerate(mask):
            embedded = [unit(maps[image].reshape(6, -1).T) for maps in (head, large)]
            for label in range(CLASSES):
                if (labels == label).any():
                    rows = embedded[1][labels.ravel() == label]
                    pixels[label] += list(rows)
                    regions[label].append(unit(rows.mean(axis=0, keepdims=True))[0])
            rows_s.append(embedded[0][labels.ravel() >= 0])
            rows_t.append(embedded[1][labels.ravel() >= 0])
        rows_s, rows_t = np.concatenate(rows_s), np.concatenate(rows_t)
        memories = [np.array([row for rows in memory for row in rows]) for memory in (pixels, regions)]
        by_memory = [divergence(rows_s, rows_t, memory, memory, 0.1) for memory in memories]
        expected = paper(student.detach().numpy(), teacher.detach().numpy()) + 0.1 * sum(by_memory)
        assert float(loss_fn(context).detach()) == pytest.approx(expected, rel=1e-6)
    assert loss_fn.pixel_memory.num_stored.tolist() == [len(rows) for rows in pixels]


def test_a_memory_keeps_the_last_embeddings_of_each_class_and_only_present_classes_change():
    random, memory = np.random.default_rng(0), ClassMemory(classes=3, size=4, reference=torch.zeros(0, 2))
    expected = [[], [], []]
    for _ in range(6):
        classes, rows = random.integers(0, 2, size=7), random.normal(size=(7, 2)).astype(np.float32)
        memory.add(torch.tensor(rows), torch.tensor(classes))
        for label, row in zip(classes, rows, strict=True):
            expected[label] = [*expected[label], row.tolist()][-4:]
        assert [sorted(x.tolist()[: len(e)]) for x, e in zip(memory.embeddings, expected, strict=True)] == [
            sorted(e) for e in expected
        ]
    memory.add(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    assert memory.num_stored.tolist() == [4, 4, 0]
    assert memory.embeddings.shape == (3, 4, 2)


def test_as_many_embeddings_of_each_class_are_sampled():
    memory = ClassMemory(classes=4, size=50, reference=torch.zeros(0, 1))
    classes = torch.tensor([0] * 90 + [2] * 3 + [3] * 20)
    memory.add(classes[:, None].float() + torch.arange(len(classes))[:, None] / 1000, classes)
    torch.manual_seed(0)
    first, second = (memory.sample(8).ravel() for _ in range(2))
    assert torch.bincount(first.long()).tolist() == [8, 0, 3, 8]
    assert len(first.unique()) == len(first)
    assert not torch.equal(first.sort().values, second.sort().values)


def test_stored_pixels_are_of_their_class_and_at_most_sixteen_of_a_class_and_image():
    maps = torch.eye(3)[torch.arange(2 * 6 * 10).reshape(2, 6, 10) % 3].movedim(3, 1)
    mask = maps.argmax(dim=1)
    outputs = Outputs(logits=torch.zeros(2, 3), features={"mid": maps})
    context = LossContext(student=outputs, teacher=outputs, sample_targets={"mask": mask})
    loss_fn = prepared(context)
    loss_fn(context)
    assert loss_fn.pixel_memory.num_stored.tolist() == [32, 32, 32]
    assert loss_fn.region_memory.num_stored.tolist() == [2, 2, 2]
    for memory in (loss_fn.pixel_memory, loss_fn.region_memory):
        for label, count in enumerate(memory.num_stored.tolist()):
            assert torch.equal(memory.embeddings[label, :count], torch.eye(3)[label].expand(count, 3))


def test_groups_are_ranked_and_sampled():
    groups = torch.randint(0, 4, (50,), generator=torch.Generator().manual_seed(0))
    expected = [groups[:i].tolist().count(group) for i, group in enumerate(groups.tolist())]
    assert rank_in_group(groups).tolist() == expected
    sampled = torch.bincount(groups[sample_in_groups(groups, 3)], minlength=4)
    assert torch.equal(sampled, torch.bincount(groups, minlength=4).clamp(max=3))


def test_images_without_a_class_train_by_the_batch_only_and_store_nothing():
    context = make_masked_context()
    unlabeled = replace(context, sample_targets={"mask": torch.full((6, 4, 6), -100)})
    loss_fn = prepared(context)
    value = loss_fn(unlabeled)
    value.backward()
    within = cirkd_loss(context.student.feature("mid"), context.teacher.feature("mid"))
    torch.testing.assert_close(value, within)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in loss_fn.parameters())
    assert not loss_fn.pixel_memory.num_written.any()


def test_a_memory_without_weight_is_not_stored():
    context = make_masked_context()
    pixels = prepared(context, region_weight=0.0, batch_weight=0.0)
    regions = prepared(context, pixel_weight=0.0)
    assert pixels.region_memory is regions.pixel_memory is None
    assert all(loss_fn(context) > 0 for loss_fn in (pixels, regions))


def test_resuming_from_a_saved_state_ends_with_the_same_bits():
    contexts = [make_masked_context(seed=seed) for seed in range(4)]
    loss_fn, again = prepared(contexts[0], num_pixels=10), prepared(contexts[0], num_pixels=10)
    for context in contexts[:2]:
        loss_fn(context)
    file = io.BytesIO()
    torch.save(loss_fn.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    values = []
    for module in (loss_fn, again):
        torch.manual_seed(1)
        values.append([module(context).detach() for context in contexts[2:]])
    assert torch.equal(torch.stack(values[0]), torch.stack(values[1]))
    pairs = zip(loss_fn.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_memories_are_unchanged_in_eval_mode():
    loss_fn = prepared(make_masked_context())
    loss_fn(make_masked_context())
    before = loss_fn.eval().state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    loss_fn(make_masked_context(seed=3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in loss_fn.state_dict().items())


def test_several_processes_store_the_embeddings_of_all(monkeypatch):
    rows, classes = torch.randn(5, 2), torch.tensor([0, 1, 0, 1, 1])
    expected, memory = (ClassMemory(classes=2, size=4, reference=torch.zeros(0, 2)) for _ in range(2))
    expected.add(rows, classes)
    monkeypatch.setattr(class_memory, "gather_sizes", lambda sizes, device: [[3], [2]])
    monkeypatch.setattr(class_memory, "all_gather", lambda x, sizes: rows if x.ndim == 2 else classes)
    memory.add(rows[:3], classes[:3])
    assert torch.equal(memory.embeddings, expected.embeddings)
    assert torch.equal(memory.num_written, expected.num_written)


def test_it_works_in_another_precision():
    context = make_masked_context()
    for dtype in (torch.bfloat16, torch.float64):
        value = prepared(context).to(dtype)(context)
        assert torch.isfinite(value)
        assert value.dtype != torch.bfloat16


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimbeckError, match="one of batch_weight, pixel_weight and region_weight must be above 0"):
        CIRKDLoss("mid", batch_weight=0.0, pixel_weight=0.0, region_weight=0.0)
    with pytest.raises(LimbeckError, match=r"region_weight must be in \[0, inf\), got -1"):
        CIRKDLoss("mid", region_weight=-1.0)
    with pytest.raises(LimbeckError, match=r"pixel_memory_size must be in \[1, inf\), got 0"):
        CIRKDLoss("mid", pixel_memory_size=0)
    with pytest.raises(LimbeckError, match=r"call distiller.prepare\(batch\) before building the optimizer"):
        CIRKDLoss("mid")(make_masked_context())
    with pytest.raises(LimbeckError, match="this loss needs the target 'mask' of each sample"):
        prepared(make_masked_context())(make_context(**SHAPES))
    with pytest.raises(LimbeckError, match=r"cross-image distillation compares .*\[6, 5\]: use a convolutional layer"):
        CIRKDLoss("mid").prepare(
            make_context(student_feature_shapes={"mid": (5,)}, teacher_feature_shapes={"mid": (5,)})
        )
    with pytest.raises(LimbeckError, match=r"embeddings have the shape \[2, 3\]"):
        cirkd_memory_loss(torch.ones(2, 3), torch.ones(2, 4), torch.ones(1, 4))


def test_it_describes_its_settings_and_memories():
    text = str(prepared(make_masked_context()))
    assert "layer='mid', temperature=0.1, patch_size=1, batch_weight=1, pixel_weight=0.1, region_weight=0.1" in text
    assert "classes=5, size=40, width=6" in text


@pytest.mark.parametrize("block", [1, 7, 2**18])
def test_relations_in_blocks_have_the_value_and_the_gradient_of_all_pairs(monkeypatch, block):
    monkeypatch.setitem(relations._BLOCK_ELEMENTS, "cpu", block)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(n, 3, dtype=torch.float64, generator=generator) for n in (5, 4, 5, 4)]
    student = [tensor.requires_grad_() for tensor in tensors[:2]]
    value = relations.relation_kl(*tensors, 0.3)
    rows_s, set_s, rows_t, set_t = tensors
    log_q, log_p = ((a @ b.T / 0.3).log_softmax(dim=1) for a, b in ((rows_s, set_s), (rows_t, set_t)))
    expected = (log_p.exp() * (log_p - log_q)).sum()
    torch.testing.assert_close(value, expected)
    gradients, by_autograd = (torch.autograd.grad(2 * x, student) for x in (value, expected))
    torch.testing.assert_close(gradients, by_autograd)
    with torch.no_grad():
        assert torch.equal(relations.relation_kl(*tensors, 0.3), value)
