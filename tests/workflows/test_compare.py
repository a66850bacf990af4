"""Comparison of runs and studies: statistics against NumPy, refused input, and written files."""

import csv
import json
import math

import numpy as np
import pytest

from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.evaluation import load_predictions
from limbeck.report.compare.compare_page import render_compare_page
from limbeck.report.record_io import add_hashes
from limbeck.workflows.compare.run import build_comparison

T95 = {2: 12.7062, 3: 4.30265, 5: 2.77645}


@pytest.fixture(scope="module")
def study(studies, tmp_path_factory):
    return studies.write_study(tmp_path_factory.mktemp("whole") / "S", seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def runs(studies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [studies.write_run(folder / f"r{seed}", seed) for seed in (0, 1, 2)]


def variant(comparison, name):
    return next(one for one in comparison.variants if one.name == name)


def tops(runs, name):
    return np.array(
        [json.loads((run / "record.json").read_text())["models"][name]["test"]["metrics"]["accuracy"] for run in runs]
    )


def change(run, edit, *, by_hand=False):
    path = run / "record.json"
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record if by_hand else add_hashes(record)))


def test_seeds_of_one_recipe_are_paired_and_the_interval_is_the_wider_one(runs):
    distilled = variant(build_comparison(runs), "distilled")
    gains = 100 * (tops(runs, "distilled") - tops(runs, "baseline"))
    half = T95[3] * gains.std(ddof=1) / math.sqrt(3)
    assert distilled.gain.mean == pytest.approx(gains.mean())
    assert (distilled.gain.t_low, distilled.gain.t_high) == pytest.approx(
        (gains.mean() - half, gains.mean() + half), rel=1e-4
    )
    # Of three seeds the bootstrap can reach no further than the worst seed three times.
    assert (distilled.gain.low, distilled.gain.high) == pytest.approx((gains.min(), gains.max()))
    assert distilled.gain.interval == (distilled.gain.t_low, distilled.gain.t_high)
    assert distilled.outcome == ("improves" if gains.mean() - half > 0 else "inconclusive")
    gap = (tops(runs, "teacher") - tops(runs, "baseline")).mean()
    assert distilled.gap_recovered.fraction == pytest.approx(gains.mean() / 100 / gap)
    assert distilled.verdict_text.startswith("distilled improves: +")
    assert "over 3 seeds" in distilled.verdict_text


def test_one_seed_has_an_interval_over_the_test_samples(runs):
    comparison = build_comparison(runs[:1])
    gain = variant(comparison, "distilled").gain
    predictions = load_predictions(runs[0] / "predictions.safetensors")
    differences = (predictions.statistics["distilled"] - predictions.statistics["baseline"])[:, 0].numpy()
    resamples = np.random.default_rng(3).integers(0, len(differences), (4000, len(differences)))
    low, high = np.quantile(100 * differences[resamples].mean(1), [0.025, 0.975])
    assert gain.mean == pytest.approx(100 * differences.mean())
    assert gain.interval == pytest.approx((low, high), abs=0.6)
    assert gain.resampled_unit == "samples"
    assert (gain.low, gain.t_low) == (None, None)
    assert "the 200 test samples of one seed" in variant(comparison, "distilled").verdict_text
    assert "it does not show what another seed would change" in render_compare_page(comparison)


def test_a_single_old_run_without_predictions_uses_its_recorded_interval(studies, tmp_path):
    run = studies.write_run(tmp_path / "old", 0, sample_fingerprint=None)
    assert variant(build_comparison([run]), "distilled").outcome == "unknown"
    change(run, lambda record: record.update(verdict={"gain": 8.0, "interval": [3.0, 13.0]}))
    assert variant(build_comparison([run]), "distilled").gain.interval == (3.0, 13.0)
    assert build_comparison([run]).agreement is None
    assert "agreement is unknown" in render_compare_page(build_comparison([run]))


