"""`limbeck study` end to end on digits: its controls are matched, its trials are kept, its test parts opened once."""

import json
import shutil
import signal
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
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.run_dir import is_unlocked
from limbeck.workflows.study import run as run_module
from limbeck.workflows.study import trials as trials_module
from limbeck.workflows.study import worker as work
from limbeck.workflows.study.trials import Trial, claim_trial, list_trials, read_states

RECIPE = """
name: tiny
task: Classification
data:
  {use: Digits, num_labeled: 60, num_samples: 200,
   augment: {use: Augmentation, transforms: [{use: affine, degrees: 10, scale: [0.9, 1.1], translate: 0.06}]}}
teachers: {big: {use: small_cnn, width: 8}}
student: {use: small_cnn, width: 3}
teacher_training: {steps: 20, objective: {target: CrossEntropyLoss}}
stages:
  - name: only
    steps: 12
    objective: {target: {use: CrossEntropyLoss, weight: 0.5}, kd: {use: KDLoss, temperature: 4, weight: 0.5}}
training: {optimizer: {use: AdamW, lr: 0.02}, scheduler: {use: StepLR, step_size: 4, gamma: 0.5}, batch_size: 32}
study: {seeds: 2, variants: {hot: {stages.0.objective.kd.temperature: 8}}}
num_threads: 1
"""
VARIANTS = ["teacher", "student_only", "equal_time", "label_smoothing", "distilled", "hot"]


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


@pytest.fixture(scope="module")
def small_file(file):
    """The recipe without its slower baselines: their trials, and the time of a step, which equal_time needs."""
    path = file.parent / "small.yaml"
    path.write_text(RECIPE.replace("study: {", "study: {baselines: [student_only], "))
    return path


@pytest.fixture(scope="module")
def small_study(small_file):
    study(small_file, ["study.variants={}"], seeds=1, output_dir=str(small_file.parent / "small"), callbacks=[])
    return small_file.parent / "small"


@pytest.fixture
def small(small_study, tmp_path):
    """A copy of a finished study of teacher, student_only and distilled, with one seed."""
    return shutil.copytree(small_study, tmp_path / "s")


def record(out, variant, seed=0):
    return json.loads((out / "trials" / variant / str(seed) / "record.json").read_text())


def test_every_variant_is_trained_with_every_seed(done):
    out, result = done
    assert list(result["variants"]) == VARIANTS
    assert [trial["state"] for trial in result["trials"]] == ["done"] * 12
    assert json.loads((out / "study.json").read_text()) == result
    for variant in VARIANTS:
        one = result["results"]["variants"][variant]
        assert one["accuracy"]["num_seeds"] == 2
        assert (one["verdict"] is None) == (variant == "student_only")
    assert "95 %" in result["results"]["rule"]


def test_baselines_are_optional_except_student_only(file, small_study):
    result = json.loads((small_study / "study.json").read_text())
    assert list(result["variants"]) == ["teacher", "student_only", "distilled"]
    assert result["results"]["variants"]["distilled"]["vs_baselines"] == {}
    with pytest.raises(LimbeckError, match="student_only is always one of them"):
        load_recipe(file, ["study.baselines=[equal_time]"])
    with pytest.raises(LimbeckError, match="'shorter' is none of student_only, equal_time, label_smoothing"):
        load_recipe(file, ["study.baselines=[student_only, shorter]"])


def test_a_variant_with_finished_trials_cannot_become_another(file, tmp_path):
    few = [
        "study.baselines=[student_only]",
        "study.seeds=1",
        "study.variants={hot: {stages.0.objective.kd.temperature: 8}}",
    ]
    study(file, few, output_dir=tmp_path / "s", callbacks=[])
    hotter = [*few[:2], "study.variants={hot: {stages.0.objective.kd.temperature: 9}}"]
    with pytest.raises(LimbeckError, match="the variant 'hot' has finished trials and is another now"):
        study(file, hotter, output_dir=tmp_path / "s", resume=True, callbacks=[])
    shutil.rmtree(tmp_path / "s" / "trials" / "hot")
    assert study(file, hotter, output_dir=tmp_path / "s", resume=True, callbacks=[])["trials"][-1]["state"] == "done"
    assert record(tmp_path / "s", "hot")["recipe"]["stages"][0]["objective"]["kd"]["temperature"] == 9


def test_recipe_check_checks_every_variant(file, capsys):
    assert main(["recipe", "check", str(file)]) == 0
    wrong = "study.variants.hot={stages.0.objective.kd: {use: KDLoss, weight: {use: warmup, share: 0.1}}}"
    assert main(["recipe", "check", str(file), wrong]) == 2
    assert "study.variants.hot: stages.0.objective.kd.weight" in capsys.readouterr().err


