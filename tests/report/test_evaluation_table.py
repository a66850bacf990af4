"""The table of an evaluation: what was asked for stands in it, and no more."""

from limbeck.report import render_evaluation_table


def model(role, **more):
    return {"role": role, "title": "", "examples": 50, "clean": 0.9, **more}


def line(figure, unit="points", difference=2.0):
    return {
        "of": "distilled", "against": "alone", "figure": figure, "unit": unit, "difference": difference,
        "low": -1.0, "high": 3.0, "n": 50,
    }  # fmt: skip


def found(**more):
    models = {"big": model("teacher", **more), "alone": model("alone", **more), "distilled": model("distilled", **more)}
    differences = [line("clean"), line("noise 0.1", difference=-2.0), line("nll before", unit="1", difference=-0.25)]
    return {
        "name": "digits", "part": "validation", "models": models, "differences": differences, "efficiency": None,
        "notes": ["alone is " + "left out, " * 20],
    }  # fmt: skip


def test_networks_stand_in_columns_and_the_difference_last():
    lines = render_evaluation_table(found()).splitlines()
    assert lines[0] == "digits, validation part, n = 50 where nothing else is said"
    assert lines[2].split() == [
        "accuracy",
        "of",
        "big",
        "student",
        "alone",
        "distilled",
        "distilled",
        "−",
        "alone,",
        "95",
        "%",
    ]
    assert lines[4].split() == ["pictures", "as", "they", "are", *["90.0", "%"] * 3, "+2.0", "(−1.0", "to", "+3.0)"]
    assert not any("FGSM" in text or "noise" in text for text in lines)
    assert max(map(len, lines)) <= 120


def test_each_figure_has_its_unit():
    calibration = {
        "temperature": 1.5, "before": {"ece": 0.1, "nll": 0.5}, "after": {"ece": 0.05, "nll": 0.4}, "n": 25,
        "fitted_on_part": "half of validation",
    }  # fmt: skip
    text = render_evaluation_table(
        found(
            noise={"sigmas": [0.1], "top1": [0.8]}, calibration_inputs=calibration, attacks={"eps": 0.1, "worst": 0.25}
        )
    )
    rows = {one.strip().split("  ")[0]: one for one in text.splitlines()}
    assert rows["noise, σ = 0.1"].endswith("−2.0 (−1.0 to +3.0)")
    assert rows["NLL before"].split()[2:] == ["0.500"] * 3 + ["−0.250", "(−1.000", "to", "+3.000)"]
    assert "note: temperatures are fitted on half of validation, and told on other pictures" in text
    assert "25.0 %" in rows["worst of them"]


def test_costs_say_where_they_were_measured():
    took = {"median": 1.25, "p95": 2.0}
    row = {
        "model": "distilled", "runtime": "torch", "precision": "fp32", "threads": 2,
        "latency_ms": {"1": took, "64": took},
        "top1": 0.9, "bytes": 1000, "parameters": 250, "flops": None, "memory": 2000,
        "machine": {"cpu": "A processor", "cores": 4},
    }  # fmt: skip
    text = render_evaluation_table(found() | {"efficiency": {"rows": [row]}})
    assert "2 threads of 4 cores, A processor" in text
    assert text.count("1.25 (2)") == 2
    assert "–" in next(one for one in text.splitlines() if "2.0 kB" in one)