def test_agreement_is_the_fraction_of_equal_predictions_also_between_seeds(runs):
    agreement = build_comparison(runs).agreement
    predictions = [load_predictions(run / "predictions.safetensors").predicted for run in runs]
    at = {name: place for place, name in enumerate(agreement.names)}
    equal = [np.mean(one["distilled"].numpy() == one["teacher"].numpy()) for one in predictions]
    assert agreement.matrix[at["distilled"]][at["teacher"]] == pytest.approx(np.mean(equal))
    assert agreement.matrix[at["teacher"]][at["distilled"]] == agreement.matrix[at["distilled"]][at["teacher"]]
    pairs = [(0, 1), (0, 2), (1, 2)]
    seeds = [np.mean(predictions[i]["baseline"].numpy() == predictions[j]["baseline"].numpy()) for i, j in pairs]
    assert agreement.matrix[at["baseline"]][at["baseline"]] == pytest.approx(np.mean(seeds))


def test_seeds_with_different_test_samples_have_no_agreement_between_seeds(studies, tmp_path):
    runs = [
        studies.write_run(tmp_path / f"r{s}", s, sample_fingerprint=f"samples {s}", fingerprint=f"{s}" * 64)
        for s in (0, 1)
    ]
    comparison = build_comparison(runs)
    assert comparison.agreement.matrix[0][0] is None
    assert comparison.agreement.matrix[0][1] is not None
    assert "Each seed splits the data anew" in " ".join(comparison.notes)


def test_changes_by_class_are_the_mean_over_seeds_of_variant_minus_baseline(runs):
    records = [json.loads((run / "record.json").read_text())["models"] for run in runs]
    wanted = np.mean(
        [100 * (one["distilled"]["test"]["per_class"][2]["value"]
                - one["baseline"]["test"]["per_class"][2]["value"]) for one in records]
    )  # fmt: skip
    change = variant(build_comparison(runs), "distilled").class_changes[2]
    assert (change.name, change.num_samples) == ("two", 50)
    assert change.gain == pytest.approx(wanted)


def test_costs_reads_and_warnings_are_listed(runs):
    comparison = build_comparison(runs)
    assert variant(comparison, "distilled").resources.cpu_seconds == pytest.approx(6.0)  # 5, 6 and 7 s
    assert comparison.num_reads == 3
    change(runs[2], lambda record: record.update(warnings=["the teacher is large"]))
    assert build_comparison(runs).warnings == ("the teacher is large (1 of 3 runs)",)
    change(runs[2], lambda record: record.update(warnings=[]))


def test_a_record_that_was_changed_by_hand_is_reported(studies, tmp_path):
    folder = studies.write_run(tmp_path / "r", 0)
    assert build_comparison([folder]).warnings == ()
    change(folder, lambda record: record["models"]["distilled"]["test"]["metrics"].update(accuracy=0.99), by_hand=True)
    assert build_comparison([folder]).warnings == (
        f"{folder}: record.json was changed after it was written: its hash does not match its content",
    )


def test_a_study_is_shown_with_its_own_results_and_verdicts(study):
    comparison = build_comparison([study])
    written = json.loads((study / "study.json").read_text())["results"]
    assert comparison.kind == "study"
    assert comparison.rule == "The rule of the study."
    for name, one in written["variants"].items():
        assert variant(comparison, name).metrics["accuracy"].mean == one["accuracy"]["mean"]
        assert variant(comparison, name).verdict_text == one["verdict"]["text"]
    assert variant(comparison, "distilled").gap_recovered.low == 0.4
    assert variant(comparison, "wide_tau").note == "stages.0.objective.kd.temperature=40"
    assert variant(comparison, "teacher").verdict == ""
    assert [one.name for one in comparison.variants][:4] == ["teacher", "student_only", "equal_time", "label_smoothing"]
    assert comparison.num_reads == 18


