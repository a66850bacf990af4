"""Folders and files that cannot be used are one sentence with their path."""

import re
import time

import pytest

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import read_text, write_text
from limbeck.workflows._job.run_dir import choose_run_dir, lock_folder


def test_a_folder_that_cannot_be_a_run_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    messages = {
        "file": "is a file, and --out is a folder",
        "file/below": "cannot be used (Not a directory)",
        "link": "is a link to nothing",
        "loop": "is a link to nothing",
        "a" * 300: "cannot be used (File name too long)",
        "null\0": "cannot be used (",
        "/proc/x": "cannot be used (No such file or directory)",
    }
    for name, message in messages.items():
        with pytest.raises(LimbeckError, match=re.escape(f"{tmp_path / name} {message}")):
            choose_run_dir("run", tmp_path / name, resume=False)


def test_choosing_a_folder_leaves_none_behind(tmp_path):
    assert choose_run_dir("run", tmp_path / "a" / "b", resume=False) == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_a_file_is_skipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "digits").write_text("text")
    assert choose_run_dir("digits", None, resume=False).name == "digits-2"


def test_the_leavings_of_a_killed_process_are_no_run(tmp_path):
    """It was killed before it wrote the recipe, so there is nothing to resume."""
    for name in (".lock", ".recipe.yaml.123.partial"):
        (tmp_path / name).touch()
        assert choose_run_dir("run", tmp_path, resume=False) == tmp_path
    (tmp_path / "notes").touch()
    with pytest.raises(LimbeckError, match="is not empty"):
        choose_run_dir("run", tmp_path, resume=False)


@pytest.mark.parametrize("name", ["checkpoint", "tensorboard", "mlflow.db"])
def test_files_are_not_written_through_a_link(tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(LimbeckError, match=f"{name} is a link, and files are not written through it"),
        lock_folder(tmp_path / "run"),
    ):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_file_is_not_written_over_a_folder_or_a_device(tmp_path):
    for path, kind in ((tmp_path, "a folder"), ("/dev/null", "a device")):
        with pytest.raises(LimbeckError, match=f"{path} must be a file, got {kind}: give another path"):
            write_text(tmp_path / path, "text")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bytes").write_bytes(b"a\xff")
    with pytest.raises(LimbeckError, match=r"bytes is not UTF-8 text \(byte 1\)"):
        read_text(tmp_path / "bytes")
    with pytest.raises(LimbeckError, match=r"could not be read \(Is a directory\)"):
        read_text(tmp_path)


def test_a_signal_in_the_first_steps_of_a_teacher_is_one_sentence(fork_python, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "task: Classification\ndata: Digits\nnum_threads: 1\nteachers: {teacher: small_cnn}\nstudent: small_cnn\n"
        "teacher_training: {steps: 100000, objective: {target: CrossEntropyLoss}}\n"
        "stages: [{name: distill, steps: 2, objective: {kd: KDLoss}}]\n"
    )
    process = fork_python("distill", "recipe.yaml", "--out", "run", cwd=tmp_path)
    while not (tmp_path / "run" / "task.json").exists() and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 143
    assert "limbeck: stopped by SIGTERM" in errors
    assert "Traceback" not in errors
