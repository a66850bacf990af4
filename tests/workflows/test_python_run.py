"""Runs in Python: their record and report, the baseline, short arguments, and one sentence for a mistake."""

import json
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import limbeck
from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.data import Digits, from_loaders
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.models import load_weights, small_cnn
from limbeck.report.record_io import check_record, read_record
from limbeck.training import TrainingConfig
from limbeck.training.callbacks import Callback
from limbeck.workflows._job.measure import show_training_batch
from limbeck.workflows._job.run_context import PythonRun
from limbeck.workflows._job.run_dir import lock_folder
from limbeck.workflows.python_run import _has_other_trainings_only, _read_finished

TASK = limbeck.tasks.Classification(classes=10)
OBJECTIVE = {"target": CrossEntropyLoss(), "kd": KDLoss(temperature=4.0)}


@pytest.fixture(scope="module")
def data():
    return Digits(num_labeled=100, num_samples=200).load(seed=0)


def make_distiller(objective=OBJECTIVE, weights=None):
    torch.manual_seed(0)
    student, teacher = small_cnn(width=4), small_cnn(width=8)
    return limbeck.Distiller(student, {"big": teacher}, objective=objective, weights=weights, task=TASK)


@pytest.fixture(scope="module")
def distilled(data, tmp_path_factory):
    """A run of ``limbeck.distill``: its result, and the student's weights before it."""
    distiller = make_distiller(weights={"target": 0.1, "kd": 0.9})
    initial = {name: tensor.clone() for name, tensor in distiller.student.state_dict().items()}
    folder = tmp_path_factory.mktemp("runs") / "mine"
    result = limbeck.distill(
        distiller, data, steps=8, run_dir=folder, optimizer="adamw", lr=0.01, batch_size=32, callbacks=[]
    )
    return result, initial


def test_distill_trains_the_baseline_from_the_same_weights(distilled, data):
    result, initial = distilled
    expected = small_cnn(width=4)
    expected.load_state_dict(initial)
    baseline = limbeck.Distiller(expected, objective={"target": CrossEntropyLoss()}, task=TASK)
    training = TrainingConfig(optimizer="adamw", lr=0.01, batch_size=32)
    limbeck.fit(
        baseline, data, steps=8, steps_per_epoch=6, phase="baseline", subset="labeled", training=training, callbacks=[]
    )
    states = [network.state_dict() for network in (expected, result.baseline)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in initial)
    assert not torch.equal(result.student.state_dict()["fc.weight"], states[0]["fc.weight"])


def test_distill_writes_a_record_as_a_recipe_does(distilled):
    result, _ = distilled
    record = read_record(result.run_dir / "record.json")
    assert (record.origin, record.split, record.test_set.num_reads) == ("python", "test", 1)
    assert {name: (model.role, model.steps) for name, model in record.models.items()} == {
        "big": ("teacher", None), "baseline": ("baseline", 8), "distilled": ("distilled", 8),
    }  # fmt: skip
    assert record.recipe["stages"][0]["objective"] == {
        "target": {"use": "CrossEntropyLoss", "label_smoothing": 0.0, "weight": 0.1},
        "kd": {"use": "KDLoss", "temperature": 4.0, "weight": 0.9},
    }
    assert record.verdict.interval is not None
    assert check_record(result.run_dir) == []
    assert {path.name for path in result.run_dir.iterdir()} >= {
        "report.html", "README.md", "student.onnx", "student.safetensors", "predictions.safetensors", "task.json",
    }  # fmt: skip
    assert "With PyTorch and limbeck" not in (card := (result.run_dir / "README.md").read_text())
    assert "It was trained in Python" in card
    loaded = load_weights(small_cnn(width=4), result.run_dir).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in result.student.state_dict().items())


def test_the_commands_take_a_run_in_python(distilled, tmp_path, capsys):
    folder = distilled[0].run_dir
    assert main(["compare", str(folder), "--out", str(tmp_path / "compare.html")]) == 0
    assert main(["report", str(folder)]) == main(["diagnose", str(folder)]) == 0
    capsys.readouterr()
    for command, message in (
        (["export", str(folder)], "was trained in Python: it has no recipe.yaml"),
        (["reproduce", str(folder)], "was trained in Python and has no recipe"),
        (["predict", str(folder), str(folder)], "must be an image"),
        (["predict", str(folder), str(folder / "metrics.csv")], "give its exported file, student.onnx"),
    ):
        assert main(command) == 2
        assert message in (error := capsys.readouterr().err)
        assert len(error.strip().splitlines()) == 1


