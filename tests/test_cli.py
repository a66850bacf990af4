"""The command line: quick help, versions, layers, recipes, one clear sentence for a mistake."""

import argparse
import errno
import importlib
import inspect
import signal
import subprocess
import sys

import pytest

import limbeck
from limbeck.cli import _parse, main, make_parser
from limbeck.cli.renamed import RENAMED_COMMANDS, RENAMED_OPTIONS
from limbeck.recipe import find_recipe, load_recipe, resolve_recipe
from limbeck.recipe.overrides import apply_overrides


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
        (["layers", "somewhere:thing"], "add --plugin somewhere"),
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
        resolve_recipe(load_recipe(find_recipe(name)))
    assert main(["recipe", "check", "digits"]) == 0


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
    options = {action.dest for action in parser._actions} - {"help", "debug", "trust"}
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


def test_an_unexpected_error_is_one_sentence_with_its_traceback_in_a_file(capsys, tmp_path, monkeypatch):
    def fail(*args):
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr("limbeck.recipe.list_recipes", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["recipe", "list"]) == 70
    [path] = tmp_path.glob("limbeck-*.traceback")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("limbeck: unexpected ZeroDivisionError in ")
    assert line.endswith(f": float division by zero; the traceback is in {path}")
    assert "in fail" in path.read_text()


@pytest.mark.parametrize(
    "words", [["--debug", "recipe", "check", "nowhere"], ["recipe", "check", "nowhere", "--debug"]]
)
def test_debug_prints_the_traceback(words, capsys):
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("limbeck: there is no file 'nowhere'")


def test_a_file_that_cannot_be_opened_is_named_with_what_to_do(capsys, monkeypatch, tmp_path):
    def fail(*args):
        raise PermissionError(errno.EACCES, "Permission denied", "runs/a")

    monkeypatch.setattr("limbeck.recipe.list_recipes", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["recipe", "list"]) == 2
    expected = "limbeck: runs/a: Permission denied; change its permissions, or give another path"
    assert capsys.readouterr().err.startswith(expected)


def test_an_empty_argument_is_not_the_current_folder(capsys):
    for arguments in (["predict", "run", ""], ["distill", "digits", "--out", ""]):
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert exit_info.value.code == 2
        assert "an argument must be text, got an empty one: leave it out" in capsys.readouterr().err


def test_arguments_are_utf_8(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["report", "runs/\udcff"])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.endswith("an argument must be UTF-8 text, got b'runs/\\xff'\n")


@pytest.mark.parametrize("root", ["/data/images", "a: b", "[x]", "12", "1e5", "null", "true", "d'été"])
def test_a_data_root_is_text_whatever_yaml_would_read(root):
    options = _parse(["distill", "digits", "--data-root", root])
    assert apply_overrides({"data": {"use": "ImageFolder"}}, options["overrides"])["data"]["root"] == root


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_outside_of_training_is_one_sentence(signum, capsys, monkeypatch):
    distill = importlib.import_module("limbeck.workflows.distill.run")  # `limbeck.workflows.distill` is a function too
    monkeypatch.setattr(distill, "distill", lambda *args, **options: signal.raise_signal(signum))
    previous_handler = signal.signal(signum, signal.SIG_DFL)
    try:
        assert main(["distill"]) == 128 + signum
        assert signal.getsignal(signum) == signal.SIG_DFL
    finally:
        signal.signal(signum, previous_handler)
    sentence = f"limbeck: stopped by {signum.name}; finished work is kept, and --resume continues from there\n"
    assert capsys.readouterr().err == sentence


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("base", [BaseException, ImportError])
def test_a_signal_that_a_library_turns_into_its_own_error_is_one_sentence(signum, base, capsys, monkeypatch):
    """As those in Rust do that are stopped while they are imported."""

    def fail():
        try:
            signal.raise_signal(signum)
        except BaseException:
            raise type("PanicException", (base,), {})("failed to import") from None

    monkeypatch.setattr("limbeck.recipe.list_recipes", fail)
    default_handler = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
    previous_handler = signal.signal(signum, default_handler)
    try:
        assert main(["recipe", "list"]) == 128 + signum
        assert signal.getsignal(signum) == default_handler
    finally:
        signal.signal(signum, previous_handler)
    assert capsys.readouterr().err == f"limbeck: stopped by {signum.name}\n"


def test_an_ignored_signal_stays_ignored(monkeypatch):
    monkeypatch.setattr("limbeck.recipe.list_recipes", lambda: signal.raise_signal(signal.SIGHUP) or [])
    previous_handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        assert main(["recipe", "list"]) == 0
    finally:
        signal.signal(signal.SIGHUP, previous_handler)


def test_a_misspelled_command_or_an_unknown_option_says_what_to_write(capsys):
    for arguments, message in (
        (["distil"], "no command is named 'distil'; available: distill"),
        (["data", "photos.yaml"], "no command is named 'photos.yaml'; available: check"),
        (["distill", "digits", "--epochs", "3"], "settings of the recipe are written KEY=VALUE"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert message in capsys.readouterr().err
