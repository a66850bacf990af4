"""The command line: quick help, versions, layers, recipes, one clear sentence for a mistake."""

import argparse
import importlib
import inspect
import subprocess
import sys

import pytest

import limbeck
from limbeck.cli import main, make_parser
from limbeck.cli.renamed import RENAMED_COMMANDS, RENAMED_OPTIONS


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from limbeck.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'yaml', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.strip() == f"limbeck {limbeck.__version__}"


def test_layers_lists_paths_and_shapes(capsys):
    assert main(["layers", "resnet20", "--input", "3x32x32"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["layer2"][-1] == "32×16×16"
    assert lines["fc"][1:] == ["Linear", "10"]


def test_layers_shows_modules_that_run_twice(capsys):
    assert main(["layers", "torchvision:resnet18", "--input", "3x32x32"]) == 0
    assert "runs 2 times: write layer1.0.relu@0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["layers", "resnet21"], "resnet20"),
        (["layers", "resnet20", "--input", "3-32"], "3x32x32"),
        (["layers", "resnet20", "--input", "1x2"], "give --input another"),
        (["layers", "somewhere:thing"], "plugins"),
        (["distill", "digit"], "digits"),
        (["distill", "nowhere.yaml"], "nowhere.yaml"),
        (["recipe", "check", "nowhere.yaml"], "nowhere.yaml"),
        (["evaluate", "nowhere"], "no run folder"),
        (["export", "nowhere"], "no run folder"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_an_error_is_one_sentence_and_status_2(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert len(captured.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    ["task: !!python/object/apply:os.system ['touch hacked']", "student: {use: 'os:system'}", "plugins: [os]"],
)
def test_a_hostile_recipe_runs_nothing(text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = "task: Classification\ndata: Digits\nstudent: small_cnn\n"
    recipe += "stages: [{name: a, steps: 1, objective: {t: CrossEntropyLoss}}]\n"
    lines = "".join(f"{line}\n" for line in recipe.splitlines() if line.split(":")[0] != text.split(":")[0])
    (tmp_path / "bad.yaml").write_text(lines + text + "\n")
    assert main(["distill", "bad.yaml"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "hacked").exists()
    assert not (tmp_path / "runs").exists()


def test_bundled_recipes_are_valid(capsys):
    assert main(["recipe", "list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == sorted(names)
    assert {"cifar100_resnet152_resnet18", "digits", "fashion_mnist", "fashion_mnist_full"} <= set(names)
    for name in names:
        assert main(["recipe", "check", name]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        *[([old], f"limbeck {old} is now limbeck {new}") for old, new in RENAMED_COMMANDS.items()],
        *[
            ([command, "x", option, "y"], f"{option} of limbeck {command} is now {new}")
            for command, options in RENAMED_OPTIONS.items()
            for option, new in options.items()
        ],
    ],
)
def test_an_old_command_or_option_is_refused_with_the_new_one(words, says, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.strip().endswith(says)


def commands(parser, words=()):
    """Every command with its parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from commands(child, (*words, name))
    if parser.get_default("run") is not None:
        yield " ".join(words), parser


@pytest.mark.parametrize(("name", "parser"), [pytest.param(*item, id=item[0]) for item in commands(make_parser())])
def test_the_options_of_a_command_are_arguments_of_its_function(name, parser):
    run = parser.get_default("run")
    if isinstance(run, str):
        module, _, function = run.partition(":")
        run = getattr(importlib.import_module(module), function)
    options = {action.dest for action in parser._actions} - {"help"}
    if "overrides" in options:
        options -= {"data_root", "seed"}
    inspect.signature(run).bind(**dict.fromkeys(options))


def test_options_cannot_be_abbreviated(capsys):
    with pytest.raises(SystemExit):
        main(["cache", "prune", "--older-tha", "3"])
    assert "--older-tha" in capsys.readouterr().err


def test_show_fills_in_every_setting_and_reads_back(capsys, tmp_path):
    assert main(["recipe", "show", "digits", "student.width=16"]) == 0
    text = capsys.readouterr().out
    assert "width: 16" in text
    assert "label_smoothing" not in text.split("teacher_training")[0]
    (tmp_path / "again.yaml").write_text(text)
    assert main(["recipe", "show", str(tmp_path / "again.yaml")]) == 0
    assert capsys.readouterr().out == text