def test_a_study_against_another_baseline_is_computed_from_its_trials(study):
    comparison = build_comparison([study], baseline="label_smoothing")
    record = {
        name: np.array(
            [json.loads((study / "trials" / name / str(s) / "record.json").read_text())
             ["models"][name]["test"]["metrics"]["accuracy"] for s in (0, 1, 2)]
        )
        for name in ("distilled", "label_smoothing")
    }  # fmt: skip
    gains = 100 * (record["distilled"] - record["label_smoothing"])
    assert comparison.baselines == ("label_smoothing",)
    assert variant(comparison, "distilled").gain.mean == pytest.approx(gains.mean())
    assert "over label_smoothing" in variant(comparison, "distilled").verdict_text
    assert comparison.rule.startswith("Rule: a variant improves")
    with pytest.raises(LimbeckError, match=r"no variant 'label_smothing'.*label_smoothing"):
        build_comparison([study], baseline="label_smothing")


def test_an_unfinished_study_shows_the_state_of_its_trials(studies, tmp_path):
    folder = studies.write_study(
        tmp_path / "P", seeds=(0, 1), unfinished=[("distilled", 1), ("wide_tau", 0), ("wide_tau", 1)],
        failed=[("label_smoothing", 0)],
    )  # fmt: skip
    comparison = build_comparison([folder])
    states = {(trial.variant, trial.seed): trial.state for trial in comparison.trials}
    assert (states["distilled", 1], states["wide_tau", 0], states["label_smoothing", 0]) == (
        "running",
        "waiting",
        "failed",
    )
    assert {trial.state for trial in comparison.trials} & {"waiting", "running"}
    assert variant(comparison, "wide_tau").metrics == {}
    assert variant(comparison, "distilled").gain.num_seeds == 1
    assert next(trial.step for trial in comparison.trials if trial.state == "running") == 120
    text = render_compare_page(comparison)
    assert "the loss of the term kd is nan at step 12" in text
    assert "Not finished" in text


@pytest.mark.parametrize("content", ["nothing", "no results", "null results", "half a record", "no record"])
def test_an_incomplete_study_is_shown(studies, tmp_path, content):
    every = [(name, 0) for name in studies.VARIANTS]
    folder = studies.write_study(tmp_path / "E", seeds=(0,), unfinished=every if content == "nothing" else ())
    study = json.loads((folder / "study.json").read_text())
    record = folder / "trials" / "distilled" / "0" / "record.json"
    if content == "no results":
        del study["results"]
    if content == "null results":
        study["results"] = {
            "variants": {"student_only": None, "distilled": {"accuracy": None, "gain": 3, "verdict": []}},
            "rule": None,
        }
    if content == "half a record":
        record.write_text(record.read_text()[:300])
    if content == "no record":
        record.unlink()
    (folder / "study.json").write_text(json.dumps(study))
    comparison = build_comparison([folder])
    assert render_compare_page(comparison).endswith("</html>")
    if "record" in content:
        trial = next(trial for trial in comparison.trials if trial.variant == "distilled")
        assert trial.state == "failed"
        assert "record.json" in trial.error


def test_two_recipes_of_one_name_are_named_by_the_ends_of_their_paths(studies, tmp_path):
    runs = [studies.write_run(tmp_path / part / "digits", 0, name="r") for part in ("old", "new")]
    path = runs[1] / "record.json"
    record = json.loads(path.read_text())
    record["recipe"]["training"] = {"optimizer": {"lr": 0.5}}
    path.write_text(json.dumps(record))
    names = {variant.name for variant in build_comparison(runs).variants}
    assert {"old/digits/distilled", "new/digits/distilled"} <= names


def test_two_recipes_are_compared_with_their_own_baselines_or_with_a_named_one(studies, tmp_path):
    runs = [studies.write_run(tmp_path / f"{name}{s}", s, name=name) for name in ("a", "b") for s in (0, 1)]
    comparison = build_comparison(runs)
    assert comparison.baselines == ("a/baseline", "b/baseline")
    assert variant(comparison, "b/distilled").baseline == "b/baseline"
    assert "baseline of its own recipe" in render_compare_page(comparison)
    named = build_comparison(runs, baseline="a/baseline")
    assert variant(named, "b/distilled").baseline == "a/baseline"
    assert variant(named, "b/baseline").gain.mean == 0.0


