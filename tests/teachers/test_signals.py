"""A signal after a runtime session was freed is handled and does not end the process."""

import pytest

SCRIPT = """
import copy, faulthandler, gc, signal, sys
import torch
from torch import nn
import limbeck
from limbeck.teachers import FrozenTeacher
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append(1))
task, batch = limbeck.tasks.Classification(2), {"input": torch.zeros(2, 3)}
teachers = [FrozenTeacher(nn.Linear(3, 2), backend=sys.argv[1]) for _ in range(2)]
for teacher in teachers:
    teacher.predict(batch, task)
while teachers:
    teachers.pop(0)
    del teacher
    gc.collect()
    signal.raise_signal(signal.SIGTERM)
    teacher = None
print(len(received))
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_signal_is_handled_when_the_sessions_of_teachers_are_gone(engine, run_python):
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    done = run_python("-c", SCRIPT, engine)
    assert (done.returncode, done.stdout.strip()) == (0, "2"), done.stderr[-500:]
