"""A chain of assistants: who learns from whom, what survives a kill, what the record and the page say of it."""

import json
import sys
from functools import partial

import pytest
import torch
from torch import nn

import limbeck
from limbeck.data import Digits
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.models import load_weights, small_cnn
from limbeck.recipe import load_recipe
from limbeck.training import TrainingConfig
from limbeck.workflows import distill, distill_chain
from limbeck.workflows._job.job import Job

RECIPE = """
task: Classification
data: {use: Digits, num_labeled: 60, num_samples: 120}
teachers: {big: {use: small_cnn, width: 8, train_fraction: 0.5}}
assistants: {mid: {use: small_cnn, width: 6}, small: {use: small_cnn, width: 5}}
student: {use: small_cnn, width: 4}
teacher_training: {steps: 12, objective: {target: CrossEntropyLoss}}
stages:
  - {name: first, steps: 4, objective: {kd: KDLoss, fitnet: {use: FitNetLoss, layer: here}}, feature_layers: &layers {
      student: {here: block2}, big: {here: block2}, mid: {here: block2}, small: {here: block2}}}
  - name: second
    steps: 6
    objective:
      target: {use: CrossEntropyLoss, weight: 0.1}
      kd: {use: KDLoss, weight: {use: across_stages, schedule: {use: linear, start: 1, end: 0}}}
      fitnet: {use: FitNetLoss, layer: here}
    feature_layers: *layers
    freeze: [block1]
training: {optimizer: {use: SGD, lr: 0.05, momentum: 0.9}, batch_size: 32}
baselines: [student_only, no_assistants]
num_threads: 1
"""
WIDTHS = {"big": 8, "mid": 6, "small": 5, "student": 4}
# Dies in the middle of the chain, in the second stage of the first assistant: teacher 6, first stage 4, then 3 steps.
KILLED = """
import os, signal, sys
from limbeck.workflows import distill
job, state = sys.modules["limbeck.workflows._job.job"], sys.modules["limbeck.training.train_state"]
make, advance, done = job.make_training_config, state.TrainState.step_optimizer, []
job.make_training_config = lambda *stage: make(*stage).model_copy(update={"checkpoint_every_seconds": 0.0})
def step(self):
    if len(done) == 6 + 4 + 3:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(advance(self))
state.TrainState.step_optimizer = step
distill(sys.argv[1], run_dir=__import__("pathlib").Path(sys.argv[2]), callbacks=[])
"""


