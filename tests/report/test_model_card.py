"""The model card: its front matter for the Hub, its statements, and its escaping."""

import copy
import re

import numpy as np
import pytest
import yaml

from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.evaluation.statistics import proportion_interval
from limbeck.report import write_model_card
from limbeck.report.formatting import escape_markdown


def card(run, **options):
    return write_model_card(run, **options).read_text(encoding="utf-8")


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_hub_reads_the_card_and_its_results(record, write):
    hub = pytest.importorskip("huggingface_hub")
    path = write_model_card(write(record))
    metadata = hub.metadata_load(path)
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("limbeck", "image-classification")
    data = hub.ModelCard.load(path).data
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results["accuracy"] == pytest.approx(record["models"]["distilled"]["test"]["metrics"]["accuracy"], abs=1e-6)
    assert {result.dataset_name for result in data.eval_results} == {"Digits"}
    assert data.model_name == "digits"
    assert hub.ModelCardData(**data.to_dict()).to_yaml()


def test_metrics_have_their_intervals(record, write):
    text = card(write(record))
    for name in ("teacher", "baseline", "distilled"):
        split = record["models"][name]["test"]
        accuracy = split["metrics"]["accuracy"]
        low, high = proportion_interval(accuracy, split["num_samples"])
        assert f"{100 * accuracy:.1f} % | {100 * low:.1f} % to {100 * high:.1f} %" in text
    low, high = record["verdict"]["interval"]
    assert f"95 % interval {low:+.1f} to {high:+.1f}".replace("-", "−") in text
    assert "read once, after training" in text
    assert "200 had a label" in text
    assert "seed (0)" in text


def test_the_interval_is_that_of_a_bootstrap_over_samples():
    correct = np.arange(360) < 324
    resamples = np.random.default_rng(1).integers(0, 360, (20_000, 360))
    low, high = np.quantile(correct[resamples].mean(1), [0.025, 0.975])
    assert proportion_interval(0.9, 360) == pytest.approx((low, high), abs=0.004)
    assert proportion_interval(0.0, 10) == (0.0, pytest.approx(1 - 0.05**0.1))
    assert proportion_interval(None, 10) is proportion_interval(0.5, 0) is None


def test_the_same_record_gives_the_same_card(record, write):
    run = write(record)
    assert card(run) == card(run)


def test_the_license_is_an_option(record, write, capsys):
    run = write(record)
    assert front(card(run)) | {"license": "other", "license_name": "not-stated"} == front(card(run))
    assert main(["model-card", str(run), "--license", "apache-2.0"]) == 0
    text = (run / "README.md").read_text()
    assert front(text)["license"] == "apache-2.0"
    assert "## License" not in text
    assert capsys.readouterr().out.strip().endswith("README.md")
    with pytest.raises(LimbeckError, match="must be an identifier of the Hub"):
        write_model_card(run, license="my: own")


def test_text_of_the_record_is_escaped(record, write):
    markup = "x\n---\nlicense: mit\n# <script>alert(1)</script> [a](javascript:b) `c` | d *e* {{ 7*7 }}"
    record["name"] = record["data"]["name"] = record["machine"]["cpu"] = markup
    record["warnings"], record["verdict"]["text"] = [markup], markup
    record["models"] = {markup: record["models"].pop("teacher"), **record["models"]}
    record["models"]["distilled"]["title"] = record["models"][markup]["title"] = markup
    record["fidelity"]["teacher"] = markup
    record["recipe"]["stages"][0]["name"] = markup
    text = card(write(record))
    head, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(head)["license"] == "other"
    assert yaml.safe_load(head)["model-index"][0]["name"] == " ".join(re.sub("[<>]", " ", markup).split())
    assert "<script" not in text
    assert not re.search(r"(?<!\\)\]\(", body)
    assert "\nlicense: mit" not in body
    assert "\n# <" not in body
    assert "49" not in body.split("## Metrics")[0]
    table = [line for line in body.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {10}
    assert body.count("\n# ") == 1


def test_no_field_of_a_record_brings_html_or_a_terminal_escape_into_the_card(record, write):
    markup, written = "<img src=x onerror=alert(1)>\x1b[31m", 0

    def paths(value, path=()):
        children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, child in children:
            yield from paths(child, (*path, key))
        if isinstance(value, str):
            yield path

    for *parents, key in [path for path in paths(record) if path[0] not in ("versions", "environment")]:
        changed = copy.deepcopy(record)
        container = changed
        for parent in parents:
            container = container[parent]
        container[key] = markup
        try:
            text = card(write(changed))
        except LimbeckError:
            continue
        written += 1
        assert "<img" not in text, (*parents, key)
        assert "\x1b" not in text, (*parents, key)
    assert written > 20


def test_one_trial_of_a_study_has_no_card(record, write):
    variant = {"study": "s", "name": "student_only", "seed": 0}
    record["models"] = {"student_only": record["models"]["baseline"]}
    with pytest.raises(LimbeckError, match="one trial of a study"):
        write_model_card(write(record | {"kind": "trial", "variant": variant}))


def test_plain_text_is_not_escaped():
    assert escape_markdown("Digits, 8×8 (UCI) – n = 360.") == "Digits, 8×8 (UCI) – n = 360."


def test_a_card_of_a_minimal_record_states_what_is_missing(record, write):
    for key in ("verdict", "fidelity", "agreement", "examples"):
        record.pop(key)
    record["export"] = {}
    record["models"] = {"distilled": record["models"]["distilled"]}
    record["models"]["distilled"] |= {"test": None, "latency_ms": None}
    record["data"].pop("normalization")
    text = card(write(record))
    assert "was not measured" in text
    assert "test set was not opened" in text
    assert "There is no baseline" in text
    assert "onnx" not in text.lower()
    assert "None" not in text


@pytest.mark.parametrize(
    ("name", "hub"), [("CIFAR10", "uoft-cs/cifar10"), ("my Pictures!", "my-pictures"), ("日本", "data")]
)
def test_data_set_has_its_name_on_the_hub_or_a_slug(record, write, name, hub):
    record["data"]["name"] = name
    assert front(card(write(record)))["datasets"] == [hub]