def test_recipes_with_one_name_and_other_settings_are_different_variants(studies, tmp_path):
    runs = [studies.write_run(tmp_path / f"r{s}", s) for s in (0, 1)]
    change(runs[1], lambda record: record["recipe"].update(stages=[{"steps": 9}]))
    names = {one.name for one in build_comparison(runs).variants}
    assert names == {f"{run.name}/{name}" for run in runs for name in ("teacher", "baseline", "distilled")}


def test_the_same_run_twice_is_refused(studies, tmp_path):
    runs = [studies.write_run(tmp_path / name, 0) for name in ("r", "again")]
    with pytest.raises(LimbeckError, match="one run is one seed"):
        build_comparison(runs)
    with pytest.raises(LimbeckError, match="one run is one seed"):
        build_comparison([runs[0], runs[0]])


def test_metrics_on_different_data_are_refused(studies, tmp_path):
    one = studies.write_run(tmp_path / "one", 0, name="a")
    other = studies.write_run(tmp_path / "other", 0, name="b", sample_fingerprint="other samples")
    with pytest.raises(LimbeckError, match=r"one and .*other were tested on different data"):
        build_comparison([one, other])
    classes = studies.write_run(tmp_path / "classes", 1, name="c")
    change(classes, lambda record: record["data"].update(classes=["cat", "dog", "eel", "fox"]))
    with pytest.raises(LimbeckError, match="different data"):
        build_comparison([one, classes])


def test_equal_test_samples_after_other_training_data_are_compared_with_a_warning(studies, tmp_path):
    one = studies.write_run(tmp_path / "one", 0, name="a")
    other = studies.write_run(tmp_path / "other", 0, name="b", fingerprint="e" * 64)
    assert "trained on different data" in " ".join(build_comparison([one, other]).notes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda study: study.update(schema=1), "schema 2"),
        (lambda study: study.update(trials=[{"variant": "student_only"}]), "cannot be read as a study"),
        (lambda study: study["trials"][0].update(folder="../../elsewhere"), "a trial outside of itself"),
        (lambda study: study["trials"][0].update(state="asleep"), "schema 2"),
    ],
)
def test_an_invalid_study_is_refused(studies, tmp_path, edit, message):
    folder = studies.write_study(tmp_path / "S", seeds=(0,), unfinished=[(name, 0) for name in studies.VARIANTS])
    contents = json.loads((folder / "study.json").read_text())
    edit(contents)
    (folder / "study.json").write_text(json.dumps(contents))
    with pytest.raises(LimbeckError, match=message):
        build_comparison([folder])


def test_a_trial_whose_file_links_out_of_the_study_is_refused(studies, tmp_path):
    folder = studies.write_study(tmp_path / "S", seeds=(0,))
    record = folder / "trials" / "student_only" / "0" / "record.json"
    record.rename(tmp_path / "outside.json")
    record.symlink_to(tmp_path / "outside.json")
    with pytest.raises(LimbeckError, match="a trial outside of itself"):
        build_comparison([folder])


def test_the_command_writes_the_page_and_each_table_whole(studies, tmp_path, capsys, monkeypatch):
    runs = [studies.write_run(tmp_path / f"r{s}", s) for s in (0, 1)]
    monkeypatch.chdir(tmp_path)
    names = {"csv": "t/a.csv", "markdown": "t/a.md", "latex": "t/a.tex"}
    arguments = [word for kind, name in names.items() for word in (f"--{kind}", name)]
    assert main(["compare", *map(str, runs), *arguments]) == 0
    assert "distilled" in capsys.readouterr().out
    assert (tmp_path / "compare.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["a.csv", "a.md", "a.tex"]
    with (tmp_path / "t" / "a.csv").open(newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert float(rows["distilled"]["accuracy"]) == pytest.approx(tops(runs, "distilled").mean(), abs=1e-15)
    assert main(["compare", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_page_of_one_folder_is_written_into_it(studies, tmp_path, capsys):
    folder = studies.write_study(tmp_path / "S", seeds=(0,))
    assert main(["compare", str(folder)]) == 0
    assert (folder / "compare.html").exists()
    assert "The study says of distilled" in capsys.readouterr().out