def test_the_test_split_is_read_once_for_each_variant_and_seed(done):
    out, _ = done
    for variant in VARIANTS:
        for seed in (0, 1):
            assert record(out, variant, seed)["test_set"]["num_reads"] == 1


def test_the_distilled_variant_is_what_distill_trains_bit_for_bit(done, tmp_path):
    """Shared teacher, shared cache, fresh views: and still the very student of the main job."""
    out, _ = done
    distill(load_recipe(RECIPE), run_dir=tmp_path / "run", callbacks=[])
    ours, theirs = (
        load_weights(small_cnn(width=3, channels=1), path).state_dict()
        for path in (out / "trials/distilled/0/student.safetensors", tmp_path / "run" / "student.safetensors")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    run = json.loads((tmp_path / "run" / "record.json").read_text())["models"]
    for variant, model in (("distilled", "distilled"), ("student_only", "baseline"), ("teacher", "big")):
        name = "big" if variant == "teacher" else variant
        assert (
            record(out, variant)["models"][name]["test"]["metrics"]["accuracy"]
            == run[model]["test"]["metrics"]["accuracy"]
        )
    assert load_predictions(tmp_path / "run" / "predictions.safetensors").predicted.keys() == {
        "big",
        "baseline",
        "distilled",
    }


def test_the_variants_of_a_seed_share_one_cache(done):
    out, _ = done
    caches = [record(out, variant)["cache"]["big"] for variant in ("distilled", "hot")]
    assert caches[0]["key"] == caches[1]["key"]
    assert caches[0]["misses"] > 0
    assert caches[1]["misses"] == 0


def test_baselines_differ_only_in_what_they_are_named_for(done):
    out, result = done
    recipes = {variant: record(out, variant)["recipe"] for variant in VARIANTS}
    student_only = recipes["student_only"]
    for variant in ("equal_time", "label_smoothing", "distilled"):
        assert recipes[variant]["student"] == student_only["student"]
        assert recipes[variant]["training"] == student_only["training"]
        assert recipes[variant]["seed"] == student_only["seed"] == 0
    assert student_only["teachers"] == {}
    assert recipes["label_smoothing"]["stages"][0]["objective"]["target"]["label_smoothing"] == 0.1
    steps = round(result["time_ratio"] * 12)
    assert record(out, "equal_time")["models"]["equal_time"]["steps"] == steps
    assert recipes["equal_time"]["stages"][0]["training"]["scheduler"]["step_size"] == max(
        1, round(result["time_ratio"] * 4)
    )
    assert record(out, "student_only")["models"]["student_only"]["steps"] == 12


def test_the_time_ratio_is_that_of_steps_with_and_without_teachers(file, tmp_path, monkeypatch):
    """By given latencies, since measured ones of such short steps depend on the load of the machine."""
    seconds = {"distilled": 3.0, "query": 0.5, "baseline": 2.0}
    monkeypatch.setattr(
        run_module, "measure_latencies", lambda calls, **_: {name: {"median": seconds[name]} for name in calls}
    )
    assert run_module._measure_time_ratio(Job.from_recipe(load_recipe(file), tmp_path)) == 1.5
    # With a cache teacher outputs are computed once for each view: 4 views of 200 images in 1,200 steps of 32.
    cached = load_recipe(file, ["cache={}", "stages.0.steps=1200", "data.augment.num_views=4"])
    fraction = 4 * 200 / (1200 * 32)
    expected = (3.0 - (1 - fraction) * 0.5) / 2.0
    assert run_module._measure_time_ratio(Job.from_recipe(cached, tmp_path)) == pytest.approx(expected)


def test_gains_are_paired_by_seed(done):
    out, result = done
    gains = [
        100 * (record(out, "hot", s)["models"]["hot"]["test"]["metrics"]["accuracy"]
               - record(out, "student_only", s)["models"]["student_only"]["test"]["metrics"]["accuracy"])
        for s in (0, 1)
    ]  # fmt: skip
    gain = result["results"]["variants"]["hot"]["gain"]
    assert gain["mean"] == pytest.approx(sum(gains) / 2)
    assert [one["seed"] for one in gain["mcnemar"]] == [0, 1]


def test_a_gain_is_reported_against_every_baseline(done):
    out, result = done
    over = result["results"]["variants"]["distilled"]["vs_baselines"]
    tops = {
        variant: [record(out, variant, seed)["models"][variant]["test"]["metrics"]["accuracy"] for seed in (0, 1)]
        for variant in ("distilled", "equal_time", "label_smoothing")
    }
    for control in ("equal_time", "label_smoothing"):
        mean = sum(100 * (a - b) for a, b in zip(tops["distilled"], tops[control], strict=True)) / 2
        assert over[control]["gain"]["mean"] == pytest.approx(mean)
    assert "Against the other baselines: equal_time" in result["results"]["variants"]["distilled"]["verdict"]["text"]


def test_finished_trials_are_not_trained_again_and_variants_and_seeds_can_be_added(small, small_file, capsys):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("record.json")}
    again = study(small_file, output_dir=small, resume=True, seeds=2, callbacks=[])  # with the variant `hot`
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(again["trials"]) == 8
    assert {trial["state"] for trial in again["trials"]} == {"done"}
    assert "5 to run" in capsys.readouterr().out
    with pytest.raises(LimbeckError, match=r"begun with another recipe \(student changed\)"):
        study(load_recipe(small_file, ["student.width=5"]), output_dir=small, resume=True)
    with pytest.raises(LimbeckError, match="is not empty"):
        study(small_file, output_dir=small)


