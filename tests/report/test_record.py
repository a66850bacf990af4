"""The record: strict when written, lenient when read, one schema in the package, two hashes that tell every change."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

import limbeck.report
from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.recipe import load_recipe
from limbeck.report import (
    check_record,
    integrity_warning,
    render_json_schema,
    write_model_card,
    write_record,
    write_report,
)
from limbeck.report.metrics_csv import load_curves, load_temperatures
from limbeck.report.migrate import migrate_record
from limbeck.report.record_io import (
    add_hashes,
    compute_config_hash,
    compute_record_hash,
    parse_record,
    read_record,
    validate_strict,
)
from limbeck.report.terminal import render_summary_table
from limbeck.workflows.compare.run import build_comparison

OLD = Path(__file__).with_name("record_schema_1.json")


@pytest.fixture
def run(record, tmp_path):
    """A folder with a sealed record, and the files it names."""
    for name in record["files"]:
        (tmp_path / name).write_bytes(name.encode())
        record["files"][name]["sha256"] = hashlib.sha256(name.encode()).hexdigest()
    write_record(tmp_path, record)
    return tmp_path


def altered(run, change):
    path = run / "record.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_a_record_of_schema_1_is_read_with_all_its_metrics():
    raw = json.loads(OLD.read_text())
    assert raw["schema"] == 1
    record = read_record(OLD)
    assert record.schema_version == 3
    assert record.distilled.test.metrics["accuracy"] == raw["models"]["distilled"]["test"]["top1"]
    assert record.distilled.resources.seconds == raw["models"]["distilled"]["seconds"]
    assert record.distributed.world_size == 1
    assert (record.record_hash, record.fidelity, record.weights) == (None, None, {})


def test_a_record_of_schema_1_still_gives_a_page_and_a_card(tmp_path):
    (tmp_path / "record.json").write_text(OLD.read_text())
    page = write_report(tmp_path).read_text()
    assert "was not measured" in page
    assert "hash" not in page.split("How this was measured")[0].split("</style>")[1]
    assert "93.0 %" in write_model_card(tmp_path).read_text()
    assert "has no hash" in check_record(tmp_path)[0]


@pytest.fixture
def old_run(tmp_path):
    """A run folder of schema 2, as limbeck 0.1.0 wrote it (with fewer rows of metrics and temperatures)."""
    return Path(shutil.copytree(Path(__file__).with_name("run_schema_2"), tmp_path / "old"))


def test_a_record_of_schema_2_is_read_with_all_its_values(old_run):
    raw = json.loads((old_run / "record.json").read_text())
    record = read_record(old_run / "record.json")
    assert (raw["schema"], record.schema_version, record.kind) == (2, 3, "run")
    assert list(record.models) == ["teacher", "baseline", "distilled"]
    assert (record.record_hash, record.config_hash) == (raw["hash"], raw["identity"])
    for name, old_name in (("teacher", "teacher"), ("baseline", "alone"), ("distilled", "distilled")):
        model, old = record.models[name], raw["models"][old_name]
        assert model.test.metrics == {
            "accuracy": old["test"]["top1"], "top5_accuracy": old["test"].get("top5"), "nll": old["test"]["nll"],
            "macro_f1": old["test"]["macro_f1"], "ece": old["test"]["ece"],
        }  # fmt: skip
        assert [row.num_samples for row in model.test.per_class] == [
            row["examples"] for row in old["test"]["per_class"]
        ]
        assert model.latency_ms.num_repeats == old["latency_ms"]["repeats"]
    assert record.models["baseline"].title == "Student without a teacher: small_cnn(width=8)"
    assert record.models["teacher"].backend["requested"] == raw["models"]["teacher"]["engine"]["asked"]
    assert (record.test_set.num_reads, record.test_set.num_samples) == (1, raw["sealed_test"]["examples"])
    assert (record.verdict.outcome, record.verdict.text) == ("inconclusive", raw["verdict"]["sentence"])
    assert record.agreement.prediction_agreement == raw["agreement"]["top1"]
    student, old = record.fidelity.students["baseline"], raw["fidelity"]["students"]["alone"]
    assert (student.prediction_agreement, student.same_error) == (old["top1"], old["same_wrong"])
    assert student.per_class[3].different_error == old["by_class"][3]["other_wrong"]
    assert student.cka.matrix == old["cka"]["values"]
    assert record.export["onnx"].num_samples == raw["export"]["onnx"]["examples"]
    assert record.distributed.strategy == "single_device"
    assert record.torch_flags.num_interop_threads == raw["flags"]["interop_threads"]
    assert list(record.files) == ["student.safetensors", "student.onnx", "predictions.safetensors"]


def test_a_migrated_record_has_every_key_of_this_schema_and_no_other(old_run):
    raw = json.loads((old_run / "record.json").read_text())
    validate_strict(migrate_record(raw))


def test_the_recipe_of_a_record_of_schema_2_is_one_of_today(old_run):
    recipe = read_record(old_run / "record.json").recipe
    assert recipe["baselines"] == ["student_only"]
    assert recipe["stages"][0]["objective"]["soft"] == {
        "use": "KDLoss", "temperature": 4.0, "teacher": None, "weight": 1.0,
    }  # fmt: skip
    (old_run / "migrated.yaml").write_text(yaml.safe_dump(recipe))
    assert load_recipe(old_run / "migrated.yaml").training.batch_size == 64


def test_a_run_of_schema_2_still_gives_a_report_a_summary_a_card_and_a_comparison(old_run):
    page = write_report(old_run).read_text()
    curve = load_curves(old_run / "metrics.csv")["distilled"]
    assert list(load_temperatures(old_run / "temperatures.csv", curve)) == ["soft"]
    assert "temperature of soft 4" in page
    assert "Baseline, last" in page
    assert "hash" not in page.split("How this was measured")[0].split("</style>")[1]
    summary = render_summary_table(json.loads((old_run / "record.json").read_text()))
    assert "94.7 %" in summary
    assert "93.9 %" in write_model_card(old_run).read_text()
    (baseline,) = (variant for variant in build_comparison([old_run]).variants if variant.role == "baseline")
    assert (baseline.name, len(baseline.curves)) == ("baseline", 1)


def test_a_record_of_schema_2_is_checked_as_it_was_written(old_run):
    assert integrity_warning(old_run) is None
    assert [text.split()[0] for text in check_record(old_run)] == [
        "student.safetensors", "student.onnx", "answers.safetensors",
    ]  # fmt: skip  # this copy has none of its files
    altered(old_run, lambda r: r.update(seed=7))
    assert "its hash does not match" in integrity_warning(old_run)

    def forged(record):
        record["hash"] = compute_record_hash(record)

    altered(old_run, forged)
    assert "identity that does not match" in integrity_warning(old_run)


def test_a_trial_of_schema_2_has_todays_names(old_run):
    raw = json.loads((old_run / "record.json").read_text())
    model = {**raw["models"]["alone"], "role": "smoothed", "title": "Student alone, label smoothing: x"}
    arm = {"study": "s", "arm": "smoothed", "seed": 3}
    record = parse_record({**raw, "kind": "arm", "arm": arm, "models": {"smoothed": model}})
    assert (record.kind, record.variant.name, list(record.models)) == ("trial", "label_smoothing", ["label_smoothing"])
    assert record.models["label_smoothing"].role == "baseline_label_smoothing"
    assert record.models["label_smoothing"].title == "Student without a teacher, label smoothing: x"


def rename_keys(value, names):
    """``value`` with keys renamed at every depth."""
    if isinstance(value, dict):
        return {names.get(key, key): rename_keys(item, names) for key, item in value.items()}
    return [rename_keys(item, names) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("minor", [0, 1])
def test_a_record_of_schema_3_0_or_3_1_has_the_same_values(record, minor):
    old = copy.deepcopy(record) | {"schema_minor": minor}
    old["verdict"] = rename_keys(old["verdict"], {"gain": "gain_points", "interval": "interval_points"})
    for key in ("agreement", "fidelity"):
        old[key] = rename_keys(old[key], {"prediction_agreement": "top1_agreement"})
    for model in old["models"].values():
        for split in (model["validation"], model["test"]):
            split["reliability"] = rename_keys(split["reliability"], {"fraction_correct": "accuracy"})
            if minor == 0:
                split["per_class"] = rename_keys(split["per_class"], {"value": "accuracy"})
    old["examples"], old["disagreements"] = [], [
        {"index": 4, "target": 2, "teacher": 2, "student": 3, "teacher_confidence": 0.914, "student_confidence": 0.5,
         "png": "cG5n"},
        {"index": 9, "target": None, "teacher": 1, "student": 7, "png": None},
    ]  # fmt: skip
    if minor == 0:
        del old["task"], old["examples"]
        keys = ("label", "unit", "higher_is_better")
        old["metric_info"] = {
            name: {key: info[key] for key in keys} for name, info in old["metric_info"].items()
        }  # fmt: skip
    validate_strict(migrate_record(old))
    migrated, current = parse_record(old), parse_record(record)
    assert (migrated.verdict, migrated.agreement, migrated.fidelity, migrated.models) == (
        current.verdict, current.agreement, current.fidelity, current.models,
    )  # fmt: skip
    assert (migrated.primary_spec.text, migrated.monitored_spec.name) == ("accuracy", "accuracy")
    assert migrated.metric_spec("nll").format(0.25) == "0.250 nats"
    first, second = migrated.examples
    assert (first.sample_id, first.input.png, first.target.text) == (4, "cG5n", "2")
    assert first.predictions["teacher"].model_dump() == {"text": "2 (91 %)", "png": None, "correct": True}
    assert (first.predictions["distilled"].text, first.predictions["distilled"].correct) == ("3 (50 %)", False)
    assert (second.target.text, second.predictions["teacher"].correct) == ("no label", None)


def test_the_schema_in_the_package_is_what_the_models_give():
    shipped = Path(limbeck.report.__file__).with_name("record.schema.json").read_text(encoding="utf-8")
    assert shipped == render_json_schema(), "run: limbeck record schema > src/limbeck/report/record.schema.json"


def test_the_schema_takes_a_record_and_refuses_a_wrong_one(record):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(render_json_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert not list(validator.iter_errors(add_hashes(record)))
    assert list(validator.iter_errors(record | {"models": {"a": {"role": "pupil"}}}))


def test_what_is_written_is_what_is_read(record, tmp_path):
    whole = write_record(tmp_path, record)
    assert json.loads((tmp_path / "record.json").read_text()) == whole
    assert list(whole)[-2:] == ["config_hash", "record_hash"]
    assert read_record(tmp_path / "record.json").record_hash == whole["record_hash"]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ((), r"the record: unknown key 'colour'"),
        (("models", "distilled"), r"models\.distilled: unknown key 'colour'"),
        (("models", "baseline", "test", "per_class", 0), r"per_class\.0: unknown key 'colour'"),
        (("data", "normalization"), r"data\.normalization: unknown key 'colour'"),
        (("fidelity", "students", "baseline", "cka"), r"cka: unknown key 'colour'"),
    ],
)
def test_a_key_that_nobody_knows_is_not_written_and_is_passed_over_when_read(record, tmp_path, place, says):
    here = record
    for step in place:
        here = here[step]
    here["colour"] = "blue"
    with pytest.raises(LimbeckError, match=says):
        write_record(tmp_path, record)
    assert not list(tmp_path.iterdir())
    assert parse_record(record | {"schema_minor": 99}).name == "digits"


@pytest.mark.parametrize("key", ["limbeck", "recipe", "versions", "machine", "environment"])
def test_a_record_that_could_not_be_repeated_is_not_written(record, tmp_path, key):
    del record[key]
    with pytest.raises(LimbeckError, match=f"has no {key}"):
        write_record(tmp_path, record)


def test_nan_is_not_written(record, tmp_path):
    record["models"]["baseline"]["flops"] = float("nan")
    with pytest.raises(LimbeckError, match="JSON cannot"):
        write_record(tmp_path, record)


def test_the_hash_is_the_sha256_of_canonical_json(record):
    whole = add_hashes(record)
    rest = {key: value for key, value in whole.items() if key != "record_hash"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert whole["record_hash"] == hashlib.sha256(text.encode()).hexdigest()
    again = json.loads(json.dumps(whole, indent=3))
    assert compute_record_hash(dict(reversed(list(again.items())))) == whole["record_hash"]


def test_config_hash_is_of_what_decides_the_metrics_only(record):
    record["weights"] = {"teachers.teacher.weights": {"sha256": "aa", "bytes": 3}}
    record["recipe"]["teachers"]["teacher"]["weights"] = "here/teacher.safetensors"
    record["recipe"]["data"]["root"] = "here"
    first = compute_config_hash(record)

    def other(change):
        changed = copy.deepcopy(record)
        change(changed)
        return compute_config_hash(changed)

    assert other(lambda r: r.update(name="b", seconds=1.0, created="later", machine={"cpu": "x"}, models={})) == first
    assert other(lambda r: r["recipe"].update(name="b", loggers=["mlflow"], export={"to": []})) == first
    assert other(lambda r: r["recipe"]["data"].update(root="there")) == first
    assert other(lambda r: r["recipe"]["teachers"]["teacher"].update(weights="there")) == first
    assert other(lambda r: r["weights"]["teachers.teacher.weights"].update(sha256="bb")) != first
    assert other(lambda r: r.update(seed=1)) != first
    assert other(lambda r: r["recipe"]["student"].update(width=9)) != first
    assert other(lambda r: r["data"].update(fingerprint="0")) != first
    assert other(lambda r: r["versions"].update(torch="0")) != first
    assert other(lambda r: r.update(limbeck="9")) != first
    assert other(lambda r: r.update(distributed={"world_size": 2})) != first
    assert other(lambda r: r.update(variant={"study": "s", "name": "student_only", "seed": 0})) != first


def test_a_record_as_it_was_written_is_sound(run, capsys):
    assert check_record(run) == []
    assert integrity_warning(run) is None
    assert main(["record", "check", str(run)]) == 0
    assert "intact" in capsys.readouterr().out


def test_one_changed_digit_is_reported_by_check_and_on_the_page(run, capsys):
    altered(run, lambda r: r["models"]["distilled"]["test"]["metrics"].update(accuracy=0.999))
    assert main(["record", "check", str(run)]) == 1
    assert "was changed after it was written" in capsys.readouterr().err
    assert main(["report", str(run)]) == 0
    captured = capsys.readouterr()
    assert "warning: record.json was changed" in captured.err
    assert "record.json was changed after it was written" in Path(captured.out.strip()).read_text()


def test_a_record_without_a_hash_and_one_with_a_false_config_hash_are_reported(run):
    altered(run, lambda r: r.update(record_hash=None))
    assert "has no hash" in integrity_warning(run)

    def forged(record):
        record["seed"] = 5
        record["record_hash"] = compute_record_hash(record)

    altered(run, forged)
    assert "config_hash that does not match" in integrity_warning(run)


def test_missing_and_changed_files_are_reported(run):
    (run / "student.onnx").unlink()
    (run / "student.safetensors").write_bytes(b"other")
    wrong = check_record(run)
    assert any("student.onnx is missing" in text for text in wrong)
    assert any("student.safetensors is not the file" in text for text in wrong)


def test_a_file_outside_of_the_run_is_not_looked_at(run):
    def outside(record):
        record["files"] = {"../../etc/hostname": {"sha256": "0", "bytes": 1}}

    altered(run, outside)
    assert any("hostname is missing" in text for text in check_record(run))


def test_the_schema_is_printed(capsys):
    assert main(["record", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$id"] == "limbeck-record-3.2"


def test_one_trial_of_a_study_may_be_a_baseline(record):
    variant = {"study": "s", "name": "student_only", "seed": 0}
    record["models"] = {"student_only": record["models"]["baseline"]}
    assert parse_record(record | {"kind": "trial", "variant": variant}).variant.name == "student_only"


def test_a_folder_without_a_record_says_how_to_get_one(tmp_path):
    for name, file in (
        ("begun", "recipe.yaml"), ("study", "study.json"), ("empty", "notes.txt"), ("done", "record.json"),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    for name, message in (
        ("begun", r"so it is not finished: go on with limbeck distill --resume --out .*begun"),
        ("study", "is a study: give one of its trials"),
        ("", r"is a folder of runs: give a run in it, such as .*done"),
        ("empty", r"has no record\.json: give the folder of a finished run"),
        ("nowhere", "is no folder: give the folder of a finished run"),
    ):
        with pytest.raises(LimbeckError, match=message):
            read_record(tmp_path / name / "record.json")
