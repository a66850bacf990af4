"""`limbeck study` end to end on digits: its controls are matched, its cells are kept, its test parts opened once."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import limbeck
from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.evaluation import load_predictions
from limbeck.models import load_weights, small_cnn
from limbeck.recipe import load_recipe
from limbeck.workflows import distill, study
from limbeck.workflows._job.run_dir import is_unlocked
from limbeck.workflows.study import worker as work
from limbeck.workflows.study.queue import Trial, TrialQueue

RECIPE = """
name: tiny
task: Classification
data:
  {use: Digits, labels: 60, take: 200,
   views: {use: Views, transforms: [{use: affine, degrees: 10, scale: [0.9, 1.1], shift: 0.06}]}}
teachers: {big: {use: small_cnn, width: 8}}
student: {use: small_cnn, width: 3}
teaching: {steps: 20, objective: {truth: CrossEntropy}}
stages:
  - name: only
    steps: 12
    objective: {truth: {use: CrossEntropy, weight: 0.5}, soft: {use: SoftTarget, tau: 4, weight: 0.5}}
training: {optimizer: {use: AdamW, lr: 0.02}, scheduler: {use: StepLR, step_size: 4, gamma: 0.5}, batch: 32}
study: {seeds: 2, arms: {hot: {stages.0.objective.soft.tau: 8}}}
threads: 1
"""
ARMS = ["teacher", "alone", "longer", "smoothed", "distilled", "hot"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def done(file):
    """A finished study, and what it gave."""
    out = file.parent / "done"
    return out, study(file, output_dir=out, callbacks=[])


def record(out, arm, seed=0):
    return json.loads((out / "cells" / arm / str(seed) / "record.json").read_text())


def test_every_arm_is_trained_with_every_seed(done):
    out, found = done
    assert list(found["arms"]) == ARMS
    assert [cell["state"] for cell in found["cells"]] == ["done"] * 12
    assert json.loads((out / "study.json").read_text()) == found
    for arm in ARMS:
        one = found["results"]["arms"][arm]
        assert one["top1"]["n"] == 2
        assert (one["verdict"] is None) == (arm == "alone")
    assert "95 %" in found["results"]["rule"]


def test_costly_controls_may_be_left_out_and_never_the_student_alone(file, tmp_path):
    change = ["study.controls=[alone]", "study.arms={}", "study.seeds=1"]
    found = study(file, change, output_dir=tmp_path / "few", callbacks=[])
    assert list(found["arms"]) == ["teacher", "alone", "distilled"]
    assert found["results"]["arms"]["distilled"]["over"] == {}
    with pytest.raises(LimbeckError, match="alone is always one of them"):
        load_recipe(file, ["study.controls=[longer]"])
    with pytest.raises(LimbeckError, match="'shorter' is none of alone, longer, smoothed"):
        load_recipe(file, ["study.controls=[alone, shorter]"])


def test_an_arm_with_finished_cells_cannot_become_another(file, tmp_path):
    few = ["study.controls=[alone]", "study.seeds=1", "study.arms={hot: {stages.0.objective.soft.tau: 8}}"]
    study(file, few, output_dir=tmp_path / "s", callbacks=[])
    hotter = [*few[:2], "study.arms={hot: {stages.0.objective.soft.tau: 9}}"]
    with pytest.raises(LimbeckError, match="the arm 'hot' has finished cells and is another now"):
        study(file, hotter, output_dir=tmp_path / "s", resume=True, callbacks=[])
    shutil.rmtree(tmp_path / "s" / "cells" / "hot")
    assert study(file, hotter, output_dir=tmp_path / "s", resume=True, callbacks=[])["cells"][-1]["state"] == "done"
    assert record(tmp_path / "s", "hot")["recipe"]["stages"][0]["objective"]["soft"]["tau"] == 9


def test_a_check_of_the_recipe_looks_at_every_arm(file, capsys):
    assert main(["recipe", "check", str(file)]) == 0
    wrong = "study.arms.hot={stages.0.objective.soft: {use: SoftTarget, weight: {use: warmup, share: 0.1}}}"
    assert main(["recipe", "check", str(file), wrong]) == 2
    assert "study.arms.hot: stages.0.objective.soft.weight" in capsys.readouterr().err


def test_the_sealed_part_is_opened_once_for_each_arm_and_seed(done):
    out, _ = done
    for arm in ARMS:
        for seed in (0, 1):
            assert record(out, arm, seed)["sealed_test"]["reads"] == 1


def test_the_distilled_arm_is_what_distill_trains_bit_for_bit(done, tmp_path):
    """Shared teacher, shared cache, fresh views: and still the very student of the main job."""
    out, _ = done
    distill(load_recipe(RECIPE), run_dir=tmp_path / "run", callbacks=[])
    ours, theirs = (
        load_weights(small_cnn(width=3, channels=1), path).state_dict()
        for path in (out / "cells/distilled/0/student.safetensors", tmp_path / "run" / "student.safetensors")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    run = json.loads((tmp_path / "run" / "record.json").read_text())["models"]
    for arm, model in (("distilled", "distilled"), ("alone", "alone"), ("teacher", "big")):
        name = "big" if arm == "teacher" else arm
        assert record(out, arm)["models"][name]["test"]["top1"] == run[model]["test"]["top1"]
    assert load_predictions(tmp_path / "run" / "answers.safetensors").predicted.keys() == {"big", "alone", "distilled"}


def test_the_arms_of_a_seed_share_one_cache(done):
    out, _ = done
    caches = [record(out, arm)["cache"]["big"] for arm in ("distilled", "hot")]
    assert caches[0]["key"] == caches[1]["key"]
    assert caches[0]["asked"] > 0
    assert caches[1]["asked"] == 0


def test_controls_differ_in_nothing_but_what_they_are_named_for(done):
    out, found = done
    recipes = {arm: record(out, arm)["recipe"] for arm in ARMS}
    alone = recipes["alone"]
    for arm in ("longer", "smoothed", "distilled"):
        assert recipes[arm]["student"] == alone["student"]
        assert recipes[arm]["training"] == alone["training"]
        assert recipes[arm]["seed"] == alone["seed"] == 0
    assert alone["teachers"] == {}
    assert recipes["smoothed"]["stages"][0]["objective"]["truth"]["label_smoothing"] == 0.1
    steps = round(found["pace"] * 12)
    assert record(out, "longer")["models"]["longer"]["steps"] == steps
    assert recipes["longer"]["stages"][0]["training"]["scheduler"]["step_size"] == max(1, round(found["pace"] * 4))
    assert record(out, "alone")["models"]["alone"]["steps"] == 12
    assert found["pace"] > 1


def test_gains_are_paired_by_seed(done):
    out, found = done
    gains = [
        100 * (record(out, "hot", s)["models"]["hot"]["test"]["top1"]
               - record(out, "alone", s)["models"]["alone"]["test"]["top1"])
        for s in (0, 1)
    ]  # fmt: skip
    gain = found["results"]["arms"]["hot"]["gain"]
    assert gain["mean"] == pytest.approx(sum(gains) / 2)
    assert [one["seed"] for one in gain["mcnemar"]] == [0, 1]


def test_a_gain_is_told_against_every_control(done):
    out, found = done
    over = found["results"]["arms"]["distilled"]["over"]
    tops = {
        arm: [record(out, arm, seed)["models"][arm]["test"]["top1"] for seed in (0, 1)]
        for arm in ("distilled", "longer", "smoothed")
    }
    for control in ("longer", "smoothed"):
        mean = sum(100 * (a - b) for a, b in zip(tops["distilled"], tops[control], strict=True)) / 2
        assert over[control]["gain"]["mean"] == pytest.approx(mean)
    assert "Against the other controls: longer" in found["results"]["arms"]["distilled"]["verdict"]["sentence"]


def test_what_is_finished_is_not_done_again_and_arms_and_seeds_can_join(done, file, capsys):
    out, _ = done
    before = {path: path.stat().st_mtime_ns for path in out.rglob("record.json")}
    more = load_recipe(file, ["study.arms.cold={stages.0.objective.soft.tau: 1}"])
    again = study(more, output_dir=out, resume=True, seeds=3, callbacks=[])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(again["cells"]) == 21
    assert {cell["state"] for cell in again["cells"]} == {"done"}
    assert "9 to run" in capsys.readouterr().out
    with pytest.raises(LimbeckError, match=r"begun with another recipe \(student changed\)"):
        study(load_recipe(file, ["student.width=5"]), output_dir=out, resume=True)
    with pytest.raises(LimbeckError, match="is not empty"):
        study(file, output_dir=out)


def test_a_failed_cell_leaves_the_others_and_is_tried_again(file, tmp_path, monkeypatch):

    real = work.run_trial

    def broken(recipe, arm, folder, **how):
        if arm.name == "smoothed":
            raise LimbeckError("the disk is full")
        return real(recipe, arm, folder, **how)

    monkeypatch.setattr(work, "run_trial", broken)
    with pytest.raises(LimbeckError, match="1 of 6 cells failed, the first smoothed with seed 0: the disk is full"):
        study(file, output_dir=tmp_path / "s", seeds=1, callbacks=[])
    monkeypatch.setattr(work, "run_trial", real)
    found = study(file, output_dir=tmp_path / "s", seeds=1, resume=True, callbacks=[])
    assert {cell["state"] for cell in found["cells"]} == {"done"}


KILLED = """
import os, signal, sys
from limbeck.programs.studying import work
real = work.run_cell
def dies(recipe, arm, folder, **how):
    if arm.name == "distilled":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(recipe, arm, folder, **how)