def test_a_finished_run_is_resumed_without_a_second_read(distilled, data):
    result, initial = distilled
    distiller = make_distiller(weights={"target": 0.1, "kd": 0.9})
    distiller.student.load_state_dict(initial)
    options = {"steps": 8, "run_dir": result.run_dir, "optimizer": "adamw", "lr": 0.01, "batch_size": 32}
    resumed = limbeck.distill(distiller, data, resume=True, callbacks=[], **options)
    assert resumed.record == json.loads(json.dumps(result.record))
    with pytest.raises(LimbeckError, match="has a finished run: give another run_dir, or resume=True"):
        limbeck.distill(distiller, data, callbacks=[], **options)


def test_a_finished_run_is_not_mixed_with_other_data(distilled, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(distilled[0].run_dir, folder)
    options = {"steps": 8, "run_dir": folder, "optimizer": "adamw", "lr": 0.01, "batch_size": 32, "callbacks": []}
    other = Digits(num_labeled=90, num_samples=200).load(seed=0)
    with pytest.raises(LimbeckError, match=r"the data must be that which the run in .* was begun with"):
        limbeck.distill(make_distiller(), other, resume=True, **options)
    with pytest.raises(LimbeckError, match=r"has a finished run of limbeck\.distill: give another run_dir"):
        limbeck.fit(make_distiller(), other, **options)
    with pytest.raises(LimbeckError, match="has a finished run: give another run_dir, or resume=True"):
        limbeck.distill(make_distiller(), other, **options)


@pytest.mark.parametrize("record", ["{}", '{"schema": 3, "name": "r", "models": {"d": {"role": "distilled"}}}'])
def test_a_damaged_record_is_one_sentence_at_a_resume(tmp_path, record):
    (tmp_path / "record.json").write_text(record)
    with pytest.raises(LimbeckError, match=r"has schema None|must have a verdict, got none"):
        _read_finished(tmp_path / "record.json")


def test_two_runs_do_not_share_a_folder(data, tmp_path):
    with lock_folder(tmp_path):
        for train in (limbeck.fit, limbeck.distill):
            with pytest.raises(LimbeckError, match=r"another process is working in .* give another run_dir"):
                train(make_distiller(), data, steps=1, run_dir=tmp_path, callbacks=[])
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_files_that_are_not_of_limbeck_are_not_replaced(data, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    for train in (limbeck.fit, limbeck.distill):
        with pytest.raises(LimbeckError, match=r"is not empty|with a README\.md of its own"):
            train(make_distiller(), data, steps=1, run_dir=tmp_path, callbacks=[])
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", ".lock"}
    assert (tmp_path / "README.md").read_text() == "mine"


def test_fit_reports_on_validation_and_leaves_the_test_split_closed(data, tmp_path):
    result = limbeck.fit(make_distiller(), data, steps=4, run_dir=tmp_path / "run", callbacks=[])
    record = read_record(tmp_path / "run" / "record.json")
    assert (list(record.models), record.split, record.verdict) == (["big", "distilled"], "validation", None)
    assert data.test.num_reads == record.test_set.num_reads == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert repr(result).startswith("FitResult(SmallCNN, steps=4, seconds=")
    assert "val/accuracy=" in repr(result)


def test_a_divergence_is_in_the_record_also_after_a_resume(data, tmp_path):
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2))
    settings = {"optimizer": "sgd", "lr": 3.0, "batch_size": 32, "run_dir": tmp_path, "callbacks": []}
    for resume in (False, True):
        distiller = limbeck.Distiller(student, {"teacher": teacher}, objective=nn.MSELoss(), task=TASK)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = limbeck.fit(distiller, data, steps=8, resume=resume, **settings)
        assert [text for text in result.warnings if "rose from" in text] == result.warnings != []
        assert sum("rose from" in str(warning.message) for warning in caught) == (not resume)
        record = read_record(tmp_path / "record.json")
        assert result.warnings[0] in record.warnings
        assert list(record.models) == ["teacher", "distilled"]


def test_another_phase_and_loaders_write_metrics_only(data, tmp_path):
    limbeck.fit(make_distiller(), data, steps=2, run_dir=tmp_path / "a", phase="teacher", callbacks=[])
    loader = DataLoader(TensorDataset(torch.rand(32, 1, 8, 8), torch.arange(32) % 10), batch_size=16)
    limbeck.fit(make_distiller(), from_loaders(loader), steps=2, run_dir=tmp_path / "b", callbacks=[])
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "metrics.csv", "temperatures.csv"]


