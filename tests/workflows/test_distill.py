"""The main job on a recipe of a few steps: what stands in the run folder, what is refused, what survives a kill."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

import limbeck
from limbeck.cli import main
from limbeck.models import load_weights, small_cnn
from limbeck.workflows import distill
from limbeck.workflows._job.run_dir import choose_run_dir, lock_folder, newest_run_dir

RECIPE = """
task: Classification
data: {use: Digits, num_labeled: 100, num_samples: 200, augment: {use: Augmentation, transforms: [{use: affine}]}}
teachers: {big: {use: small_cnn, width: 12}}
student: {use: small_cnn, width: 4}
teacher_training: {steps: 12, objective: {target: CrossEntropyLoss}}
stages:
  - name: first
    steps: 6
    objective: {target: CrossEntropyLoss}
  - name: second
    steps: 8
    objective:
      target: {use: CrossEntropyLoss, weight: 0.1}
      kd: {use: KDLoss, temperature: 4, weight: 0.9}
      fitnet: {use: FitNetLoss, layer: mid, weight: {use: linear, start: 1, end: 0}}
    feature_layers: {student: {mid: block2}, big: {mid: block2}}
    freeze: [block1]
training: {optimizer: {use: SGD, lr: 0.05}, batch_size: 32}
export: {to: [onnx]}
num_threads: 1
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    distill(recipe, run_dir=out, callbacks=[])
    return out


def test_the_run_folder_is_whole(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "recipe.yaml", "record.json", "metrics.csv", "checkpoint", "student.safetensors", "student.onnx", "report.html",
    }  # fmt: skip
    assert not list(run.rglob("*.partial"))


def test_the_record_says_what_was_done(run):
    record = json.loads((run / "record.json").read_text())
    assert record["test_set"]["num_reads"] == 1
    assert record["data"] | {"fingerprint": "", "normalization": {}, "preprocessing": {}} == {
        "name": "Digits", "classes": list("0123456789"), "shape": [1, 8, 8], "num_train": 200, "num_labeled": 100,
        "num_val": 360, "num_test": 359, "fingerprint": "", "normalization": {}, "preprocessing": {},
        "facts": {"classes": 10, "channels": 1, "class_names": list("0123456789")},
    }  # fmt: skip
    assert [(name, model["role"], model["steps"]) for name, model in record["models"].items()] == [
        ("big", "teacher", 12), ("baseline", "baseline", 14), ("distilled", "distilled", 14),
    ]  # fmt: skip
    assert record["export"]["onnx"]["max_abs_difference"] < 1e-4
    assert record["models"]["baseline"]["parameters"] == record["models"]["distilled"]["parameters"]


def test_the_kept_weights_are_those_that_were_measured(run):
    record = json.loads((run / "record.json").read_text())
    student = load_weights(small_cnn(width=4), run).eval()
    data = limbeck.data.Digits(num_labeled=100, num_samples=200).load(seed=0)
    right = total = 0
    for batch in data.validation_batches():
        right += int((student(batch["input"]).argmax(1) == batch["target"]).sum())
        total += len(batch["target"])
    assert right / total == pytest.approx(record["models"]["distilled"]["validation"]["metrics"]["accuracy"])


def test_the_exported_file_takes_pixels(run):
    from limbeck.export import predict_onnx

    data = limbeck.data.Digits(num_labeled=100, num_samples=200).load(seed=0)
    pixels = data.validation.read(torch.arange(5))
    student = load_weights(small_cnn(width=4), run).eval()
    expected = student(data.normalization.apply(pixels))
    assert torch.allclose(predict_onnx(run / "student.onnx", pixels), expected, atol=1e-5)


def test_frozen_parts_keep_their_weights_in_their_stage(run):
    first = torch.load(run / "checkpoint" / "distilled.first.pt", weights_only=True)["student"]
    second = torch.load(run / "checkpoint" / "distilled.second.pt", weights_only=True)["student"]
    assert torch.equal(first["block1.conv.weight"], second["block1.conv.weight"])
    assert not torch.equal(first["block2.conv.weight"], second["block2.conv.weight"])


