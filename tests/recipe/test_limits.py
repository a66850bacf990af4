"""Values that would hang a machine or fill its memory are refused at once, with the bound."""

import pytest

from limbeck.cli import main

RECIPE = """
task: Classification
data: {use: Digits, augment: {use: Augmentation, transforms: [{use: affine, degrees: 10}]}}
teachers: {teacher: {use: small_cnn}}
teacher_training: {steps: 2, objective: {target: CrossEntropyLoss}}
student: small_cnn
stages: [{name: distill, steps: 20, objective: {kd: KDLoss}}]
"""


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_threads=100000", "num_threads: 100000 is not at most 256"),
        ("training.batch_size=1000000000000000000000000000000", "is not at most 1,000,000"),
        ("training.num_workers=1000", "training.num_workers: 1000 is not at most 256"),
        ("data.augment.num_views=1000000000000", "num_views must be from 0 to 1,000,000, got 1000000000000"),
        ("stages.0.objective.kd.temperature=1e200", "a temperature must be above zero and at most 10,000, got 1e+200"),
        ("study={seeds: 1000000000}", "the number of seeds must be from 1 to 1000, got 1000000000"),
        ("study={seeds: 100000000000}", "the number of seeds must be from 1 to 1000, got 100000000000"),
        ("generations=100000000000", "generations: 100000000000 is not at most 100"),
        ("teachers.teacher.input_size=100000", "teachers.teacher.input_size: 100000 is not at most 8,192"),
        ("stages.0.steps=1000000000000", "stages.0.steps: 1000000000000 is not at most 1,000,000,000"),
        ("training.optimizer.lr=-1", "training.optimizer: AdamW: Invalid learning rate: -1.0"),
        ("study={baselines: [[student_only]]}", "study.baselines.0: ['student_only'] is not text"),
        ("baselines=[[student_only]]", "baselines: ['student_only'] is not one of"),
        ("study={variants: {a: {teachers: [[teacher]]}}}", "study.variants.a: teachers: there is no teacher"),
    ],
)
def test_recipe_check_names_the_bound(override, message, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert main(["recipe", "check", str(tmp_path / "recipe.yaml"), override]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_study_of_two_hundred_variants_is_checked_and_more_are_refused(tmp_path, capsys):
    def check(count):
        variants = "".join(f"    v{i}: {{training.batch_size: {16 + i}}}\n" for i in range(count))
        (tmp_path / "recipe.yaml").write_text(f"{RECIPE}study:\n  variants:\n{variants}")
        return main(["recipe", "check", str(tmp_path / "recipe.yaml")])

    assert check(201) == 2
    assert "a study has at most 200 variants, got 201" in capsys.readouterr().err
    assert check(50) == 0


def test_layers_refuses_an_input_that_fills_the_memory(capsys):
    assert main(["layers", "resnet20", "--input", "3x100000x100000"]) == 2
    assert "--input must have sizes of at most 8192, got '3x100000x100000'" in capsys.readouterr().err