def test_a_loader_one_loss_and_the_name_of_an_optimizer_are_enough():
    loader = DataLoader(TensorDataset(torch.rand(32, 1, 8, 8), torch.arange(32) % 10), batch_size=16)
    weights = []
    for train, settings in (
        (loader, {"optimizer": "sgd", "lr": 0.1}),
        (list(loader), {"training": TrainingConfig(optimizer=lambda params: torch.optim.SGD(params, lr=0.1))}),
    ):
        distiller = make_distiller(objective=KDLoss())
        assert list(distiller.objective.losses) == ["kd"]
        limbeck.fit(distiller, train, epochs=2, callbacks=[], **settings)
        weights.append(distiller.student.state_dict()["fc.weight"])
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, _: limbeck.fit(d, torch.rand(4, 1, 8, 8), steps=1), "data must be .* got Tensor"),
        (lambda d, _: limbeck.fit(d, TensorDataset(torch.rand(4)), steps=1), "limbeck.data.from_datasets makes"),
        (lambda d, data: limbeck.fit(d, data, steps=1, optimizer="adamv"), "one of torch.optim, got 'adamv'; .*Adam"),
        (lambda d, data: limbeck.fit(d, data, steps=1, optimiser="adamw"), "did you mean 'optimizer'"),
        (
            lambda d, data: limbeck.fit(d, data, steps=1, training=TrainingConfig(), batch_size=2),
            "batch_size must be a setting of `training`",
        ),
        (lambda d, _: TrainingConfig(optimizer=torch.optim.SGD, lr=0.1), "lr is for an optimizer given by name"),
        (lambda d, _: make_distiller(objective=KDLoss), "objective must be a loss such as KDLoss()"),
        (lambda d, _: make_distiller(objective=[KDLoss()]), "objective must be a loss such as KDLoss()"),
        (
            lambda d, data: limbeck.distill("digits", data, run_dir="x", steps=1),
            "must be a limbeck.Distiller, got str; limbeck.workflows.distill takes a recipe",
        ),
        (lambda d, data: limbeck.fit(d.student, data, steps=1), "got SmallCNN; wrap the network: limbeck.Distiller"),
        (lambda d, data: limbeck.fit(data, d, steps=1), "got DataModule; pass the distiller first"),
        (lambda d, _: limbeck.distill(d, [1], run_dir="x", steps=1), "needs a data module with a held-out test split"),
        (lambda d, data: limbeck.distill(d, data, run_dir="x"), "either epochs or steps"),
        (
            lambda d, data: limbeck.distill(make_distiller(CrossEntropyLoss()), data, run_dir="x", steps=1),
            "the objective must have a loss on a teacher",
        ),
        (lambda d, data: limbeck.fit(d, data, steps=1, run_dir=5), "run_dir must be the path of a folder, got 5"),
        (lambda d, data: limbeck.distill(d, data, steps=1, run_dir=""), "run_dir must be the path of a folder, got ''"),
        (lambda d, data: limbeck.fit(d, data, steps=1, run_dir="a\0b"), "cannot be used .*give another run_dir"),
        (
            lambda d, data: limbeck.fit(d, data, steps=1, phase="../x"),
            "phase must be a name without slashes",
        ),
        (lambda d, data: limbeck.fit(d, data, steps=1, stage=None), "stage must be a name without slashes, got None"),
        (lambda d, data: limbeck.fit(d, data, steps=1, seed=float("nan")), "seed must be an integer, got nan"),
        (lambda d, data: limbeck.fit(d, data, steps=1, steps_per_epoch=0), "steps_per_epoch must be at least 1, got 0"),
        (lambda d, _: make_distiller(weights={"kd": None}), "weight of the loss 'kd' must be a number .* got None"),
        (
            lambda d, _: limbeck.Distiller(None, objective=CrossEntropyLoss(), task=TASK),
            "student must be an nn.Module, got NoneType",
        ),
        (lambda d, data: limbeck.fit(d, data, steps=1, callbacks=[3]), "callbacks must be a list of .* got 3"),
        (lambda d, data: limbeck.fit(d, data, steps=1, callbacks="abc"), "callbacks must be a list of .* got 'abc'"),
        (lambda d, data: limbeck.fit(d, data, steps=1, callbacks=[Callback]), "callbacks must be a list of .*class"),
        (
            lambda d, data: limbeck.fit(make_distiller(lambda student, teacher: teacher.mean()), data, steps=1),
            r"the losses 1·loss must be real and depend on the student, got no gradient",
        ),
        (
            lambda d, data: limbeck.fit(make_distiller(lambda student, teacher: student.mean() * 1j), data, steps=1),
            r"the losses 1·loss must be real and depend on the student, got torch.complex64 values",
        ),
        (
            lambda d, data: limbeck.fit(make_distiller(lambda student, teacher: student.div_(4).mean()), data, steps=1),
            "must not change its arguments in place",
        ),
        (
            lambda d, _: make_distiller({"kd": lambda teacher, student: (student - teacher).mean()}),
            "must take student and teacher, in this order",
        ),
    ],
)
def test_a_mistake_is_one_sentence(call, message, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LimbeckError, match=message):
        call(make_distiller(), data)
    assert list(tmp_path.iterdir()) == []


