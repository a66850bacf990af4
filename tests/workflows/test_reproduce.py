"""Repeating a run from its record: the same bits on the same machine, and a refusal where it could not be repeated."""

import json
import re
import shutil

import pytest

import limbeck
from limbeck.cli import main
from limbeck.report import check_record
from limbeck.report.record_io import add_hashes
from limbeck.report.terminal import render_reproduce_table
from limbeck.workflows import distill
from limbeck.workflows import reproduce as program
from limbeck.workflows.reproduce import compare_records, overall_match

RECIPE = """
task: Classification
data: {use: Digits, num_labeled: 100, num_samples: 200}
teachers: {big: {use: small_cnn, width: 12}}
student: {use: small_cnn, width: 4}
teacher_training: {steps: 6, objective: {target: CrossEntropyLoss}}
stages: [{name: first, steps: 8, objective: {kd: KDLoss}}]
training: {optimizer: {use: SGD, lr: 1}, batch_size: 32}
export: {to: [onnx]}
num_threads: 1
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    (folder / "tiny.yaml").write_text(RECIPE)
    distill(folder / "tiny.yaml", ["student.depth=2"], run_dir=folder / "tiny", callbacks=[])
    return folder / "tiny"


@pytest.fixture(scope="module")
def record_only(run, tmp_path_factory):
    """A folder that holds the record, and nothing else of the run; of one that exported nothing, to save the time."""
    folder = tmp_path_factory.mktemp("archive") / "kept"
    folder.mkdir()
    record = json.loads((run / "record.json").read_text())
    record["recipe"]["export"] = {"to": []}
    (folder / "record.json").write_text(json.dumps(add_hashes(record)))
    return folder


def changed(record_only, tmp_path, change):
    """A copy of the record with a change, with a new hash."""
    record = json.loads((record_only / "record.json").read_text())
    change(record)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "record.json").write_text(json.dumps(add_hashes(record)))
    return tmp_path / "old"


def test_what_distill_writes_keeps_the_schema_and_its_hash(run):
    assert check_record(run) == []
    record = json.loads((run / "record.json").read_text())
    assert record["command"] == {"recipe": "tiny.yaml", "overrides": ["student.depth=2"]}
    assert record["recipe"]["training"]["optimizer"]["weight_decay"] == 0.0
    assert set(record["files"]) == {"student.safetensors", "student.onnx", "predictions.safetensors"}
    assert record["data"]["normalization"]["mean"] == pytest.approx([0.3], abs=0.05)
    fidelity = record["fidelity"]
    assert (fidelity["split"], fidelity["teacher"], list(fidelity["students"])) == (
        "validation", "big", ["baseline", "distilled"],
    )  # fmt: skip
    assert fidelity["students"]["distilled"]["cka"]["student_layers"] == ["block1", "block2", "fc"]
    assert fidelity["students"]["distilled"]["num_samples"] == 360


def test_a_run_is_reproduced_from_its_record_only(record_only, capsys):
    before = (record_only / "record.json").read_bytes()
    assert main(["reproduce", str(record_only)]) == 0
    output = capsys.readouterr().out
    assert "The metrics match exactly" in output
    assert "bit-identical" in output
    again = record_only.parent / "kept-reproduce"
    record, old = json.loads((again / "record.json").read_text()), json.loads(before)
    assert record["config_hash"] == old["config_hash"]
    assert record["test_set"]["num_reads"] == 1
    assert record["reproduces"] == {
        "name": "tiny", "record_hash": old["record_hash"], "config_hash": old["config_hash"], "num_reads": 1,
    }  # fmt: skip
    assert "the same test set had been read 1 time." in re.sub(r"\s+", " ", (again / "report.html").read_text())
    assert json.loads((again / "reproduce.json").read_text())["match"] == "exact"
    assert check_record(again) == []
    assert (record_only / "record.json").read_bytes() == before
    assert [path.name for path in record_only.iterdir()] == ["record.json"]


def test_different_metrics_give_status_1_and_likely_reasons(record_only, tmp_path, monkeypatch, capsys):
    def other(record):
        record["models"]["distilled"]["test"]["metrics"]["accuracy"] += 0.1
        record["versions"]["torch"] = "1.0"
        record["machine"] |= {"cpu": "Z80", "num_threads": 64}
        record["distributed"]["world_size"] = 2

    same = json.loads((record_only / "record.json").read_text())
    monkeypatch.setattr(program, "distill", lambda *args, **options: same)
    assert main(["reproduce", str(changed(record_only, tmp_path, other)), "--out", str(tmp_path / "new")]) == 1
    output = capsys.readouterr().out
    before, after = output.split(" model ")
    for reason in ("torch: 1.0 then", "cpu: Z80 then", "num_threads: 64 then, 1 now", "processes: 2 then, 1 now"):
        assert reason in before
        assert reason in after
    assert "The metrics do NOT match: 1 of" in after


def test_an_edited_record_gives_a_warning_before_it_is_reproduced(record_only, tmp_path, monkeypatch, capsys):
    record = json.loads((record_only / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps(record | {"seconds": record["seconds"] + 1}))
    monkeypatch.setattr(program, "distill", lambda *args, **options: record)
    assert main(["reproduce", str(tmp_path), "--out", str(tmp_path / "new")]) == 0
    assert "record.json was changed after it was written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["data"].update(fingerprint="0" * 64), "the data is not what the run was made with"),
        (lambda r: r["recipe"].update(data={"use": "ImageFolder", "root": "nowhere"}), "nowhere"),
        (lambda r: r["recipe"].clear(), "holds no recipe"),
        (lambda r: r.update(kind="trial", variant={"study": "s", "name": "a", "seed": 0}), "limbeck study"),
        (lambda r: r.update(weights={"teachers.big.weights": {"sha256": "ab" * 32}}), "weights .* is gone"),
    ],
)
def test_a_run_that_cannot_be_reproduced_is_refused_before_anything_is_written(record_only, tmp_path, change, message):
    with pytest.raises(limbeck.LimbeckError, match=message):
        program.reproduce(changed(record_only, tmp_path, change), callbacks=[])
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_weights_with_another_digest_are_refused(run, tmp_path):
    weights = tmp_path / "big.safetensors"
    shutil.copy(run / "checkpoint" / "big.safetensors", weights)
    settings = [f"teachers.big.weights={weights}", "baselines=[]", "export.to=[]", "student.depth=2"]
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    record = distill(tmp_path / "tiny.yaml", settings, run_dir=tmp_path / "run", callbacks=[])
    assert list(record["weights"]) == ["teachers.big.weights"]
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(limbeck.LimbeckError, match=r"teachers\.big\.weights: the file holds other weights"):
        program.reproduce(str(tmp_path / "run"), callbacks=[])
    weights.unlink()
    with pytest.raises(limbeck.LimbeckError, match=r"teachers\.big\.weights: the file of weights .* is gone"):
        program.reproduce(str(tmp_path / "run"), callbacks=[])


def test_a_run_resumes_from_its_own_recipe(run, tmp_path):
    """Written out, a weight decay of 0 is 0.0, and betas are a list: still the training that was begun."""
    shutil.copytree(run, tmp_path / "run")
    for name in ("record.json", "checkpoint/test_access.json"):
        (tmp_path / "run" / name).unlink()
    recipe = tmp_path / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("to: [onnx]", "to: []"))
    record = distill(recipe, run_dir=tmp_path / "run", resume=True, callbacks=[])
    old = json.loads((run / "record.json").read_text())
    assert overall_match(compare_records(old, record, tolerance=0.0)) == "exact"


def test_the_code_of_the_model_card_runs_in_its_folder(run, run_python):
    text = (run / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    done = run_python("-c", "\n".join(blocks), cwd=run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("tensor([[")
    assert done.stdout.splitlines()[-1] in list("0123456789")


def test_counts_match_exactly_and_fractions_within_the_tolerance():
    def record(accuracy=0.9, nll=2.0, parameters=1000, gain=4.0):
        model = {"test": {"metrics": {"accuracy": accuracy, "nll": nll}}, "parameters": parameters}
        return {"models": {"distilled": model}, "verdict": {"gain": gain, "unit": "points"}}

    def matches(other):
        return {row["metric"]: row["match"] for row in compare_records(record(), other, tolerance=0.01)}

    assert set(matches(record()).values()) == {"exact"}
    assert matches(record(accuracy=0.909))["test/accuracy"] == "within_tolerance"
    assert matches(record(accuracy=0.911))["test/accuracy"] == "different"
    assert matches(record(nll=2.019))["test/nll"] == "within_tolerance"
    assert matches(record(parameters=1001))["parameters"] == "different"
    assert matches(record(gain=4.9))["gain in points"] == "within_tolerance"
    assert matches(record(gain=5.1))["gain in points"] == "different"
    assert matches({"models": {}})["test/accuracy"] == "different"


def test_the_table_shows_a_match_within_tolerance_and_reasons():
    metrics = [
        {"model": "a [b]", "metric": "test/accuracy", "original": 0.9, "reproduced": 0.901, "match": "within_tolerance"}
    ]
    result = {"metrics": metrics, "match": "within_tolerance", "tolerance": 0.005, "same_weights": False, "reasons": []}
    text = render_reproduce_table(result)
    assert "a [b]" in text
    assert "within 0.005: 0 of 1 exactly, and the student's weights differ" in text
    assert "No recorded condition has changed" in text


@pytest.mark.parametrize("tolerance", [-0.1, 1.0])
def test_a_tolerance_out_of_range_is_refused(record_only, tolerance):
    with pytest.raises(limbeck.LimbeckError, match="tolerance is a fraction"):
        program.reproduce(record_only, tolerance=tolerance)
