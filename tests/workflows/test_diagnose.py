"""`limbeck diagnose` says what is wrong with a run, what it looked at, and that it found nothing where nothing is."""

from __future__ import annotations

import json

import pytest
import torch

from limbeck import cli
from limbeck.core.errors import LimbeckError
from limbeck.report.metrics_csv import load_curves
from limbeck.workflows.diagnose import diagnose_run
from limbeck.workflows.distill.run import distill

RECIPE = """
name: moved
threads: 1
task: Classification
data: {use: Digits, labels: 100, take: 200}
teachers: {big: {use: small_cnn, width: 8}}
student: {use: small_cnn, width: 4}
teaching: {steps: 30, objective: {truth: CrossEntropy}}
stages:
  - name: distill
    steps: 24
    balance: {use: LossRatio, to: truth}
    taps: {student: {mid: block1}, big: {mid: block1}}
    objective:
      truth: {use: CrossEntropy}
      soft: {use: SoftTarget, weight: 2, tau: {use: LossAdaptive, start: 4, rate: 0.1}}
      each: {use: SoftTarget, tau: {use: PerSample, by: confidence, sure: 6, unsure: 3}}
      hard: {use: SoftTarget, tau: {use: Learned, per: sample}}
      wide: {use: SoftTarget, tau: 1000, weight: {use: switch, before: 1, after: 0.5, when: 0.5}}
      hint: {use: Hint, at: mid}
training: {optimizer: {use: AdamW, lr: 0.01}, batch: 64}
control: alone
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    path = folder / "recipe-in.yaml"
    path.write_text(RECIPE)
    return folder, distill(path, run_dir=folder / "run", callbacks=[])


def test_a_recipe_names_policies_balances_and_a_doubt_is_told(run):
    folder, record = run
    assert "the temperature of wide is 1000, and Classification is used to 3 to 6" in "\n".join(record["warnings"])
    curve = load_curves(folder / "run" / "metrics.csv")["distilled"]
    assert set(curve.columns_by_loss("tau")) == {"soft", "each", "hard", "wide"}
    # The shares are kept at the ratios of the weights.
    row = {name: values[-1] for name, values in curve.columns_by_loss("loss").items()}
    assert row["soft"] == pytest.approx(2 * row["truth"], rel=0.5)
    stage = record["recipe"]["stages"][0]
    assert stage["balance"] == {"use": "LossRatio", "to": "truth", "decay": 0.99}
    assert stage["objective"]["each"]["tau"] == {
        "use": "PerSample", "by": "confidence", "sure": 6, "unsure": 3,
    }  # fmt: skip


def test_it_finds_the_temperature_that_flattens_everything(run, capsys):
    assert cli.main(["diagnose", str(run[0] / "run")]) == 0
    said = capsys.readouterr().out
    assert "- the temperature of wide, 1000, flattens everything" in said
    assert "looked at:" in said
    for what in (
        "the gradient of each term",
        "the teacher 'big'",
        "the features of 'hint'",
        "the projection of 'hint'",
    ):
        assert f"- {what}" in said


def write(folder, *, teacher=0.9, alone=0.8, distilled=0.85, sizes=(1000, 100), rows=(), stages=()):
    roles = {"big": ("teacher", teacher, sizes[0]), "alone": ("alone", alone, sizes[1])}
    roles["distilled"] = ("distilled", distilled, sizes[1])
    models = {
        name: {"role": role, "parameters": size, "validation": {"examples": 100, "top1": top1}}
        for name, (role, top1, size) in roles.items()
    }
    record = {"schema": 2, "name": "made", "models": models, "recipe": {"stages": list(stages)}}
    (folder / "record.json").write_text(json.dumps(record))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(["phase", "stage", "step", *columns])]
    lines += [",".join(map(str, ["distilled", "d", i + 1, *row.values()])) for i, row in enumerate(rows)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return diagnose_run(folder)


def test_nothing_found_is_said_with_what_was_looked_at(tmp_path):
    rows = [{"loss/truth": 1.0, "loss/soft": 2.0, "flatness/soft": 0.5, "tau/soft": 4.0}] * 3
    told = write(tmp_path, rows=rows)
    assert told.problems == []
    assert str(told).startswith("nothing found\n\nlooked at:\n- the share of the loss of each term: truth 1, soft 2")
    assert "- whether a projection is saturated" in str(told)


def test_each_fault_is_found_in_what_a_run_wrote(tmp_path):
    stages = [{"name": "d", "objective": {"hint": {"use": "Hint", "at": "mid"}}}]
    rows = [{"gradient/truth": 1.0, "gradient/soft": 0.001, "loss/hint": 2.0, "weight/hint": 1.0}]
    rows += [{"gradient/truth": 1.0, "gradient/soft": 0.001, "loss/hint": 1.0, "weight/hint": 0.5}] * 3
    (tmp_path / "checkpoint").mkdir()
    flat = torch.outer(torch.arange(1.0, 33.0), torch.ones(40))
    torch.save(
        {"format": 1, "terms": {"learned.hint.projection.layer.weight": flat}},
        tmp_path / "checkpoint" / "distilled.d.pt",
    )
    told = write(tmp_path, teacher=0.7, alone=0.8, rows=rows, stages=stages)
    text = "\n".join(told.problems)
    assert "the term 'soft' is 1000 times too small" in text
    assert "the teacher 'big' is worse than the student alone" in text
    assert "the features of 'hint' never align: the term went from 2 to 2" in text
    assert "the projection of 'hint' is saturated: it passes on 1.0 of 32 directions" in text
    assert len(told.problems) == 4


def test_a_gap_in_capacity_is_found_only_where_little_was_recovered(tmp_path):
    assert "a gap in capacity is likely" in write(tmp_path, distilled=0.81, sizes=(5000, 100)).problems[0]
    assert write(tmp_path, distilled=0.88, sizes=(5000, 100)).problems == []


def test_a_folder_without_a_run_is_one_sentence(tmp_path):
    with pytest.raises(LimbeckError, match=r"holds no record\.json"):
        diagnose_run(tmp_path)
