"""Each temperature policy agrees with its formula in NumPy, and any response loss accepts it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses import (
    DISTLoss,
    DKDLoss,
    JSDLoss,
    KDLoss,
    MLKDLoss,
    NKDLoss,
    ReverseKLLoss,
    TTMLoss,
    kd_loss,
)
from limbeck.losses.temperature import (
    Constant,
    Dynamic,
    Learned,
    LogitStandardization,
    LossAdaptive,
    PerSample,
    Range,
    Scheduled,
    TemperatureRecord,
    apply_temperature,
    dynamic_temperatures,
    standardize_logits,
)
from limbeck.testing import check_loss, make_context

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)
NOW = Progress(step=1, steps=4)


def log_softmax(z):
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def kl(student, teacher):
    """KL(teacher ‖ student) of each row of logits that were divided by their temperature."""
    log_q, log_p = log_softmax(student), log_softmax(teacher)
    return np.sum(np.exp(log_p) * (log_p - log_q), axis=1)


@st.composite
def logits(draw, scales=(1e-2, 1.0, 10.0, 1e4)):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 7)), draw(st.integers(2, 9)))
    student, teacher = (random.normal(size=shape) * draw(st.sampled_from(scales)) for _ in range(2))
    match draw(st.sampled_from(["free", "equal", "duplicates"])):
        case "equal":
            teacher = student.copy()
        case "duplicates":
            student, teacher = np.repeat(student[:1], 3, axis=0), np.repeat(teacher[:1], 3, axis=0)
    return student, teacher


def taken(pair, tau):
    outputs = [Outputs(logits=torch.tensor(one)) for one in pair]
    return float(
        apply_temperature(kd_loss, LossContext(student=outputs[0], teacher=outputs[1], progress=NOW), temperature=tau)
    )


POLICIES = {
    "fixed": Constant(3.0),
    "scheduled": Scheduled(schedules.linear(6.0, 3.0)),
    "entropy": PerSample(score="entropy"),
    "confidence": PerSample(score="confidence", confident=2.0, uncertain=8.0),
    "standardised": LogitStandardization(),
    "dynamic": Dynamic(),
    "adaptive": LossAdaptive().eval(),
    "learned": Learned(),
}


@pytest.mark.parametrize("tau", POLICIES.values(), ids=POLICIES)
def test_a_response_loss_passes_its_checks_under_each_policy(tau):
    check_loss(KDLoss(temperature=tau))


@pytest.mark.parametrize("loss_fn", [DKDLoss, DISTLoss, JSDLoss, MLKDLoss, NKDLoss, ReverseKLLoss, KDLoss, TTMLoss])
@pytest.mark.parametrize("tau", POLICIES.values(), ids=POLICIES)
def test_every_response_loss_takes_every_policy(loss_fn, tau):
    context = make_context(rows=8)
    value = loss_fn(temperature=tau)(context)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(context.student.require_logits().grad).all()
    assert float(loss_fn(temperature=Constant(3.0))(context).detach()) == float(
        loss_fn(temperature=3.0)(context).detach()
    )


@FEW
@given(logits())
def test_fixed_and_scheduled_are_the_plain_loss(pair):
    assert taken(pair, Constant(3.0)) == taken(pair, 3.0)
    assert taken(pair, Scheduled(schedules.linear(7.0, 3.0))) == taken(pair, 6.0)


@FEW
@given(logits())
def test_standardized_logits_agree_with_numpy(pair):
    def z(one):
        return (one - one.mean(axis=1, keepdims=True)) / (one.std(axis=1, ddof=1, keepdims=True) + 1e-7)

    expected = 4.0 * kl(z(pair[0]) / 2.0, z(pair[1]) / 2.0).mean()
    assert taken(pair, LogitStandardization()) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@FEW
@given(logits())
def test_dynamic_temperatures_agree_with_numpy(pair):
    student, teacher = pair
    student_x, teacher_x = ((one - one.mean(axis=1, keepdims=True)).max(axis=1) for one in pair)
    own, other = 8.0 * student_x / (student_x + teacher_x), 8.0 * teacher_x / (student_x + teacher_x)
    temperatures = dynamic_temperatures(torch.tensor(student), torch.tensor(teacher), temperature=4.0)
    np.testing.assert_allclose(temperatures[0], own, rtol=1e-6)
    np.testing.assert_allclose(temperatures[1], other, rtol=1e-6)
    expected = np.mean(own * other * kl(student / own[:, None], teacher / other[:, None]))
    assert taken(pair, Dynamic()) == pytest.approx(expected, rel=1e-6, abs=1e-10)


def test_dynamic_temperatures_do_not_feel_a_constant():
    student, teacher = torch.randn(4, 5).double(), torch.randn(4, 5).double()
    for one, other in zip(
        dynamic_temperatures(student, teacher), dynamic_temperatures(student + 100.0, teacher - 7.0), strict=True
    ):
        torch.testing.assert_close(one, other)


@FEW
@given(logits())
def test_temperatures_by_sample_agree_with_numpy(pair):
    student, teacher = pair
    p, many = np.exp(log_softmax(teacher)), teacher.shape[1]
    entropy = -np.sum(p * log_softmax(teacher), axis=1) / math.log(many)
    confidence = (1 - p.max(axis=1)) / (1 - 1 / many)
    for by, unsure in (("entropy", entropy), ("confidence", confidence)):
        tau = 6.0 - 3.0 * unsure
        expected = np.mean(tau**2 * kl(student / tau[:, None], teacher / tau[:, None]))
        assert taken(pair, PerSample(score=by)) == pytest.approx(expected, rel=1e-6, abs=1e-10)


def test_a_measured_quality_gives_the_temperature_of_its_row():
    # τ₀·(1 + k·(1 − q)) with τ₀ = 4 and k = 0.5: a dark image of quality 0 is softened most.
    quality = torch.tensor([1.0, 0.5, 0.0, 7.0])
    outputs = Outputs(logits=torch.randn(4, 3), by_sample={"brightness": quality})
    tau = PerSample(score="brightness", confident=4.0, uncertain=6.0)(outputs, outputs, NOW).temperature
    torch.testing.assert_close(tau, torch.tensor([4.0, 5.0, 6.0, 4.0]))


def test_a_missing_score_raises_an_error():
    outputs = Outputs(logits=torch.randn(4, 3), by_sample={"brightness": torch.ones(4)})
    with pytest.raises(LimbeckError, match="the score of PerSample is 'brigthness'; available: brightness"):
        PerSample(score="brigthness")(outputs, outputs, NOW)
    wide = Outputs(logits=torch.randn(4, 3), by_sample={"brightness": torch.ones(4, 2)})
    with pytest.raises(LimbeckError, match=r"must be one number per row, \[4\], got \[4, 2\]"):
        PerSample(score="brightness")(wide, wide, NOW)


def adapted_by_hand(policy, losses):
    tau, fast, slow, taus = policy.start, None, None, []
    for loss in losses:
        taus.append(tau)
        fast = loss if fast is None else 0.9 * fast + 0.1 * loss
        slow = loss if slow is None else 0.99 * slow + 0.01 * loss
        drive = min(1.0, max(-1.0, 1 - (slow - fast) / slow / policy.margin))
        tau = min(policy.high, max(policy.low, tau * math.exp(policy.rate * drive)))
    return taus


def test_the_adaptive_temperature_follows_its_rule():
    policy = LossAdaptive(start=4.0, low=2.0, high=9.0, rate=0.05)
    random, expected, temperatures = np.random.default_rng(0), [], []
    for step in range(60):
        student, teacher = random.normal(size=(5, 4)) * 0.97**step, random.normal(size=(5, 4)) * 0.97**step
        expected.append(float(np.mean(kl(student / 4.0, teacher / 4.0))))
        outputs = [Outputs(logits=torch.tensor(one)) for one in (student, teacher)]
        temperatures.append(float(policy(*outputs, NOW).temperature))
    assert temperatures == pytest.approx(adapted_by_hand(policy, expected), rel=1e-5)
    assert min(temperatures) < 4.0, "it never fell while the loss did"


def test_the_adaptive_temperature_rises_while_the_loss_stalls_and_stays_in_its_bounds():
    policy = LossAdaptive(start=4.0, high=5.0, rate=0.1)
    outputs = Outputs(logits=torch.tensor([[1.0, 0.0]])), Outputs(logits=torch.tensor([[0.0, 3.0]]))
    taus = [float(policy(*outputs, NOW).temperature) for _ in range(5)]
    assert taus == sorted(taus)
    assert taus[0] == 4.0
    assert taus[-1] == 5.0
    still = policy.eval()
    assert float(still(*outputs, NOW).temperature) == float(still(*outputs, NOW).temperature), "it moved in eval mode"


def test_the_learned_temperature_makes_the_loss_larger():
    policy = Learned(start=4.0, low=1.0, high=21.0)
    outputs = Outputs(logits=torch.tensor([[3.0, 0.0, 1.0]])), Outputs(logits=torch.tensor([[0.0, 2.0, 5.0]]))
    context = LossContext(student=outputs[0], teacher=outputs[1], progress=NOW)
    take = partial(apply_temperature, kd_loss, context, temperature=policy)
    before = take()
    before.backward()
    with torch.no_grad():
        policy.theta -= 0.1 * policy.theta.grad
    assert take().item() > before.item()


def test_the_learned_temperature_gets_the_gradient_that_the_formula_gives_turned_around():
    policy = Learned(start=4.0, warmup_fraction=1.0)
    random = np.random.default_rng(0)
    pair = [random.normal(size=(3, 4)) for _ in range(2)]
    now = Progress(step=1, steps=4)
    share = 0.5 * (1 - math.cos(math.pi / 4))
    outputs = [Outputs(logits=torch.tensor(one)) for one in pair]
    apply_temperature(
        kd_loss, LossContext(student=outputs[0], teacher=outputs[1], progress=now), temperature=policy
    ).backward()

    def loss(theta):
        tau = 1.0 + 20.0 / (1.0 + math.exp(-theta))
        return tau**2 * kl(pair[0] / tau, pair[1] / tau).mean()

    theta = math.log(0.15 / 0.85)
    slope = (loss(theta + 1e-5) - loss(theta - 1e-5)) / 2e-5
    assert policy.theta.grad.item() == pytest.approx(-share * slope, rel=1e-4)


def test_the_learned_temperature_by_sample_begins_the_same_for_all_and_can_differ():
    policy = Learned(granularity="sample", start=4.0)
    with pytest.raises(LimbeckError, match=r"Learned is not prepared: call distiller\.prepare"):
        KDLoss(temperature=policy)(make_context())
    context = make_context()
    policy.prepare(context)
    tau = policy(context.student, context.teachers["teacher"], NOW).temperature
    torch.testing.assert_close(tau.detach(), torch.full((6,), 4.0))
    torch.nn.init.normal_(policy.network[-1].weight)
    moved = policy(context.student, context.teachers["teacher"], NOW).temperature
    assert len(moved.unique()) == 6
    assert bool(((moved > 1.0) & (moved < 21.0)).all())
    KDLoss(temperature=policy)(context).backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


@pytest.mark.parametrize("tau", POLICIES.values(), ids=POLICIES)
def test_reported_temperatures_lie_within_their_bounds_and_have_no_gradient(tau):
    context = make_context()
    record = TemperatureRecord(with_entropy=True)
    KDLoss(temperature=tau)(replace(context, temperature_record=record))
    low, high = tau.bounds()
    assert len(record.temperatures) == len(record.teacher_entropy) == 1
    values = torch.as_tensor(record.temperatures[0])
    assert bool(((values >= low - 1e-6) & (values <= high + 1e-6)).all())
    assert not values.requires_grad
    assert 0.0 <= float(record.teacher_entropy[0]) <= 1.0


@pytest.mark.parametrize(
    "tau",
    [LogitStandardization(), Dynamic(), PerSample(), Learned(), LossAdaptive()],
    ids=lambda tau: type(tau).__name__,
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(tau, dtype):
    context = make_context(dtype=dtype)
    value = KDLoss(temperature=tau)(context)
    assert value.dtype == torch.float32
    assert torch.isfinite(value)


def test_a_flat_row_has_finite_gradients_when_it_is_standardized():
    flat = torch.zeros(2, 4, requires_grad=True)
    kd_loss(standardize_logits(flat), torch.randn(2, 4)).backward()
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("ruled_out", [[], [1, 3]])
def test_both_derivatives_of_standardized_logits_are_those_of_finite_differences(ruled_out):
    def loss(some):
        logits = torch.full((3, 6), -torch.inf, dtype=torch.float64).index_copy(1, torch.tensor(classes), some)
        return standardize_logits(logits)[:, classes]

    classes = [number for number in range(6) if number not in ruled_out]
    some = torch.randn(3, len(classes)).double().requires_grad_()
    assert torch.autograd.gradcheck(loss, some)
    assert torch.autograd.gradgradcheck(loss, some)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(0.0), "above zero"),
        (lambda: Scheduled(3.0), "needs a schedule"),
        (lambda: PerSample(confident=-1.0), "above zero"),
        (lambda: LossAdaptive(start=9.0), "must start between low and high"),
        (lambda: LossAdaptive(rate=0.0), r"rate must be in \(0, 1\], got 0"),
        (lambda: Learned(start=1.0), "must start between low and high"),
        (lambda: Learned(warmup_fraction=0.0), r"warmup_fraction must be in \(0, 1\], got 0"),
        (lambda: Learned(granularity="epoch"), "'run' or 'sample', got 'epoch'"),
        (lambda: Range(4.0, 5.0, 6.0), "low <= default <= high"),
        (lambda: KDLoss(temperature=PerSample), r"an object such as PerSample\(\)"),
    ],
)
def test_a_setting_that_makes_no_sense_raises_an_error(make, message):
    with pytest.raises(LimbeckError, match=message):
        make()
