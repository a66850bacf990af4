"""The cache by recipe and by hand: filled by runs or ahead of them, listed, checked, mended, removed."""

import json
from pathlib import Path

import pytest

import limbeck
import limbeck.recipe
from limbeck.cli import main
from limbeck.recipe import load_recipe

RECIPE = """
name: tiny
num_threads: 1
task: Classification
data: {use: Digits, num_samples: 96, augment: {use: Augmentation, transforms: [{use: affine, degrees: 10}],
num_views: 2}}
teachers: {teacher: {use: small_cnn, width: 8}}
student: {use: small_cnn, width: 4}
teacher_training: {steps: 4, objective: {target: CrossEntropyLoss}}
stages:
  - {name: distill, epochs: 4, objective: {kd: {use: KDLoss, temperature: 4}}}
training: {batch_size: 32}
cache: {top_k: 5}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "outputs"))
    Path("tiny.yaml").write_text(RECIPE)
    return tmp_path


def run(*words):
    return main([str(word) for word in words])


def shards():
    return sorted(Path("outputs").glob("*/shard-*.bin"))


def test_a_second_run_computes_no_teacher_output_and_ends_with_the_same_student(place, capsys):
    assert run("distill", "tiny.yaml", "--out", "one") == 0
    weights = "teachers.teacher.weights=one/checkpoint/teacher.safetensors"
    assert run("distill", "tiny.yaml", weights, "--out", "two") == 0
    one, two = (json.loads(Path(name, "record.json").read_text()) for name in ("one", "two"))
    assert (one["cache"]["teacher"]["misses"], two["cache"]["teacher"]["misses"]) == (96 * 2, 0)
    assert two["cache"]["teacher"]["hits"] == 96 * 4
    assert one["files"]["student.safetensors"]["sha256"] == two["files"]["student.safetensors"]["sha256"]
    assert "Teacher output cache" in Path("two/report.html").read_text()

    assert run("cache", "fill", "tiny.yaml", weights) == 0
    assert "0 outputs computed, 192 cached before" in capsys.readouterr().out
    assert run("cache", "info") == 0
    assert "96 samples × 2 views, top 5, spread, float16" in capsys.readouterr().out
    assert run("cache", "verify") == 0

    (shard,) = shards()
    raw = bytearray(shard.read_bytes())
    raw[100] ^= 1
    shard.write_bytes(raw)
    assert run("cache", "verify") == 2
    captured = capsys.readouterr()
    assert "shard-00000.bin: 1 damaged" in captured.out
    assert "cache fill" in captured.err
    assert run("cache", "fill", "tiny.yaml", weights) == 0
    assert "1 outputs are computed again" in capsys.readouterr().err
    assert run("cache", "verify") == 0

    assert run("cache", "prune", "--older-than", "1") == 0
    assert shards()
    assert run("cache", "prune", shard.parent.name[:6]) == 0
    assert not shards()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fill", "tiny.yaml"), "teachers.teacher has no weights yet"),
        (("fill", "tiny.yaml", "cache=null"), "the recipe keeps no teacher outputs"),
        (("fill", "tiny.yaml", "--batch-size", "0"), "--batch-size must be from 1"),
        (("prune",), "one of the three"),
        (("prune", "abc"), "there is no cache 'abc'"),
        (("verify", "abc"), "there is no cache 'abc'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(place, capsys, words, says):
    assert run("cache", *words) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("data.augment.num_views=0", "num_views: 8"),
        ("cache.tail=spread", "without `top_k`"),
        ("cache.topp=3", "top"),
        ("cache.dtype=float64", "float16"),
    ],
)
def test_a_cache_that_could_not_work_is_refused_before_anything_is_trained(place, capsys, change, says):
    words = [change] if change != "cache.tail=spread" else ["cache.top_k=null", change]
    assert run("distill", "tiny.yaml", *words, "--out", "one") == 2
    assert says in capsys.readouterr().err
    assert not Path("one").exists()


def test_a_cache_without_teachers_is_refused():
    text = RECIPE.replace("teachers: {teacher: {use: small_cnn, width: 8}}\n", "").replace(
        "kd: {use: KDLoss, temperature: 4}", "target: CrossEntropyLoss"
    )
    with pytest.raises(limbeck.LimbeckError, match="cache: it stores outputs of teachers"):
        limbeck.recipe.resolve_recipe(
            load_recipe(text.replace("teacher_training: {steps: 4, objective: {target: CrossEntropyLoss}}\n", ""))
        )