def test_a_failed_trial_does_not_stop_the_others_and_is_retried(small_file, tmp_path, monkeypatch):

    real = work.run_trial

    def broken(recipe, variant, folder, **settings):
        if variant.name == "distilled":
            raise LimbeckError("the disk is full")
        return real(recipe, variant, folder, **settings)

    monkeypatch.setattr(work, "run_trial", broken)
    with pytest.raises(LimbeckError, match="1 of 4 trials failed, the first distilled with seed 0: the disk is full"):
        study(small_file, output_dir=tmp_path / "s", seeds=1, callbacks=[])
    monkeypatch.setattr(work, "run_trial", real)
    result = study(small_file, output_dir=tmp_path / "s", seeds=1, resume=True, callbacks=[])
    assert {trial["state"] for trial in result["trials"]} == {"done"}


KILLED = """
import os, signal, sys
from limbeck.workflows.study import worker
real = worker.run_trial
def dies(recipe, variant, folder, **settings):
    if variant.name == "distilled":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(recipe, variant, folder, **settings)
worker.run_trial = dies
from limbeck.workflows import study
study(sys.argv[1], seeds=1, output_dir=__import__("pathlib").Path(sys.argv[2]), callbacks=[])
"""


def test_a_killed_study_resumes_at_once_with_the_same_metrics(done, small_file, tmp_path, run_python):
    out = tmp_path / "killed"
    ended = run_python("-c", KILLED, small_file, out)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert json.loads((out / "study.json").read_text())["trials"][-2]["state"] in ("running", "waiting")
    study(small_file, output_dir=out, seeds=1, resume=True, callbacks=[])
    for variant in ("student_only", "distilled", "hot"):
        assert record(out, variant)["models"][variant]["test"] == record(done[0], variant)["models"][variant]["test"]


def test_two_jobs_give_the_same_metrics_as_one(done, small_file, tmp_path, capfd, forked_workers):
    out = tmp_path / "jobs"
    assert main(["study", str(small_file), "--seeds", "1", "--jobs", "2", "--out", str(out)]) == 0
    for variant in ("student_only", "distilled", "hot"):
        assert record(out, variant)["models"][variant]["test"] == record(done[0], variant)["models"][variant]["test"]
    output = capfd.readouterr().out
    assert "teacher, seed 0:" in output
    assert "Gain" in output
    assert "hot, seed 0:" in output


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("study.variants.student_only={stages.0.steps: 3}", "every study has a variant of that name"),
        ("study.variants.wide={student.width: 9}", "student.width is for all variants alike"),
        ("study.variants.none={}", "it changes nothing"),
        ("study.variants.hot={stages.0.objective.kdd.temperature: 8}", "the variant 'hot'|study.variants.hot"),
        ("study.variants.few={teachers: [bigg]}", "there is no teacher 'bigg': big"),
        ("study.variants.big={stages.0.steps: 3}", "a teacher or assistant has that name"),
        ("study.seeds=0", "the number of seeds must be from 1 to 1000, got 0"),
        ("study.seeds=[1, 1]", "neither a number of seeds nor a list of different ones"),
        ("study.sedes=2", "study.sedes is no setting of a recipe; study has: seeds"),
    ],
)
def test_a_mistake_in_a_study_is_one_sentence_before_anything_is_trained(file, tmp_path, setting, message):
    with pytest.raises(LimbeckError, match=message):
        study(file, [setting], output_dir=tmp_path / "s")
    assert not list(tmp_path.glob("s/trials/**/record.json"))


