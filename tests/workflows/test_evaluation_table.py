"""The table of an evaluation: what was asked for stands in it, and no more."""

from limbeck.workflows.evaluate.evaluation_table import render_evaluation_table

ACCURACY = {"name": "accuracy", "label": "Top-1 accuracy", "phrase": "accuracy"}
PER = {"name": "per", "label": "Phoneme error rate", "higher_is_better": False}


def model(role, **more):
    return {"role": role, "title": "", "num_samples": 50, "clean": 0.9, **more}


def line(metric, unit="points", difference=2.0):
    return {
        "model": "distilled", "reference": "baseline", "metric": metric, "unit": unit, "difference": difference,
        "low": -1.0, "high": 3.0, "num_samples": 50,
    }  # fmt: skip


def make_evaluation(**more):
    models = {
        "big": model("teacher", **more),
        "baseline": model("baseline", **more),
        "distilled": model("distilled", **more),
    }
    differences = [
        line("clean"),
        line("noise 0.1", difference=-2.0),
        line("nll before", unit="1", difference=-0.25),
    ]
    return {
        "name": "digits", "split": "validation", "models": models, "differences": differences, "efficiency": None,
        "metric": ACCURACY,
        "notes": ["baseline is " + "left out, " * 20],
    }  # fmt: skip


def test_networks_stand_in_columns_and_the_difference_last():
    lines = render_evaluation_table(make_evaluation()).splitlines()
    assert lines[0] == "digits, validation split, n = 50 unless stated otherwise"
    assert lines[2].split() == [
        "accuracy",
        "of",
        "big",
        "baseline",
        "distilled",
        "distilled",
        "−",
        "baseline,",
        "95",
        "%",
    ]
    assert lines[4].split() == ["clean", "samples", *["90.0", "%"] * 3, "+2.0", "(−1.0", "to", "+3.0)"]
    assert not any("FGSM" in text or "noise" in text for text in lines)
    assert max(map(len, lines)) <= 120


def test_each_metric_has_its_unit():
    calibration = {
        "temperature": 1.5, "before": {"ece": 0.1, "nll": 0.5}, "after": {"ece": 0.05, "nll": 0.4}, "num_samples": 25,
        "fit_split": "half of validation",
    }  # fmt: skip
    text = render_evaluation_table(
        make_evaluation(
            noise={"sigmas": [0.1], "values": [0.8]},
            calibration=calibration,
            attacks={"eps": 0.1, "worst_case": 0.25},
        )
    )
    rows = {one.strip().split("  ")[0]: one for one in text.splitlines()}
    assert rows["noise, σ = 0.1"].endswith("−2.0 (−1.0 to +3.0)")
    assert rows["NLL before"].split()[2:] == ["0.500"] * 3 + ["−0.250", "(−1.000", "to", "+3.000)"]
    assert "note: temperatures are fitted on half of validation, and evaluated on other samples" in text
    assert "25.0 %" in rows["worst of them"]


def test_the_metric_is_that_of_the_task():
    text = render_evaluation_table(make_evaluation() | {"metric": PER})
    assert "Phoneme error rate of" in text
    assert "accuracy" not in text


def test_costs_say_where_they_were_measured():
    took = {"median": 1.25, "p95": 2.0}
    row = {
        "model": "distilled", "runtime": "torch", "precision": "fp32", "num_threads": 2,
        "latency_ms": {"1": took, "64": took},
        "value": 0.9, "agreement": 0.5, "bytes": 1000, "parameters": 250, "flops": None, "peak_memory": 2000,
        "machine": {"cpu": "A processor", "num_cores": 4},
    }  # fmt: skip
    text = render_evaluation_table(make_evaluation() | {"efficiency": {"rows": [row]}})
    assert "2 threads of 4 cores, A processor" in text
    assert text.count("1.25 (2)") == 2
    assert ["90.0", "%", "50.0", "%", "1.0", "kB"] in [line.split()[-6:] for line in text.splitlines()]
    assert "–" in next(one for one in text.splitlines() if "2.0 kB" in one)
