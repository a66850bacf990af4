"""byot_loss is the sum over heads of (1 − α) · CE + α · τ² · KL to the deepest classifier."""

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.losses import BYOTLoss, byot_loss
from limbeck.testing import check_loss, make_context

paper = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_itself.py"))))
FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)
MAPS = partial(make_context, student_feature_shapes={"low": (4, 6, 6), "mid": (6, 3, 3), "deep": (8, 3, 3)})


def by_paper(heads, deepest, target, alpha, tau):
    return sum((1 - alpha) * paper.cross_entropy(z, target) + alpha * paper.kl(deepest, z, tau) for z in heads)


def test_it_passes_every_check():
    # Heads of its own do not agree with any teacher, and learn a row for each class there was.
    apart = {"zero at agreement", "unchanged by an impossible class"}
    check_loss(BYOTLoss(("low", "mid")), context_factory=MAPS, skip=apart)
    check_loss(BYOTLoss(("low", "mid"), deepest_layer="deep"), context_factory=MAPS, skip=apart)
    tokens = partial(make_context, student_feature_shapes={"a": (5, 4), "b": (5, 6)})
    check_loss(BYOTLoss(("a",), deepest_layer="b"), context_factory=tokens, skip=apart)
    check_loss(BYOTLoss(("a",)), context_factory=partial(make_context, student_feature_shapes={"a": (7,)}), skip=apart)


def test_the_value_computed_by_hand():
    # Head (ln 3, 0): q = (3/4, 1/4), label 1: CE = ln 4 = 1.386294. Deepest (0, 0), tau 1:
    # KL = 1/2 ln(2/3) + 1/2 ln 2 = 0.143841. With alpha 0.1: 0.9 · 1.386294 + 0.1 · 0.143841 = 1.262049.
    head, deepest = torch.tensor([[np.log(3.0), 0.0]]), torch.zeros(1, 2)
    value = byot_loss([head], deepest, torch.tensor([1]), temperature=1.0)
    assert float(value) == pytest.approx(1.262049, abs=1e-6)


@FEW
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 6), st.integers(2, 6),
    st.sampled_from([1e-2, 1.0, 10.0, 1e4]), st.sampled_from(["free", "equal", "duplicates"]), st.floats(0, 1),
    st.floats(0.5, 5.0),
)  # fmt: skip
def test_it_agrees_with_the_paper_in_numpy(seed, many, rows, classes, scale, case, alpha, tau):
    deepest, *heads = paper.drawn(seed, *[(rows, classes)] * (many + 1), scale=scale)
    if case == "equal":
        heads = [deepest] * many
    if case == "duplicates":
        deepest, heads = np.repeat(deepest[:1], rows, axis=0), [np.repeat(z[:1], rows, axis=0) for z in heads]
    target = np.random.default_rng(seed).integers(-1, classes, rows)
    value = byot_loss(
        [torch.tensor(z) for z in heads], torch.tensor(deepest), torch.tensor(np.where(target < 0, -100, target)),
        alpha=alpha, temperature=tau,
    )  # fmt: skip
    assert float(value) == pytest.approx(by_paper(heads, deepest, target, alpha, tau), rel=1e-6, abs=1e-9)


def test_the_gradient_is_right_and_does_not_reach_the_deepest():
    head, deepest = (torch.tensor(z, requires_grad=True) for z in paper.drawn(1, (3, 4), (3, 4)))
    target = torch.tensor([0, -100, 3])
    assert torch.autograd.gradcheck(lambda s: byot_loss([s], deepest.detach(), target), head)
    byot_loss([head], deepest, target).backward()
    assert deepest.grad is None


def test_label_probabilities_cost_what_labels_do():
    head, deepest = (torch.tensor(z) for z in paper.drawn(2, (3, 4), (3, 4)))
    label = torch.tensor([1, 0, 3])
    one_hot = torch.nn.functional.one_hot(label, 4).double()
    torch.testing.assert_close(byot_loss([head], deepest, one_hot), byot_loss([head], deepest, label))


def test_features_approach_the_deepest_which_stays():
    torch.manual_seed(0)
    context = MAPS()
    loss_fn, plain = (
        BYOTLoss(("low",), deepest_layer="deep", beta=0.5),
        BYOTLoss(("low",), deepest_layer="deep", beta=0.0),
    )
    loss_fn.prepare(context)
    plain.heads = loss_fn.heads
    feature = loss_fn.head("low")(context.student.feature("low"))[1].detach().double().numpy()
    pooled = feature.reshape(6, 8, 3, 2, 3, 2).mean(axis=(3, 5))  # 6×6 to 3×3
    expected = 0.5 * np.mean((pooled - context.student.feature("deep").detach().double().numpy()) ** 2)
    assert (loss_fn(context) - plain(context)).item() == pytest.approx(expected, rel=1e-4)
    loss_fn(context).backward()
    assert context.student.feature("deep").grad is None


def test_maps_in_channels_last_give_the_same():
    torch.manual_seed(0)
    context = MAPS()
    loss_fn = BYOTLoss(("low",))
    loss_fn.prepare(context)
    first = loss_fn(context)
    context.student.features["low"] = (
        context.student.feature("low").detach().contiguous(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(loss_fn(context), first)


def test_its_repr_describes_the_heads():
    loss_fn = BYOTLoss(("low",), deepest_layer="deep")
    loss_fn.prepare(MAPS())
    assert "layers=('low',), deepest_layer='deep', alpha=0.1, temperature=3.0, beta=0.07" in repr(loss_fn)
    assert "4 → 8 → 5" in repr(loss_fn)


def test_mistakes_raise_errors():
    with pytest.raises(LimbeckError, match=r"is not prepared: call distiller\.prepare"):
        BYOTLoss(("low",))(MAPS())
    for wrong in ((), ("low", "low"), "low"):
        with pytest.raises(LimbeckError, match="each once"):
            BYOTLoss(wrong)
    with pytest.raises(LimbeckError, match=r"alpha must be in \[0, 1\], got"):
        BYOTLoss(("low",), alpha=2.0)
    with pytest.raises(LimbeckError, match="no feature is named 'lo'; available: low"):
        BYOTLoss(("lo",)).prepare(MAPS())
    with pytest.raises(LimbeckError, match=r"\[6, 4, 6, 6\], and \[6, 5\] at the deepest"):
        BYOTLoss(("a",), deepest_layer="b").prepare(make_context(student_feature_shapes={"a": (4, 6, 6), "b": (5,)}))
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\]"):
        byot_loss([torch.zeros(2, 3)], torch.zeros(2, 4), torch.zeros(2))