def test_a_printed_object_is_short(data):
    distiller = make_distiller(weights={"target": 0.1, "kd": 0.9})
    batch = {"input": torch.rand(4, 1, 8, 8), "target": torch.arange(4)}
    context = distiller.forward_context(batch)
    num_parameters = sum(parameter.numel() for parameter in distiller.student.parameters())
    assert repr(distiller) == (
        f"Distiller(student=SmallCNN with {num_parameters:,} parameters, teachers={{big: FrozenTeacher(SmallCNN)}}, "
        "objective=0.1·target + 0.9·kd, task=Classification(classes=10))"
    )
    assert repr(distiller.objective) == "Objective(0.1·target + 0.9·kd)"
    assert repr(context.student) == "Outputs(logits=[4, 10])"
    loss = distiller(batch)
    assert repr(loss) == "LossOutput(total={:.4g}, target={:.4g}, kd={:.4g})".format(
        loss.total.detach(), *loss.by_loss.values()
    )
    assert repr(data) == "DataModule(Digits: train=200, validation=360, test=359, classes=10, input_shape=(1, 8, 8))"
    for value in (context, data.train, data.train.images):
        assert len(repr(value)) < 500
        assert "tensor(" not in repr(value)


def test_the_record_prints_what_it_is_of(distilled):
    text = repr(read_record(distilled[0].run_dir / "record.json"))
    assert text.startswith("Record(mine: run, models=['big', 'baseline', 'distilled'], ")
    assert len(text) < 400
    assert repr(distilled[0]).startswith("DistillResult('")
    assert json.dumps(dict(distilled[0].record))
    assert isinstance(distilled[0].student, nn.Module)


@pytest.mark.parametrize(("objective", "title"), [({"target": CrossEntropyLoss()}, "training"), (None, "distilled")])
def test_a_network_without_a_teacher_is_not_called_distilled(data, capsys, objective, title):
    distiller = (
        make_distiller()
        if objective is None
        else limbeck.Distiller(small_cnn(width=2), objective=objective, task=limbeck.tasks.Classification(classes=10))
    )
    limbeck.fit(distiller, data, steps=1)
    assert capsys.readouterr().err.startswith(f"{title}: step 1/1")


@pytest.mark.parametrize(("num_labeled", "expected"), [(20, (8, 10)), (200, (16, 16)), (0, (0, 0))])
def test_the_training_batch_of_the_report_shows_labels_also_where_few_samples_have_one(tmp_path, num_labeled, expected):
    data = Digits(num_labeled=num_labeled or 20, num_samples=200).load(seed=0)
    if not num_labeled:
        data = replace(data, train=replace(data.train, target=torch.full_like(data.train.target, -100)))
    run = PythonRun(data, limbeck.tasks.Classification(classes=10), tmp_path)
    examples, warnings = show_training_batch(run, TrainingConfig(batch_size=32))
    labels = [example["target"]["text"] for example in examples]
    assert (len(labels), warnings) == (16, [])
    assert expected[0] <= len(labels) - labels.count("no label") <= expected[1]


def test_the_folder_of_a_teachers_training_takes_the_distillation_but_no_other_one_does(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("checkpoint/teacher.distill.pt", "metrics.csv"):
        (tmp_path / name).write_text("")
    assert _has_other_trainings_only(tmp_path)
    for path in (folder / "distilled.distill.pt", tmp_path / "notes.txt"):
        path.write_text("")
        assert not _has_other_trainings_only(tmp_path)
        path.unlink()
