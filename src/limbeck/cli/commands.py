"""The commands and their options.

``run`` of a command is a function of this file, or ``module:function``, which is imported when the command runs. The
options are its keyword arguments. A string or path that it returns is printed, and an integer is the exit status.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from limbeck.core.errors import LimbeckError
from limbeck.utils.console import print_text

__all__ = ["add_commands"]

_TRUST_HELP = "trust the packages under the recipe's `plugins`, whose code then runs; remembered until it changes"

_SubParsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_FOLDER: Any = {"type": Path, "metavar": "DIR"}


def add_commands(commands: _SubParsers) -> None:
    """Add every command to the parser."""
    _add_trainings(commands)
    _add_evaluate(commands)
    _add_run_files(commands)
    _add_overviews(commands)
    _add_cache(commands)
    _add_data(commands)
    _add_recipe(commands)


def _command(
    commands: _SubParsers, name: str, run: str | Callable[..., Any], *, help: str, description: str | None = None
) -> Callable[..., Any]:
    """Add a command; returns the ``add_argument`` of its parser."""
    parser = commands.add_parser(name, help=help, description=description)
    parser.set_defaults(run=run)
    # Without a default of its own, so that `limbeck --debug COMMAND` is kept.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="print the traceback of an error"
    )
    return parser.add_argument


def _add_recipe_arguments(add: Callable[..., Any], *, nargs: str | None = None, data_root: bool = True) -> None:
    add("recipe", nargs=nargs, metavar="RECIPE", help="a YAML file, or a name of `limbeck recipe list`")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the recipe")
    if data_root:
        add("--data-root", metavar="DIR", help="root folder of the data; the same as data.root=DIR")
    add("--trust", action="store_true", help=_TRUST_HELP)


def _add_run_arguments(add: Callable[..., Any], *, data_root: bool = True) -> None:
    add("folder", type=Path, metavar="RUN")
    if data_root:
        add("--data-root", metavar="DIR", help="root folder of the data, if it has moved")
        add("--trust", action="store_true", help=_TRUST_HELP)


def _add_trainings(commands: _SubParsers) -> None:
    """Add the commands that train."""
    add = _command(
        commands,
        "distill",
        _distill,
        help="train a student with its teachers, compare it with its baseline, export, report",
        description="Without a recipe: digits, on the data that comes with scikit-learn. "
        "KEY=VALUE changes a setting: student.width=16",
    )
    _add_recipe_arguments(add, nargs="?")
    add("--out", dest="run_dir", **_FOLDER, help="the run folder (default: runs/NAME, numbered if taken)")
    add("--seed", type=int, metavar="N", help="replaces the recipe's seed")
    add("--resume", action="store_true", help="continue the run in --out, or the newest; RECIPE can be left out")
    _add_new(commands)
    add = _command(
        commands,
        "study",
        "limbeck.workflows.study.run:study",
        help="compare a recipe's variants with matched baselines over several seeds, with intervals and a verdict",
        description="Trains the teacher, the student without a teacher (for equal steps, for equal wall time, with "
        "label smoothing), the recipe and its `study: {variants: ...}`, each with every seed. "
        "Each training reads the test split once.",
    )
    _add_recipe_arguments(add)
    add("--seeds", type=int, metavar="N", help="how many seeds, from 0 (default: the recipe's, or 5)")
    add("--jobs", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    add("--out", dest="output_dir", **_FOLDER, help="its folder (default: runs/NAME-study, numbered if taken)")
    add("--resume", action="store_true", help="continue the study in --out; new variants and seeds are added")
    add = _command(
        commands,
        "select-teachers",
        "limbeck.workflows.select_teachers.run:select_teachers",
        help="measure a recipe's teachers on the validation split and choose among them",
        description="Candidates are the recipe's teachers; the test split is not read. Writes teacher_selection.json "
        "and teacher_selection.svg.",
    )
    _add_recipe_arguments(add, data_root=False)
    add("--latency-budget", type=float, metavar="MS", help="all teachers, per sample (default: 30 times the student's)")
    add("--margin", type=float, metavar="GAIN", help="minimum gain over the baseline (default: 10 × min_gap, 5 points)")
    add("--out", dest="output_dir", **_FOLDER, help="default: runs/NAME-teachers; models trained there are reused")
    add("--baseline-run", type=Path, metavar="RUN", help="a finished run to take the baseline from")
    add = _command(
        commands,
        "reproduce",
        _reproduce,
        help="repeat a run from its record and compare the metrics",
        description="Trains everything again in a new folder. Exit status 0: the metrics agree; 1: they differ.",
    )
    add("--out", dest="output_dir", **_FOLDER, help="the new folder (default: RUN-reproduce, numbered if taken)")
    add("--tolerance", type=float, default=0.005, metavar="X", help="largest difference that agrees (default: 0.005)")
    _add_run_arguments(add)
    add("--resume", action="store_true", help="continue a reproduction in --out that was stopped")


def _add_new(commands: _SubParsers) -> None:
    add = _command(
        commands,
        "new",
        "limbeck.workflows.new_recipe.run:new_recipe",
        help="write a recipe for a folder of images, a teacher and a student",
        description="Loads the data, builds the networks and runs each stage on two samples before it writes the file.",
    )
    add("--data", required=True, **_FOLDER, help="one folder of images per class; or train/, val/ and test/ of these")
    add(
        "--teacher",
        required=True,
        metavar="MODEL",
        help="timm:NAME, torchvision:NAME, hf:FOLDER, onnx:FILE, the folder of a run, or my_module:Net",
    )
    add("--student", required=True, metavar="MODEL", help="timm:NAME, torchvision:NAME, hf:FOLDER, or my_module:Net")
    add("--out", dest="output", type=Path, metavar="FILE", default=Path("recipe.yaml"), help="default: recipe.yaml")
    add("--teacher-weights", metavar="FILE", help="its weights for your classes (default: it is trained first)")
    add("--pretrained", action="store_true", help="start from the weights that timm and torchvision publish")
    add("--size", type=int, metavar="PIXELS", help="shorter side of the images (default: by images and networks)")
    add("--channels", type=int, choices=(1, 3), help="1: gray, 3: color (default: by images and networks)")
    add("--trust", action="store_true", help=_TRUST_HELP)
    add("--unlabeled", metavar="DIR", help="a folder in --data, or a path, of images without a label, for training")
    add("--num-labeled", type=int, metavar="N", help="use the labels of N training images only (default: all)")


def _distill(*, recipe: str | None, overrides: list[str], **options: Any) -> None:
    from limbeck.workflows.distill.run import distill

    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        overrides, recipe = [recipe, *overrides], None
    distill(recipe, overrides, **options)


def _reproduce(*, folder: Path, **options: Any) -> int:
    from limbeck.workflows.reproduce import reproduce

    if options["resume"] and options["output_dir"] is None:
        raise LimbeckError("--resume continues the reproduction in --out: give its folder")
    return int(reproduce(folder, **options)["match"] == "different")


def _add_evaluate(commands: _SubParsers) -> None:
    add = _command(
        commands,
        "evaluate",
        _evaluate,
        help="measure a run's models: under attack, corruption and shift, calibration, other runtimes",
        description="Without a flag of what to measure: the student's metrics on the validation split. With "
        "one or more: every model of the run, into RUN/evaluation.json.",
    )
    add("--split", choices=("validation", "test"), default="validation", help="the test split is read once in a run")
    _add_run_arguments(add)
    add(
        "--all",
        action="store_true",
        dest="all_checks",
        help="every check that needs no folder and supports the task of the run",
    )
    add("--attacks", nargs="?", const="", metavar="NAMES", help="under attack: fgsm,pgd,apgd (default: all installed)")
    add("--eps", metavar="E", help="the largest change of a pixel in 0..1 under attack (default: 8/255)")
    for check, text in (
        ("corruptions", "the metric under 15 common corruptions of images in 5 severities"),
        ("noise", "the metric under Gaussian noise of increasing strength in images"),
        ("calibration", "ECE and NLL before and after temperature scaling"),
        ("efficiency", "latency, size and metric in torch, onnxruntime and OpenVINO"),
    ):
        add(f"--{check}", action="append_const", const=check, dest="checks", default=[], help=text)
    add("--shifted-dir", **_FOLDER, help="accuracy on other images of the same classes, one folder per class")
    add("--reference-dir", **_FOLDER, help="the original images of --shifted-dir, by the same names")
    add("--ood", nargs="?", const="noise", metavar="DIR", help="out-of-distribution detection: images of DIR, or noise")
    add("--num-samples", type=int, metavar="N", help="images for attacks, corruptions and noise (default: 1000)")


def _evaluate(
    *, folder: Path, split: str, data_root: str | None, checks: list[str], all_checks: bool, **options: Any
) -> None:
    from limbeck.workflows.evaluate.run import evaluate_networks, evaluate_student

    names = {*checks}
    for check, option in (("attacks", "attacks"), ("shift", "shifted_dir"), ("ood", "ood")):
        names |= {check} if options[option] is not None else set()
    if names or all_checks:
        evaluate_networks(folder, names, split=split, data_root=data_root, all_checks=all_checks, **options)
        return
    for option in ("eps", "num_samples", "reference_dir"):
        if options[option] is not None:
            raise LimbeckError(f"--{option.replace('_', '-')} needs something to measure: add --all")
    evaluate_student(folder, split=split, data_root=data_root)


def _add_run_files(commands: _SubParsers) -> None:
    """Add the commands on the files of one run."""
    add = _command(
        commands,
        "diagnose",
        _diagnose,
        help="list likely problems of a run",
        description="Reads the files of the run; trains nothing, and reads no data.",
    )
    _add_run_arguments(add, data_root=False)
    text = "write a run's student as ONNX and check it against torch"
    add = _command(commands, "export", "limbeck.workflows.export_run:export_run", help=text)
    _add_run_arguments(add)
    add("--to", type=Path, dest="output_path", metavar="FILE", help="default: RUN/student.onnx")
    add("--int8", action="store_true", help="write a file of 8 bits too (.int8.onnx), calibrated on training samples")
    add = _command(
        commands,
        "predict",
        "limbeck.workflows.predict:predict",
        help="classify image files by the student of a run or an exported file",
        description="Prints file, rank, class and probability as CSV. The data of the run are not needed. Exit status "
        "1: an image could not be read.",
    )
    add("model", type=Path, metavar="RUN_OR_ONNX", help="a run folder, or a file of `limbeck export`")
    add("--trust", action="store_true", help=_TRUST_HELP)
    add("images", nargs="+", metavar="IMAGE", help="image files, folders of images, or globs in quotes")
    add("--top-k", type=int, default=1, metavar="K", help="classes of each image, the most probable first (default: 1)")
    add("--format", choices=("csv", "json"), dest="output_format", help="default: by the suffix of --out, else csv")
    add("--out", type=Path, dest="output_path", metavar="FILE", help="write a file instead of printing")
    add = _command(commands, "report", _report, help="write a run's report.html again from its record")
    _add_run_arguments(add, data_root=False)
    text = "write a run's model card (README.md) again from its record"
    add = _command(commands, "model-card", _model_card, help=text)
    _add_run_arguments(add, data_root=False)
    add("--license", default="other", metavar="ID", help="of the weights, by its name on the Hugging Face Hub")
    record = commands.add_parser("record", help="check a run's record and its hash, or print the schema of records")
    actions = record.add_subparsers(required=True, metavar="ACTION")
    text = "check that a record is valid and intact; exit status 1: it is not"
    _add_run_arguments(_command(actions, "check", _record_check, help=text), data_root=False)
    _command(actions, "schema", "limbeck.report:render_json_schema", help="print the JSON Schema of record.json")


def _diagnose(*, folder: Path) -> str:
    from limbeck.workflows.diagnose import diagnose_run

    return str(diagnose_run(folder))


def _report(*, folder: Path) -> None:
    from limbeck.report import integrity_warning, write_report

    print_text(write_report(folder))
    if warning := integrity_warning(folder):
        print_text(f"warning: {warning}", file=sys.stderr)


def _model_card(*, folder: Path, license: str) -> Path:
    from limbeck.report import write_model_card

    return write_model_card(folder, license=license)


def _record_check(*, folder: Path) -> int:
    from limbeck.report import check_record

    problems = check_record(folder)
    for problem in problems:
        print_text(problem, file=sys.stderr)
    if not problems:
        print_text(f"{folder}: record is intact (hash matches)")
    return int(bool(problems))


def _add_overviews(commands: _SubParsers) -> None:
    """Add the commands that compare runs and list what there is."""
    add = _command(
        commands,
        "compare",
        "limbeck.workflows.compare.run:compare",
        help="compare runs, or the variants of a study, on one page",
        description="Runs of one recipe with other seeds are seeds of the same variants. A study may still be running.",
    )
    add("folders", nargs="+", type=Path, metavar="RUN", help="folders of runs, or that of a study")
    add("--out", type=Path, dest="html", metavar="FILE.html", help="the page (default: compare.html)")
    add("--csv", type=Path, metavar="FILE", help="write the table in full precision as well")
    add("--markdown", type=Path, metavar="FILE", help="write the table for GitHub as well")
    add("--latex", type=Path, metavar="FILE", help="write the table for a paper (booktabs) as well")
    add("--baseline", metavar="NAME", help="model to compare with (default: the baseline, or the study's)")
    text = "show the runs and studies under a folder in a browser, live"
    add = _command(commands, "dashboard", "limbeck.dashboard:serve", help=text)
    add("folder", **_FOLDER)
    add("--port", type=int, default=8642, metavar="N", help="port on 127.0.0.1 (default: 8642)")
    text = "list the layers of a model whose features can be read"
    add = _command(commands, "layers", "limbeck.workflows.print_layers:print_layers", help=text)
    add(
        "model",
        metavar="MODEL",
        help="resnet20, torchvision:resnet18, timm:NAME, hf:FOLDER, or package.module:function",
    )
    add("--input", default="3x32x32", dest="shape", metavar="CxHxW", help="shape of one input (default: 3x32x32)")
    add("--plugin", action="append", default=[], dest="plugins", metavar="PACKAGE", help="a package of MODEL")
    text = "list every loss: what it compares, its paper, parameters, buffers and layers"
    add = _command(commands, "losses", "limbeck.workflows.list_losses:render_losses", help=text)
    add("--markdown", action="store_true", help="print docs/methods.md, with formulas and settings")


def _add_cache(commands: _SubParsers) -> None:
    cache = commands.add_parser("cache", help="fill, list, check or remove caches of teacher outputs")
    actions, module = cache.add_subparsers(required=True, metavar="ACTION"), "limbeck.workflows.teacher_cache"
    text = "compute the outputs of a recipe's teachers for every view of every image"
    add = _command(actions, "fill", f"{module}:populate_cache", help=text)
    _add_recipe_arguments(add)
    add("--batch-size", type=int, default=256, metavar="N", help="batch size (default: 256)")
    info = _command(actions, "info", f"{module}:print_caches", help="list all caches")
    verify = _command(actions, "verify", f"{module}:verify_caches", help="read and check every output")
    verify("keys", nargs="*", metavar="KEY", help="caches to check, by the start of their keys (default: all)")
    text = "remove caches: those named, those not used for long, or all"
    prune = _command(actions, "prune", f"{module}:prune_caches", help=text)
    prune("keys", nargs="*", metavar="KEY", help="the caches to remove, by the start of their keys")
    prune("--older-than", type=float, metavar="DAYS", help="caches that were not used for so many days")
    prune("--all", action="store_true", dest="all_caches", help="all of them")
    for add in (info, verify, prune):
        add("--root", metavar="DIR", help="default: $LIMBECK_CACHE, or ~/.cache/limbeck/teacher_outputs")


def _add_data(commands: _SubParsers) -> None:
    data = commands.add_parser("data", help="check the data of a recipe")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    add = _command(
        actions,
        "check",
        "limbeck.workflows.check_data:check_data",
        help="list unreadable files, duplicates, odd sizes and tiny classes; exit status 1: there are some",
        description="Reads every file of the data once, those of the test split too. Trains and downloads nothing.",
    )
    _add_recipe_arguments(add)
    add("--json", action="store_true", dest="as_json", help="print JSON in place of text")


def _add_recipe(commands: _SubParsers) -> None:
    recipe = commands.add_parser("recipe", help="check or show a recipe, or list those that come with limbeck")
    actions = recipe.add_subparsers(required=True, metavar="ACTION")
    text = "check that a recipe is valid, and that its networks run on its data"
    add = _command(actions, "check", "limbeck.workflows.check_recipe:check_recipe", help=text)
    _add_recipe_arguments(add)
    add = _command(actions, "show", _recipe_show, help="print it with every setting, defaults included")
    _add_recipe_arguments(add, data_root=False)
    _command(actions, "list", _recipe_list, help="the recipes that come with limbeck")
    text = "print docs/recipe-reference.md: every key with type, default and meaning"
    _command(actions, "reference", "limbeck.workflows.recipe_reference:recipe_reference", help=text)


def _recipe_show(*, recipe: str, overrides: list[str]) -> str:
    from limbeck.recipe import find_recipe, load_recipe, to_yaml

    return to_yaml(load_recipe(find_recipe(recipe), overrides))


def _recipe_list() -> str:
    from limbeck.recipe import list_recipes

    return "\n".join(f"{name:<36} {summary}" for name, summary in list_recipes())