work.run_cell = dies
from limbeck.programs import study
study(sys.argv[1], seeds=1, out=__import__("pathlib").Path(sys.argv[2]), watchers=[])
"""


def test_a_killed_study_goes_on_at_once_with_the_same_figures(done, file, tmp_path):
    out = tmp_path / "killed"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(file), str(out)], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert json.loads((out / "study.json").read_text())["cells"][-2]["state"] in ("running", "waiting")
    study(file, output_dir=out, seeds=1, resume=True, callbacks=[])
    for arm in ("alone", "smoothed", "distilled", "hot"):
        assert record(out, arm)["models"][arm]["test"] == record(done[0], arm)["models"][arm]["test"]


def test_two_jobs_find_the_same_as_one(done, file, tmp_path, capfd):
    out = tmp_path / "jobs"
    assert main(["study", str(file), "--seeds", "1", "--jobs", "2", "--out", str(out)]) == 0
    for arm in ("alone", "smoothed", "distilled", "hot"):
        assert record(out, arm)["models"][arm]["test"] == record(done[0], arm)["models"][arm]["test"]
    said = capfd.readouterr().out
    assert "teacher, seed 0:" in said
    assert "Difference, points" in said
    assert "hot, seed 0:" in said


@pytest.marker.parametrize(
    ("setting", "said"),
    [
        ("study.arms.alone={stages.0.steps: 3}", "every study has an arm of that name"),
        ("study.arms.wide={student.width: 9}", "student.width is for all arms alike"),
        ("study.arms.none={}", "it changes nothing"),
        ("study.arms.hot={stages.0.objective.sfot.tau: 8}", "the arm 'hot'|study.arms.hot"),
        ("study.arms.few={teachers: [bigg]}", "there is no teacher 'bigg': big"),
        ("study.arms.big={stages.0.steps: 3}", "a teacher or assistant has that name"),
        ("study.seeds=0", "give at least 1"),
        ("study.seeds=[1, 1]", "neither a number of seeds nor a list of different ones"),
        ("study.sedes=2", "study.sedes is no setting of a recipe; study has: seeds"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence_before_anything_is_trained(file, tmp_path, setting, said):
    with pytest.raises(LimbeckError, match=said):
        study(file, [setting], output_dir=tmp_path / "s")
    assert not list(tmp_path.glob("s/cells/**/record.json"))


def test_without_teachers_there_is_no_teacher_arm(tmp_path):
    settings = ["teachers={}", "stages.0.objective={truth: CrossEntropy}", "study={seeds: 1}", "teaching=null"]
    found = study(load_recipe(RECIPE, settings), output_dir=tmp_path / "s", callbacks=[])
    assert list(found["results"]["arms"]) == ["alone", "longer", "smoothed", "distilled"]
    assert found["results"]["arms"]["distilled"]["gap_recovered"] is None


def test_the_program_is_found_by_name():
    assert limbeck.workflows.study.run is study


def test_two_workers_of_two_commands_share_one_queue(file, tmp_path):
    """As two machines would: one database, one folder."""
    out, url = tmp_path / "both", f"sqlite:///{tmp_path / 'shared.db'}"
    code = (
        "import sys; from pathlib import Path; from limbeck.workflows import study;"
        "study(sys.argv[1], seeds=2, out=Path(sys.argv[2]), resume=True, storage=sys.argv[3], watchers=[])"
    )
    out.mkdir()
    (out / "recipe.yaml").write_text(file.read_text())
    words = [sys.executable, "-c", code, str(file), str(out), url]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    worked = [out_.count(", seed ") for out_, _ in said]
    assert sum(worked) == 12
    assert json.loads((out / "study.json").read_text())["results"]["arms"]["hot"]["top1"]["n"] == 2


def test_the_best_epoch_by_validation_is_named_as_such(file, tmp_path):
    found = study(file, ["study.arms.kept={training.keep: best}"], seeds=1, output_dir=tmp_path / "s", callbacks=[])
    assert found["results"]["arms"]["kept"]["kept"] == "best on validation"
    assert found["results"]["arms"]["hot"]["kept"] == "last epoch"
    assert found["arms"]["kept"]["note"] == "the best epoch by validation, not the last"
    assert "the best epoch by validation" in (tmp_path / "s" / "compare.html").read_text()


def test_the_choice_among_arms_is_made_on_validation(done):
    out, found = done
    means = {
        arm: sum(record(out, arm, seed)["models"][arm]["validation"]["top1"] for seed in (0, 1)) / 2
        for arm in ("distilled", "hot")
    }
    assert found["results"]["chosen"]["arm"] == max(means, key=means.get)
    assert {"p", "p_holm"} <= found["results"]["arms"]["hot"]["gain"].keys()


def test_a_database_that_cannot_be_opened_is_one_sentence(file, tmp_path):
    with pytest.raises(LimbeckError, match=r"the queue nowhere://x could not be opened .* give another --storage"):
        study(file, output_dir=tmp_path / "s", storage="nowhere://x")


def test_an_arm_that_left_the_study_is_not_trained(file, tmp_path):
    out, recipe = tmp_path / "s", load_recipe(file)
    study(file, ["study.arms={}"], seeds=1, output_dir=out, callbacks=[])
    TrialQueue.from_recipe(recipe, out, None).enqueue([Trial("hot", 0)])
    found = study(file, ["study.arms={}"], seeds=1, output_dir=out, resume=True, callbacks=[])
    assert "hot" not in found["arms"]
    assert {cell["state"] for cell in found["cells"]} == {"done"}
    assert not (out / "cells" / "hot").exists()


def test_a_damaged_record_is_one_sentence_that_says_what_to_do(file, tmp_path):
    out = tmp_path / "s"
    study(file, ["study.arms={}"], seeds=1, output_dir=out, callbacks=[])
    path = out / "cells" / "alone" / "0" / "record.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(LimbeckError, match=r"alone/0/record.json cannot be read .*: remove the folder .*alone/0"):
        study(file, ["study.arms={}"], seeds=1, output_dir=out, resume=True, callbacks=[])
    shutil.rmtree(path.parent)
    found = study(file, ["study.arms={}"], seeds=1, output_dir=out, resume=True, callbacks=[])
    assert {cell["state"] for cell in found["cells"]} == {"done"}


def test_any_error_of_one_cell_leaves_the_others(file, tmp_path, monkeypatch, capsys):
    real = work.run_trial

    def broken(recipe, arm, folder, **how):
        if arm.name == "alone":
            raise RuntimeError("a plugin's own error")
        return real(recipe, arm, folder, **how)

    monkeypatch.setattr(work, "run_trial", broken)
    with pytest.raises(LimbeckError, match="1 of 5 cells failed, the first alone with seed 0: RuntimeError: a plugin"):
        study(file, ["study.arms={}"], seeds=1, output_dir=tmp_path / "s", callbacks=[])
    assert "a plugin's own error" in capsys.readouterr().err


def test_nobody_waits_for_a_teacher_whose_worker_is_gone(file, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "_MAX_MISSED_CHECKS", 1)
    out = tmp_path / "s"
    out.mkdir()
    queue = TrialQueue.from_recipe(load_recipe(file), out, None)
    queue.enqueue([Trial("teacher", 0)])
    with queue.claim() as cell:  # taken by this machine, and nobody works in its folder
        assert queue.is_abandoned(cell)
        with pytest.raises(LimbeckError, match="whoever trained the teacher of seed 0 is gone"):
            work._wait_for_teacher(0, out, queue)


def test_a_terminated_study_ends_its_workers_and_goes_on_later(file, tmp_path):
    out = tmp_path / "s"
    words = [sys.executable, "-m", "limbeck", "study", str(file), "study.arms={}", "stages.0.steps=4000",
             "--seeds", "1", "--jobs", "2", "--out", str(out)]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoint = out / "cells" / "alone" / "0" / "recipe.yaml"
    for _ in range(400):
        if checkpoint.exists():
            break
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60) != 0
    for _ in range(100):
        if is_unlocked(checkpoint.parent):
            break
        time.sleep(0.1)
    assert is_unlocked(checkpoint.parent)
    assert not (checkpoint.parent / "record.json").exists()


def test_a_password_is_not_told():
    from limbeck.workflows.study.queue import _mask_password

    assert _mask_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert _mask_password("sqlite:////tmp/queue.db") == "sqlite:////tmp/queue.db"