def test_without_teachers_there_is_no_teacher_variant(tmp_path):
    settings = [
        "teachers={}",
        "stages.0.objective={target: CrossEntropyLoss}",
        "study={seeds: 1}",
        "teacher_training=null",
    ]
    result = study(load_recipe(RECIPE, settings), output_dir=tmp_path / "s", callbacks=[])
    assert list(result["results"]["variants"]) == ["student_only", "equal_time", "label_smoothing", "distilled"]
    assert result["results"]["variants"]["distilled"]["gap_recovered"] is None


def test_the_command_is_resolved_by_name():
    assert limbeck.workflows.study is study


def test_workers_of_two_commands_share_the_trials_of_one_folder(small_file, tmp_path, fork_python):
    """As on two machines with a shared folder."""
    out = tmp_path / "both"
    code = (
        "import sys; from pathlib import Path; from limbeck.workflows import study;"
        "study(sys.argv[1], seeds=2, output_dir=Path(sys.argv[2]), resume=True, callbacks=[])"
    )
    out.mkdir()
    (out / "recipe.yaml").write_text(small_file.read_text())
    processes = [fork_python("-c", code, small_file, out) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum(stdout.count(", seed ") for stdout, _ in outputs) == 8
    assert json.loads((out / "study.json").read_text())["results"]["variants"]["hot"]["accuracy"]["num_seeds"] == 2


def test_the_best_epoch_by_validation_is_noted(small_file, tmp_path):
    result = study(
        small_file,
        ["study.variants.kept={training.keep_weights: best}"],
        seeds=1,
        output_dir=tmp_path / "s",
        callbacks=[],
    )
    assert result["results"]["variants"]["kept"]["weights"] == "best on validation"
    assert result["results"]["variants"]["hot"]["weights"] == "last epoch"
    assert result["variants"]["kept"]["note"] == "the best epoch by validation, not the last"
    assert "the best epoch by validation" in (tmp_path / "s" / "compare.html").read_text()


def test_a_variant_is_selected_on_validation(done):
    out, result = done
    means = {
        variant: sum(
            record(out, variant, seed)["models"][variant]["validation"]["metrics"]["accuracy"] for seed in (0, 1)
        )
        / 2
        for variant in ("distilled", "hot")
    }
    assert result["results"]["selected"]["variant"] == max(means, key=means.get)
    assert {"p_value", "p_value_holm"} <= result["results"]["variants"]["hot"]["gain"].keys()


def test_a_database_is_refused_and_the_shared_folder_named(file, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["study", str(file), "--out", str(tmp_path / "s"), "--storage", "sqlite:///queue.db"])
    assert "--storage was removed: a study needs no database; give the same --out" in capsys.readouterr().err


def test_a_variant_that_left_the_study_is_not_trained(small_file, small):
    with claim_trial(small, [Trial("hot", 0)]) as trial:
        assert trial == Trial("hot", 0)
    result = study(small_file, ["study.variants={}"], seeds=1, output_dir=small, resume=True, callbacks=[])
    assert "hot" not in result["variants"]
    assert {trial["state"] for trial in result["trials"]} == {"done"}
    assert not (small / "trials" / "hot" / "0" / "record.json").exists()


def test_a_damaged_record_is_an_error_with_a_remedy(small_file, small):
    path = small / "trials" / "student_only" / "0" / "record.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(
        LimbeckError, match=r"student_only/0/record.json cannot be read .*: remove the folder .*student_only/0"
    ):
        study(small_file, ["study.variants={}"], seeds=1, output_dir=small, resume=True, callbacks=[])
    shutil.rmtree(path.parent)
    result = study(small_file, ["study.variants={}"], seeds=1, output_dir=small, resume=True, callbacks=[])
    assert {trial["state"] for trial in result["trials"]} == {"done"}


def test_a_truncated_study_json_is_an_error_with_a_remedy(small_file, small):
    (small / "study.json").write_text((small / "study.json").read_text()[:200])
    with pytest.raises(LimbeckError, match=r"study.json cannot be read as a study: remove it, and .*--resume"):
        study(small_file, ["study.variants={}"], seeds=1, output_dir=small, resume=True, callbacks=[])
    (small / "study.json").unlink()
    result = study(small_file, ["study.variants={}"], seeds=1, output_dir=small, resume=True, callbacks=[])
    assert {trial["state"] for trial in result["trials"]} == {"done"}


