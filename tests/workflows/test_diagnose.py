"""`limbeck diagnose` reports problems of a run and the checks it made."""

from __future__ import annotations

import json

import pytest
import torch

from limbeck import cli
from limbeck.core.errors import LimbeckError
from limbeck.report.metrics_csv import load_curves
from limbeck.report.record_io import add_hashes
from limbeck.workflows.diagnose import diagnose_run
from limbeck.workflows.distill.run import distill

RECIPE = """
name: moved
num_threads: 1
task: Classification
data: {use: Digits, num_labeled: 100, num_samples: 200}
teachers: {big: {use: small_cnn, width: 8}}
student: {use: small_cnn, width: 4}
teacher_training: {steps: 30, objective: {target: CrossEntropyLoss}}
stages:
  - name: distill
    steps: 24
    loss_weighting: {use: LossRatioWeighting, reference: target}
    feature_layers: {student: {mid: block1}, big: {mid: block1}}
    objective:
      target: {use: CrossEntropyLoss}
      kd: {use: KDLoss, weight: 2, temperature: {use: LossAdaptive, start: 4, rate: 0.1}}
      each: {use: KDLoss, temperature: {use: PerSample, score: confidence, confident: 6, uncertain: 3}}
      hard: {use: KDLoss, temperature: {use: Learned, granularity: sample}}
      wide: {use: KDLoss, temperature: 1000, weight: {use: step_change, before: 1, after: 0.5, milestone: 0.5}}
      fitnet: {use: FitNetLoss, layer: mid}
training: {optimizer: {use: AdamW, lr: 0.01}, batch_size: 64}
baselines: [student_only]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    path = folder / "recipe-in.yaml"
    path.write_text(RECIPE)
    return folder, distill(path, run_dir=folder / "run", callbacks=[])


def test_a_recipe_names_policies_weightings_and_a_warning_is_recorded(run):
    folder, record = run
    assert "the temperature of wide is 1000, and the usual range of Classification is 3 to 6" in "\n".join(
        record["warnings"]
    )
    curve = load_curves(folder / "run" / "metrics.csv")["distilled"]
    assert set(curve.columns_by_loss("temperature")) == {"kd", "each", "hard", "wide"}
    # The shares are kept at the ratios of the weights.
    row = {name: values[-1] for name, values in curve.columns_by_loss("loss").items()}
    assert row["kd"] == pytest.approx(2 * row["target"], rel=0.5)
    stage = record["recipe"]["stages"][0]
    assert stage["loss_weighting"] == {"use": "LossRatioWeighting", "reference": "target", "decay": 0.99}
    assert stage["objective"]["each"]["temperature"] == {
        "use": "PerSample", "score": "confidence", "confident": 6, "uncertain": 3,
    }  # fmt: skip


def test_it_finds_the_temperature_that_is_too_high(run, capsys):
    assert cli.main(["diagnose", str(run[0] / "run")]) == 0
    output = capsys.readouterr().out
    assert "- the temperature of wide, 1000, is too high" in output
    assert "checked:" in output
    for what in (
        "the gradient norm of each loss",
        "the teacher 'big'",
        "the features of 'fitnet'",
        "the projection of 'fitnet'",
    ):
        assert f"- {what}" in output


def write(folder, *, teacher=0.9, baseline=0.8, distilled=0.85, sizes=(1000, 100), rows=(), stages=()):
    roles = {"big": ("teacher", teacher, sizes[0]), "baseline": ("baseline", baseline, sizes[1])}
    roles["distilled"] = ("distilled", distilled, sizes[1])
    models = {
        name: {"role": role, "parameters": size, "validation": {"num_samples": 100, "metrics": {"accuracy": accuracy}}}
        for name, (role, accuracy, size) in roles.items()
    }
    record = {"schema": 3, "name": "made", "models": models, "recipe": {"stages": list(stages)}}
    (folder / "record.json").write_text(json.dumps(add_hashes(record)))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(["phase", "stage", "step", *columns])]
    lines += [",".join(map(str, ["distilled", "d", i + 1, *row.values()])) for i, row in enumerate(rows)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return diagnose_run(str(folder))


def test_no_problem_is_reported_with_the_list_of_checks(tmp_path):
    rows = [{"loss/target": 1.0, "loss/kd": 2.0, "teacher_entropy/kd": 0.5, "temperature/kd": 4.0}] * 3
    diagnosis = write(tmp_path, rows=rows)
    assert diagnosis.problems == []
    assert str(diagnosis).startswith(
        "no problem found\n\nchecked:\n- the share of the total of each loss: target 1, kd 2"
    )
    assert "- whether a projection has collapsed" in str(diagnosis)


def test_what_the_report_warns_of_is_a_problem(tmp_path):
    write(tmp_path)
    record = json.loads((tmp_path / "record.json").read_text())
    record["warnings"] = ["the teacher was trained for 20 steps"]
    (tmp_path / "record.json").write_text(json.dumps(add_hashes(record)))
    diagnosis = diagnose_run(tmp_path)
    assert diagnosis.problems == ["the teacher was trained for 20 steps"]
    assert "no problem" not in str(diagnosis)


def test_a_teacher_without_an_advantage_is_no_missing_record(tmp_path):
    diagnosis = write(tmp_path, teacher=0.8, baseline=0.8)
    assert (
        "whether there is a capacity gap to the teacher 'big': no, it is not better than the baseline (0.0 points)"
        in ([check.replace("+0.0", "0.0") for check in diagnosis.checks])
    )
    assert not any("capacity gap" in text for text in diagnosis.unavailable)


def test_after_a_loss_it_says_what_to_change(tmp_path):
    objective = {"target": {"use": "CrossEntropyLoss"}, "kd": {"use": "KDLoss", "weight": 0.9, "temperature": 4}}
    objective["crd"] = {"use": "CRDLoss", "layer": "late", "temperature": 0.07}
    write(tmp_path, teacher=0.7, baseline=0.8, distilled=0.75, stages=[{"name": "d", "objective": objective}])
    record = json.loads((tmp_path / "record.json").read_text())
    record["verdict"] = {"text": "Distillation degrades accuracy.", "gain": -5.0, "interval": [-7.0, -3.0]}
    (tmp_path / "record.json").write_text(json.dumps(add_hashes(record)))
    text = str(diagnose_run(tmp_path))
    assert "The teacher 'big' is not better than the baseline on validation (70.0 % against 80.0 % accuracy)" in text
    assert "from the teacher: `stages.0.objective.kd.weight` (now 0.9), `stages.0.objective.crd.weight`" in text
    assert "Try another temperature, `stages.0.objective.kd.temperature` (now 4): 1 or 2 or 8." in text
    assert "crd.temperature" not in text
    record["verdict"]["interval"] = [-7.0, 3.0]
    (tmp_path / "record.json").write_text(json.dumps(add_hashes(record)))
    assert "Try another temperature" not in str(diagnose_run(tmp_path))


def test_each_fault_is_detected_from_a_run_folder(tmp_path):
    stages = [{"name": "d", "objective": {"fitnet": {"use": "FitNetLoss", "layer": "mid"}}}]
    rows = [{"grad_norm/target": 1.0, "grad_norm/kd": 0.001, "loss/fitnet": 2.0, "loss_weight/fitnet": 1.0}]
    rows += [{"grad_norm/target": 1.0, "grad_norm/kd": 0.001, "loss/fitnet": 1.0, "loss_weight/fitnet": 0.5}] * 3
    (tmp_path / "checkpoint").mkdir()
    flat = torch.outer(torch.arange(1.0, 33.0), torch.ones(40))
    torch.save(
        {"format": 2, "losses": {"trainable.fitnet.projection.layer.weight": flat}},
        tmp_path / "checkpoint" / "distilled.d.pt",
    )
    diagnosis = write(tmp_path, teacher=0.7, baseline=0.8, rows=rows, stages=stages)
    text = "\n".join(diagnosis.problems)
    assert "the loss 'kd' is 1000 times too small" in text
    assert "the teacher 'big' is worse than the baseline" in text
    assert "the features of 'fitnet' never align: the loss went from 2 to 2" in text
    assert "the projection of 'fitnet' has collapsed: its effective rank is 1.0 of 32" in text
    assert len(diagnosis.problems) == 4


def test_a_capacity_gap_is_reported_only_where_little_was_recovered(tmp_path):
    assert "a capacity gap is likely" in write(tmp_path, distilled=0.81, sizes=(5000, 100)).problems[0]
    assert write(tmp_path, distilled=0.88, sizes=(5000, 100)).problems == []


def test_a_folder_without_a_run_is_one_sentence(tmp_path):
    with pytest.raises(LimbeckError, match=r"has no record\.json"):
        diagnose_run(tmp_path)