def test_the_baseline_differs_from_distilled_in_the_teacher_only(run):
    """The first stage has no teacher in it, so both students come out of it with the same bits."""
    baseline, distilled = (
        torch.load(run / "checkpoint" / f"{phase}.first.pt", weights_only=True) for phase in ("baseline", "distilled")
    )
    assert baseline["step"] == distilled["step"] == 6
    assert all(torch.equal(baseline["student"][name], tensor) for name, tensor in distilled["student"].items())


def test_teachers_and_terms_are_not_in_the_student_file(run):
    from safetensors.torch import load_file

    assert set(load_file(run / "student.safetensors")) == set(small_cnn(width=4).state_dict())


def test_the_test_part_cannot_be_read_twice(run, capsys):
    assert main(["evaluate", str(run), "--split", "test"]) == 2
    output = capsys.readouterr().err
    assert "already read" in output
    assert "second read" in output


def test_evaluate_repeats_the_figures_of_the_record(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    assert "the same" in capsys.readouterr().out


def test_export_and_report_can_be_made_again(run, tmp_path, capsys):
    assert main(["export", str(run), "--to", str(tmp_path / "again.onnx")]) == 0
    assert (tmp_path / "again.onnx").stat().st_size > 1000
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").exists()


def test_a_finished_run_is_not_done_again(run, recipe, capsys):
    before = (run / "record.json").read_bytes()
    assert main(["distill", str(recipe), "--out", str(run), "--resume"]) == 0
    assert (run / "record.json").read_bytes() == before
    assert "nothing is left to do" in capsys.readouterr().out


def test_without_a_recipe_the_newest_unfinished_run_is_resumed(run, recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["distill", "--resume"]) == 2
    assert "there is no run in" in capsys.readouterr().err
    for name in ("first", "second", "study"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    (tmp_path / "runs" / "second" / "record.json").write_text((run / "record.json").read_text())
    (tmp_path / "runs" / "study" / "study.json").write_text("{}")
    assert newest_run_dir() == Path("runs/first")
    shutil.copytree(run, tmp_path / "runs" / "first", dirs_exist_ok=True)
    assert main(["distill", "--resume"]) == 0
    assert "nothing is left to do" in capsys.readouterr().out


def test_a_truncated_record_of_a_finished_run_is_one_sentence(run, recipe, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "record.json").write_text((run / "record.json").read_text()[:300])
    assert main(["distill", str(recipe), "--out", str(folder), "--resume"]) == 2
    assert "record.json is not JSON" in (error := capsys.readouterr().err)
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "{run}"], "is not empty"),
        (["--out", "{run}", "--resume", "student.width=5"], "begun with another recipe"),
        (["--out", "{tmp}/none", "--resume"], "holds no run"),
        (["student.widht=3"], "did you mean 'width'"),
        (["task.classes=7"], "the data has 10 classes"),
        (["data.num_labeled=5"], "from 10"),
        (["student={use: 'os:system'}"], "part of Python itself"),
        (["training.batch_size=0"], "batch"),
        (["stages.1.objective.kd.temperature=-1"], "above zero and at most 10,000, got -1"),
        (["stages.1.feature_layers.big.mid=blok2"], "block2"),
        (["stages.1.freeze=[blok1]"], "block1"),
        (["training.optimizer.lr=-1"], "Invalid learning rate"),
        (["teachers.big={use: small_cnn, weights: '{run}'}"], "does not fit"),
        (["teachers.big.weights={tmp}/nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(run, recipe, tmp_path, capsys, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("{run}", str(run)).replace("{tmp}", str(tmp_path)) for word in words]
    assert main(["distill", str(recipe), *words]) == 2
    output = capsys.readouterr().err
    assert says in output
    assert len(output.strip().splitlines()) == 1


@pytest.mark.parametrize("wrong", ["student.widht=3", "data.num_labeled=5", "stages.1.feature_layers.big.mid=nowhere"])
def test_nothing_is_left_behind_by_a_bad_recipe(recipe, tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    assert main(["distill", str(recipe), wrong]) == 2
    assert not list(tmp_path.iterdir())


def test_killed_and_resumed_the_whole_job_ends_with_the_same_bits(run, recipe, tmp_path, fork_python, run_python):
    """Kills it in the teacher, in the baseline and in the distilled student."""
    out = tmp_path / "tiny"
    slow = (
        "import sys, time, limbeck.training; f = sys.modules['limbeck.training.train_state']\n"
        "step = f.TrainState.step_optimizer\n"
        "def step_optimizer(self): time.sleep(0.05); step(self)\n"
        "f.TrainState.step_optimizer = step_optimizer\n"
    )
    for phase in ("big.teacher_training", "baseline.second", "distilled.second"):
        resume = ["--resume"] if (out / "recipe.yaml").exists() else []
        process = fork_python("distill", recipe, "--out", out, *resume, first=slow)
        limit = time.monotonic() + 600
        before = {
            "big.teacher_training": None,
            "baseline.second": "baseline.first",
            "distilled.second": "distilled.first",
        }[phase]
        while time.monotonic() < limit and process.poll() is None:
            if (out / "recipe.yaml").exists() and (before is None or (out / "checkpoint" / f"{before}.pt").exists()):
                time.sleep(0.2)
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
    done = run_python("distill", "--out", out, "--resume")  # the recipe is that of the run
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_weights(small_cnn(width=4), folder).state_dict() for folder in (out, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    one, other = (json.loads((folder / "record.json").read_text()) for folder in (out, run))
    assert one["models"]["distilled"]["test"] == other["models"]["distilled"]["test"]
    assert one["test_set"]["num_reads"] == 1


def test_two_processes_do_not_share_a_folder(tmp_path):
    with lock_folder(tmp_path), pytest.raises(limbeck.LimbeckError, match="another process"), lock_folder(tmp_path):
        pass


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    message = r"run/.lock must be a file, got a link: remove it"
    with pytest.raises(limbeck.LimbeckError, match=message), lock_folder(tmp_path / "run"):
        pass
    assert (tmp_path / "victim").read_text() == "kept"


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    for name in (".record.json.12.partial", "checkpoint/.distilled.pt.12.partial"):
        (tmp_path / name).touch()
    with lock_folder(tmp_path):
        assert list(tmp_path.rglob(".*.partial")) == []


def test_a_run_killed_after_its_record_is_completed(run, recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    log_path = folder / "checkpoint" / "test_access.json"
    log_path.write_text(log_path.read_text().replace("true", "false"))
    for name in ("README.md", "report.html"):
        (folder / name).unlink()
    assert main(["distill", "--resume", "--out", str(folder)]) == 0
    assert "is finished" in capsys.readouterr().out
    for name in ("README.md", "report.html"):
        assert (folder / name).read_text() == (run / name).read_text()
    assert main(["evaluate", str(folder), "--split", "test"]) == 2
    assert "was already read" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_half_written(recipe, tmp_path, run_python):
    """Files may not grow beyond 4 kB: the first checkpoint fails, in one sentence."""
    limited = (
        "import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    )
    out = tmp_path / "full"
    done = run_python("distill", recipe, "--out", out, first=limited)
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr.splitlines()[-1]
    assert not [path for path in out.rglob("*") if "partial" in path.name or path.suffix == ".pt"]


def test_folders_are_numbered_and_resume_finds_the_newest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for expected in ("digits", "digits-2", "digits-3"):
        folder = choose_run_dir("digits", None, resume=False)
        assert folder == Path("runs") / expected
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text("")
        time.sleep(0.01)
    assert choose_run_dir("digits", None, resume=True) == Path("runs/digits-3")
    with pytest.raises(limbeck.LimbeckError, match="no run 'other'"):
        choose_run_dir("other", None, resume=True)


def test_a_teacher_from_a_run_folder_is_not_trained(run, recipe, tmp_path):
    out = tmp_path / "second"
    settings = [f"teachers.big.weights={run}", "teachers.big.width=4", "baselines=[]", "export.to=[]"]
    record = distill(recipe, settings, run_dir=out, callbacks=[])
    assert record["models"]["big"]["steps"] is None
    assert "baseline" not in record["models"]
    assert record["export"] == {}
    assert "not trained without a teacher" in record["verdict"]["text"]