def test_an_error_file_that_cannot_be_written_ends_the_study(small_file, tmp_path, monkeypatch):
    def broken(*arguments, **settings):
        raise LimbeckError("the data are gone")

    def full_disk(path, text):
        raise LimbeckError(f"{path} could not be written (No space left on device)")

    monkeypatch.setattr(work, "run_trial", broken)
    monkeypatch.setattr(trials_module, "write_text", full_disk)
    with pytest.raises(LimbeckError, match=r"error.txt could not be written \(No space left on device\)"):
        study(small_file, ["study.variants={}"], seeds=1, output_dir=tmp_path / "s", callbacks=[])


def test_an_error_file_of_other_bytes_is_read(tmp_path):
    trials = [Trial("distilled", 0)]
    (tmp_path / trials[0].path).mkdir(parents=True)
    (tmp_path / trials[0].path / "error.txt").write_bytes(b"\xff\xfe lost")
    assert read_states(tmp_path, trials)[trials[0]] == ("failed", "\ufffd\ufffd lost")


def test_any_error_of_a_trial_does_not_stop_the_others(small_file, tmp_path, monkeypatch, capsys):
    real = work.run_trial

    def broken(recipe, variant, folder, **settings):
        if variant.name == "student_only":
            raise RuntimeError("a plugin's own error")
        return real(recipe, variant, folder, **settings)

    monkeypatch.setattr(work, "run_trial", broken)
    with pytest.raises(
        LimbeckError, match="1 of 3 trials failed, the first student_only with seed 0: RuntimeError: a plugin"
    ):
        study(small_file, ["study.variants={}"], seeds=1, output_dir=tmp_path / "s", callbacks=[])
    path = tmp_path / "s" / "trials" / "student_only" / "0" / "traceback.txt"
    captured = capsys.readouterr()
    assert f"failed: RuntimeError: a plugin's own error; the traceback is in {path}\n" in captured.out
    assert "Traceback" not in captured.err
    assert "in broken" in path.read_text()


CLAIMS = """
import sys, time
from pathlib import Path
from limbeck.workflows.study.trials import Trial, claim_trial
with claim_trial(Path(sys.argv[1]), [Trial("teacher", 0)]):
    print("claimed", flush=True)
    time.sleep(600)
"""


def test_a_claimed_trial_is_free_again_as_soon_as_its_worker_is_killed(tmp_path, fork_python):
    trials = [Trial("teacher", 0), Trial("student_only", 0)]
    worker = fork_python("-c", CLAIMS, tmp_path)
    wait_until(lambda: worker.read_output()[0] == "claimed\n")
    assert [state for state, _ in read_states(tmp_path, trials).values()] == ["running", "waiting"]
    with claim_trial(tmp_path, trials) as trial:
        assert trial == Trial("student_only", 0)
    with claim_trial(tmp_path, trials[:1]) as trial:
        assert trial is None
    worker.kill()
    worker.wait()
    with claim_trial(tmp_path, trials) as trial:
        assert trial == Trial("teacher", 0)
        assert read_states(tmp_path, trials)[trial][0] == "running"


def test_students_fail_with_the_reason_of_their_teacher(small_file, tmp_path, monkeypatch):
    real = work.run_trial

    def broken(recipe, variant, folder, **settings):
        if variant.name == "teacher":
            raise LimbeckError("the disk is full")
        return real(recipe, variant, folder, **settings)

    monkeypatch.setattr(work, "run_trial", broken)
    with pytest.raises(LimbeckError, match="2 of 3 trials failed, the first teacher with seed 0: the disk is full"):
        study(small_file, ["study.variants={}"], seeds=1, output_dir=tmp_path / "s", callbacks=[])
    states = read_states(tmp_path / "s", list_trials(load_recipe(small_file, ["study.seeds=1", "study.variants={}"])))
    assert states[Trial("distilled", 0)] == ("failed", "the teacher of seed 0 failed: the disk is full")


def test_a_terminated_study_ends_its_workers_and_leaves_no_lock(small_file, tmp_path, fork_python):
    out = tmp_path / "s"
    process = fork_python(
        "study", small_file, "study.variants={}", "stages.0.steps=4000", "--seeds", "1", "--jobs", "2", "--out", out
    )
    folder = out / "trials" / "student_only" / "0"
    wait_until(lambda: (folder / "recipe.yaml").exists() or process.poll() is not None)
    assert process.poll() is None, process.read_output()
    process.terminate()
    assert process.wait() != 0
    wait_until(lambda: is_unlocked(folder))
    assert not (folder / "record.json").exists()


def wait_until(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("the condition was not met in 600 s")
