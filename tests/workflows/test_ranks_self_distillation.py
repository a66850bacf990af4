"""Self-distillation on two processes is what one process does with the doubled batch."""

import torch

from limbeck.models import load_weights, mlp
from limbeck.workflows import distill

RECIPE = """
task: Classification
data: {use: Digits, num_samples: 64, augment: {use: Augmentation, transforms: [{use: affine}]}}
student: {use: mlp, hidden: [16]}
self_teachers: {before: PreviousEpochTeacher, mean: {use: EMATeacher, decay: 0.7}, last: PreviousBatchTeacher}
stages:
  - name: distill
    steps: 8  # one round: where the next begins, a sample may come again by chance, and to another process
    objective:
      pskd: {use: PSKDLoss, teacher: before}
      kd: {use: KDLoss, teacher: mean}
      again: {use: KDLoss, teacher: last, temperature: 3}
training: {optimizer: {use: SGD, lr: 0.1, momentum: 0.9}, batch_size: 8, batch_pairing: repeat_previous}
baselines: []
num_threads: 1
"""


def test_two_processes_share_stored_logits(ranks, tmp_path):
    path = tmp_path / "itself.yaml"
    path.write_text(RECIPE)
    both = ranks("distill", path, "--out", tmp_path / "two")
    distill(path, ["training.batch_size=16"], run_dir=tmp_path / "one", callbacks=[])
    assert both.wait() == [0, 0], both.output()
    one, two = (load_weights(mlp(hidden=(16,)), str(tmp_path / run / "student.safetensors")) for run in ("one", "two"))
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
