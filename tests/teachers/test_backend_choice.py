"""``auto`` selects the fastest backend with equal outputs within its measuring time, and reports it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.features import FeatureExtractor
from limbeck.tasks import Classification
from limbeck.teachers import FrozenTeacher, InferenceBackend
from limbeck.teachers.backends import select_backend
from limbeck.teachers.backends.builders import PreparedModel

TASK = Classification(3)
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Clock:
    """Time that passes only where an engine spends it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Slow(nn.Module):
    """Says what its network says plus an error, and takes its time."""

    def __init__(self, network, clock, seconds, error=0.0):
        super().__init__()
        self.network, self.clock, self.seconds, self.error = network, clock, seconds, error

    def forward(self, x):
        self.clock.now += self.seconds
        return self.network(x) * (1 + self.error)


@pytest.fixture
def choice(monkeypatch):
    """Frozen with engines that take given seconds and make given errors."""

    def made(seconds, errors=None, *, to_build=0.0, budget=3.0):
        clock, messages = Clock(), []

        def candidate(name):
            def build(at):
                clock.now += 0.0 if name == "eager" else to_build
                slow = Slow(at.network, clock, seconds[name], (errors or {}).get(name, 0.0))
                return PreparedModel(slow, FeatureExtractor(at.network, {}))

            return build

        monkeypatch.setattr("time.perf_counter", clock)
        monkeypatch.setattr(select_backend, "BUILDERS", {name: candidate(name) for name in seconds})
        monkeypatch.setattr(select_backend, "_AUTO_CANDIDATES", tuple(seconds))
        frozen = FrozenTeacher(
            nn.Linear(4, 3), backend=InferenceBackend("auto", measure_seconds=budget, log=messages.append)
        )
        frozen.predict((X, None), TASK)
        return frozen.backend.report, messages, clock, frozen

    return made


def test_the_fastest_backend_is_selected_and_reported_in_one_line(choice):
    report, messages, _, _ = choice({"eager": 0.2, "fold_batchnorm": 0.1, "openvino": 0.04, "onnxruntime": 0.05})
    assert report.backend == "openvino"
    assert report.latency_ms == pytest.approx({"eager": 200, "fold_batchnorm": 100, "openvino": 40, "onnxruntime": 50})
    assert report.speedup == pytest.approx(5.0)
    assert messages == [
        "openvino, 5.0 times eager's speed (40 ms for 5×4, "
        f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}, difference 0e+00); "
        "fold_batchnorm 100 ms; onnxruntime 50 ms"
    ]


def test_eager_stays_where_nothing_is_faster(choice):
    report, *_ = choice({"eager": 0.1, "fold_batchnorm": 0.2})
    assert (report.backend, report.speedup) == ("eager", 1.0)


def test_a_faster_backend_with_different_outputs_is_skipped(choice):
    report, *_ = choice(
        {"eager": 0.2, "fold_batchnorm": 0.01, "openvino": 0.1}, {"fold_batchnorm": 2e-4, "openvino": 0.5e-4}
    )
    assert report.backend == "openvino"
    sentence = "its outputs differ from eager's by 2.0e-04, more than 1e-04"
    assert report.skipped == {"fold_batchnorm": sentence}
    assert report.max_difference["openvino"] == pytest.approx(0.5e-4, rel=0.01)


def test_measuring_ends_when_its_time_is_spent(choice):
    report, _, clock, _ = choice({"eager": 2.0, "fold_batchnorm": 1.5}, budget=3.0)
    # Folded is checked once, both are timed once, and the selected one computes the batch.
    assert clock.now == pytest.approx(1.5 + 3.5 + 1.5)
    assert report.backend == "fold_batchnorm"


def test_no_backend_is_built_after_five_times_the_measuring_time(choice):
    report, *_ = choice(
        {"eager": 1.0, "fold_batchnorm": 0.1, "openvino": 0.1, "onnxruntime": 0.1}, to_build=8.0, budget=3.0
    )
    assert set(report.latency_ms) == {"eager", "fold_batchnorm", "openvino"}
    assert report.skipped == {"onnxruntime": "the time for measuring is over"}


def test_the_backend_is_selected_once(choice):
    _, messages, clock, frozen = choice({"eager": 0.2, "fold_batchnorm": 0.1})
    before = clock.now
    for _ in range(3):
        frozen.predict((X, None), TASK)
    assert clock.now - before == pytest.approx(0.3)
    other = FrozenTeacher(frozen.network, backend=frozen.backend)  # the next stage, with the same teacher
    other.predict((X, None), TASK)
    assert len(messages) == 1


def test_the_report_is_plain_data():
    import json

    frozen = FrozenTeacher(nn.Linear(4, 3), backend=InferenceBackend("auto", measure_seconds=0.05))
    frozen.predict((X, None), TASK)
    plain = json.loads(json.dumps(frozen.backend.report.to_dict(), allow_nan=False))
    assert plain["requested"] == "auto"
    assert plain["input_shape"] == [5, 4]
    assert plain["speedup"] >= 1
    assert set(plain["latency_ms"]) | set(plain["skipped"]) == {"eager", "fold_batchnorm", "openvino", "onnxruntime"}


def test_eager_needs_no_measurement():
    frozen = FrozenTeacher(nn.Linear(4, 3))
    frozen.predict((X, None), TASK)
    assert str(frozen.backend.report) == "eager"
    assert frozen.backend.report.speedup is None