def weights(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def spied(monkeypatch):
    """The guides of each training by phase and stage, as their weights at that moment."""
    teachers = {}
    for room in ("limbeck.workflows._job.job", "limbeck.workflows.distill.train_networks"):
        fit = sys.modules[room].fit

        def spy(distiller, data, fit=fit, **settings):
            guides = {name: weights(teacher.network) for name, teacher in distiller.teachers.items()}
            teachers[settings["phase"], settings.get("stage", "distill")] = guides
            return fit(distiller, data, **settings)

        monkeypatch.setattr(sys.modules[room], "fit", spy)
    return teachers


def kept(folder, name):
    return weights(load_weights(small_cnn(width=WIDTHS[name]), folder / "checkpoint" / f"{name}.safetensors"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "chain.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    """The run folder, and who guided whom."""
    out = tmp_path_factory.mktemp("runs") / "chain"
    with pytest.MonkeyPatch.context() as patch:
        guided = spied(patch)
        distill(recipe, run_dir=out, callbacks=[])
    return out, guided


def test_each_assistant_learns_from_the_previous_and_baselines_from_none_or_the_teacher(run):
    out, guided = run
    assert {phase: list(guides) for (phase, _), guides in guided.items()} == {
        "big": [], "mid": ["big"], "small": ["mid"], "baseline": [], "no_assistants": ["big"], "distilled": ["small"],
    }  # fmt: skip
    for (_, stage), guides in guided.items():
        assert stage in ("teacher_training", "first", "second")
        assert all(same(model, kept(out, name)) for name, model in guides.items()), "it was not trained to the end"


def test_dense_learns_from_all_before_it(recipe, tmp_path, monkeypatch):
    guided = spied(monkeypatch)
    settings = ["assistant_mode=dense", "stages.1.steps=2", "stages.0.steps=2", "teacher_training.steps=2"]
    record = distill(recipe, settings, run_dir=tmp_path / "run", callbacks=[])
    assert {phase: list(guides) for (phase, _), guides in guided.items() if guides} == {
        "mid": ["big"], "small": ["big", "mid"], "no_assistants": ["big"], "distilled": ["big", "mid", "small"],
    }  # fmt: skip
    assert all(same(model, kept(tmp_path / "run", name)) for one in guided.values() for name, model in one.items())
    assert record["recipe"]["assistant_mode"] == "dense"
    assert "loss/fitnet-small" in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")


def test_killed_in_the_middle_of_the_chain_it_ends_with_the_same_bits(run, recipe, tmp_path, run_python):
    out = tmp_path / "chain"
    done = run_python("-c", KILLED, recipe, out)
    assert done.returncode == -9, done.stderr
    half = torch.load(out / "checkpoint" / "mid.second.pt", weights_only=True)
    assert half["step"] == 3
    assert not (out / "checkpoint" / "small.first.pt").exists()
    distill(recipe, run_dir=out, resume=True, callbacks=[])
    for name in ("big", "mid", "small"):
        assert same(kept(out, name), kept(run[0], name))
    one, other = (weights(load_weights(small_cnn(width=4), folder)) for folder in (out, run[0]))
    assert same(one, other)
    one, other = (json.loads((folder / "record.json").read_text()) for folder in (out, run[0]))
    assert [m["test"] for m in one["models"].values()] == [m["test"] for m in other["models"].values()]
    assert one["test_set"]["num_reads"] == 1


def test_the_record_and_the_page_show_the_assistants_and_the_early_stop(run):
    record = json.loads((run[0] / "record.json").read_text())
    assert [(name, model["role"], model["steps"]) for name, model in record["models"].items()] == [
        ("big", "teacher", 6), ("mid", "assistant", 10), ("small", "assistant", 10), ("baseline", "baseline", 10),
        ("no_assistants", "no_assistants", 10), ("distilled", "distilled", 10),
    ]  # fmt: skip
    assert record["models"]["big"]["title"] == (
        "Teacher big: small_cnn(width=8), stopped early at 50 % of its training"
    )
    assert record["models"]["mid"]["title"] == "Assistant mid: small_cnn(width=6)"
    against = record["verdict"]["vs_no_assistants"]
    tops = [record["models"][name]["test"]["metrics"]["accuracy"] for name in ("distilled", "no_assistants")]
    assert against["gain"] == pytest.approx(100 * (tops[0] - tops[1]))
    page = (run[0] / "report.html").read_text()
    assert "assistants" in against["text"]
    assert against["text"].split(",")[0].replace(" points", "\N{NO-BREAK SPACE}points") in page
    for words in (
        ">mid</th>",
        ">small</th>",
        ">No assistants</th>",
        "stopped early at",
        'class="chip up"',
        'class="chip down"',
    ):
        assert words in page, words


def test_the_early_stopped_teacher_is_the_full_one_at_that_step(run, recipe, tmp_path):
    """Nothing has a schedule here, so a training of six steps is the first half of one of twelve."""
    job = Job.from_recipe(
        load_recipe(recipe, ["teachers.big.train_fraction=null", "teacher_training.steps=6"]), tmp_path
    )
    teacher = job.build_teacher("big")
    assert job.train_teacher("big", teacher, resume=False, callbacks=[]).steps == 6
    assert same(weights(teacher), kept(run[0], "big"))


def test_an_order_that_grows_is_warned_of(recipe, tmp_path):
    short = [
        "stages.1.steps=1",
        "stages.0.steps=1",
        "teacher_training.steps=2",
        "baselines=[]",
        "assistants.small.width=7",
    ]
    record = distill(recipe, short, run_dir=tmp_path / "run", callbacks=[])
    assert any("'small' has more parameters than the assistant 'mid'" in text for text in record["warnings"])


def test_a_layer_that_an_assistant_lacks_is_refused_before_training(recipe, tmp_path):
    with pytest.raises(limbeck.LimbeckError, match="no module 'blok2'"):
        distill(recipe, ["stages.1.feature_layers.mid.here=blok2"], run_dir=tmp_path / "run", callbacks=[])
    plain = [f"stages.{stage}.{key}" for stage in (0, 1) for key in ("objective={kd: KDLoss}", "feature_layers={}")]
    with pytest.raises(limbeck.LimbeckError, match="MLP has no module 'block1'"):
        distill(recipe, [*plain, "assistants.small={use: mlp}"], run_dir=tmp_path / "run", callbacks=[])
    assert not (tmp_path / "run").exists()


DATA = Digits(num_labeled=60, num_samples=120).load(seed=0)
TASK = limbeck.tasks.Classification(10)
SHORT = TrainingConfig(optimizer=partial(torch.optim.SGD, lr=0.05), batch_size=32)


def networks():
    torch.manual_seed(0)
    return {name: small_cnn(width=width) for name, width in WIDTHS.items()}


def linked(nets, **settings):
    objective = {"target": CrossEntropyLoss(), "kd": KDLoss(), "fitnet": FitNetLoss("here")}
    layers = {name: {"here": "block2"} for name in nets}
    given = {
        "objective": objective,
        "feature_layers": layers,
        "task": TASK,
        "steps": 3,
        "training": SHORT,
        "callbacks": [],
    }
    return distill_chain(nets, DATA, **(given | settings))


@pytest.mark.parametrize(
    ("guided", "expected"),
    [
        ("sequential", {"mid": ["big"], "small": ["mid"], "student": ["small"]}),
        ("dense", {"mid": ["big"], "small": ["big", "mid"], "student": ["big", "mid", "small"]}),
    ],
)
def test_plain_modules_make_a_chain(monkeypatch, guided, expected):
    teachers, nets = spied(monkeypatch), networks()
    before = weights(nets["big"])
    runs = linked(nets, assistant_mode=guided)
    assert {phase: list(guides) for (phase, _), guides in teachers.items()} == expected
    assert all(runs[name].student is nets[name] and not nets[name].training for name in runs)
    assert same(weights(nets["big"]), before)
    for guides in teachers.values():
        assert all(same(state, weights(nets[name])) for name, state in guides.items())


def test_a_chain_of_plain_modules_is_kept_and_goes_on(tmp_path, monkeypatch):
    nets = networks()
    linked(nets, run_dir=tmp_path)
    again = networks()
    load_weights(again["student"], tmp_path / "checkpoint" / "student.safetensors")
    assert same(weights(again["student"]), weights(nets["student"]))
    # The last link was lost: the others are not done again, and the end is the same.
    (tmp_path / "checkpoint" / "student.distill.pt").unlink()
    steps, state = [], sys.modules["limbeck.training.train_state"].TrainState
    advance = state.step_optimizer
    monkeypatch.setattr(state, "step_optimizer", lambda self: steps.append(1) or advance(self))
    resumed = networks()
    linked(resumed, run_dir=tmp_path, resume=True)
    assert len(steps) == 3
    assert all(same(weights(resumed[name]), weights(nets[name])) for name in nets)


def test_terms_are_fresh_for_each_link():
    term = FitNetLoss("here")
    linked(networks(), objective={"fitnet": term})
    assert term.projection is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"objective": {"kd": KDLoss(teacher="big")}}, "'kd' has the teacher 'big', and 'small' learns from mid"),
        ({"feature_layers": {"bgi": {"here": "block2"}}}, "feature_layers are given for 'bgi'; available: big"),
        ({"assistant_mode": "densely"}, "assistant_mode is sequential or dense, not 'densely'"),
    ],
)
def test_what_a_chain_cannot_do_is_one_sentence(settings, says):
    with pytest.raises(limbeck.LimbeckError, match=says):
        linked(networks(), **settings)


@pytest.mark.parametrize("names", [[], ["big"]])
def test_a_chain_has_at_least_two_networks(names):
    with pytest.raises(limbeck.LimbeckError, match="a teacher and at least one network that learns"):
        linked({name: nn.Linear(1, 1) for name in names})
