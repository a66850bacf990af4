"""Alignment by a recipe: a teacher of texts with weights, a student of both sides, with cache, report and export."""

from __future__ import annotations

import json

import pytest
import torch
from tests.data.test_speech_text_pairs import write_pairs

from limbeck.data.sources import SpeechTextPairs
from limbeck.models import load_weights, save_weights, speech_text_encoder
from limbeck.recipe import find_recipe, load_recipe
from limbeck.teachers import FrozenTeacher, onnx
from limbeck.workflows._job.job import Job
from limbeck.workflows.distill.run import distill

pytestmark = pytest.mark.filterwarnings("ignore:chrF needs sacrebleu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("alignment")
    folder = write_pairs(root / "asterisk")
    facts = SpeechTextPairs(root=str(folder), mels=8, min_frames_per_token=1).load(seed=0).facts
    text = {"embedding_dim": 8, "text_width": 4, "text_depth": 1, "vocab_size": facts["vocab_size"]}
    teacher = speech_text_encoder(speech_width=None, shared="none", **text)
    weights = save_weights(teacher, root / "text.safetensors")
    changes = [
        f"data.root={folder}", "data.tokenizer=null", "data.mels=8", "data.min_frames_per_token=1",
        "teachers.text.text_path=null", "teachers.text.embedding_dim=8", "teachers.text.text_width=4",
        "teachers.text.text_depth=1", f"teachers.text.weights={weights}",
        "student.embedding_dim=8", "student.speech_width=4", "student.speech_depth=1", "student.stride=2",
        "student.text_width=4", "stages.0.objective.states={use: StateMatchingLoss}", "stages.0.steps=3",
        "training.batch_tokens=800", f"cache.root={root / 'cache'}",
    ]  # fmt: skip
    distill(load_recipe(find_recipe("asterisk_alignment"), changes), run_dir=root / "run", callbacks=[])
    return root / "run"


def test_the_recipe_runs_from_pairs_to_report(run):
    record = json.loads((run / "record.json").read_text())
    assert record["primary_metric"] == "r1"
    metrics = {name: model["test"]["metrics"] for name, model in record["models"].items()}
    assert metrics["text"]["r1"] == 0  # it embeds no speech
    assert set(metrics["distilled"]) >= {"r1", "speech_to_text_r1", "text_to_speech_r1", "mean_rank"}
    cache = record["cache"]["text"]
    assert 0 < cache["misses"] <= cache["num_outputs"]
    assert record["models"]["baseline"]["steps"] == record["models"]["distilled"]["steps"] == 3
    page = (run / "report.html").read_text()
    assert "R@1" in page
    assert record["examples"]
    assert "texts shown: 1. " in record["examples"][0]["predictions"]["distilled"]["text"]


def test_the_exported_student_embeds_both_sides(run):
    job = Job.from_run(run)
    student = load_weights(job.build_student(), run)
    teacher = FrozenTeacher(onnx(run / "student.onnx", input_type="pixels", normalization=job.data.normalization))
    batch = next(job.data.validation_batches())
    outputs, expected = teacher.predict(batch, job.task), FrozenTeacher(student).predict(batch, job.task)
    for name in ("speech_embedding", "text_embedding"):
        torch.testing.assert_close(outputs.by_sample[name], expected.by_sample[name], rtol=1e-4, atol=1e-4)
