"""The commands that train: distill, study, select-teachers, reproduce."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add them to the parser."""
    _add_distill(commands)
    _add_study(commands)
    _add_select_teachers(commands)
    _add_reproduce(commands)


def _add_distill(commands: SubParsers) -> None:
    distill = commands.add_parser(
        "distill",
        help="train a student with its teachers, measure it against itself alone, export, report",
        description="Without a recipe: digits, the embedded data. KEY=VALUE changes a setting: student.width=16",
    )
    distill.add_argument("recipe", nargs="?", metavar="RECIPE", help="a YAML file, or a name of `limbeck recipe list`")
    distill.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the recipe")
    distill.add_argument(
        "--out", type=Path, metavar="DIR", help="the run folder (default: runs/NAME, numbered if taken)"
    )
    distill.add_argument("--seed", type=int, metavar="N", help="replaces the recipe's seed")
    distill.add_argument(
        "--resume", action="store_true", help="go on with the run in --out (or the newest of its name)"
    )
    distill.add_argument("--data-root", metavar="DIR", help="where the data stands; the same as data.root=DIR")
    distill.set_defaults(run=_distill)


def _add_study(commands: SubParsers) -> None:
    study = commands.add_parser(
        "study",
        help="did it help: a recipe's variants and matched baselines over several seeds, with intervals and a verdict",
        description="Trains the teacher, the student alone (for equal steps, for equal wall time, with label "
        "smoothing), the recipe and its `study: {variants: ...}`, each with every seed. The test part opens once in each.",
    )
    study.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a name of `limbeck recipe list`")
    study.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the recipe")
    study.add_argument("--seeds", type=int, metavar="N", help="how many seeds, from 0 (default: the recipe's, or 5)")
    study.add_argument("--jobs", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    study.add_argument(
        "--out", type=Path, metavar="DIR", help="its folder (default: runs/NAME-study, numbered if taken)"
    )
    study.add_argument(
        "--resume", action="store_true", help="go on with the study in --out; new variants and seeds join"
    )
    study.add_argument(
        "--storage", metavar="URL", help="a database for the queue, which several machines name alike (default: a file)"
    )
    study.add_argument("--data-root", metavar="DIR", help="where the data stands; the same as data.root=DIR")
    study.set_defaults(run=_study)


def _add_select_teachers(commands: SubParsers) -> None:
    teachers = commands.add_parser(
        "select-teachers",
        help="measure a recipe's teachers on the validation split and choose among them",
        description="Candidates are the recipe's teachers; the test split stays shut. Writes teacher_selection.json and "
        "teacher_selection.svg.",
    )
    teachers.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a name of `limbeck recipe list`")
    teachers.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the recipe")
    teachers.add_argument(
        "--latency-budget", type=float, metavar="MS",
        help="ms a picture for all teachers together (default: 30 times the student's)",
    )  # fmt: skip
    teachers.add_argument(
        "--margin", type=float, default=5.0, metavar="POINTS", help="how far above the student alone (default: 5)"
    )
    teachers.add_argument(
        "--out", type=Path, metavar="DIR", help="where to (default: runs/NAME-teachers); what is trained there is kept"
    )
    teachers.add_argument(
        "--baseline-run", type=Path, metavar="RUN", help="a finished run to take the student alone from"
    )
    teachers.set_defaults(run=_select_teachers)


def _add_reproduce(commands: SubParsers) -> None:
    reproduce = commands.add_parser(
        "reproduce",
        help="repeat a run from its record, and say whether the figures agree",
        description="Trains all of it again in a new folder. Exit status 0: the figures agree; 1: they do not.",
    )
    reproduce.add_argument("folder", type=Path, metavar="RUN")
    reproduce.add_argument(
        "--out", type=Path, metavar="DIR", help="the new folder (default: RUN-reproduce, numbered if taken)"
    )
    reproduce.add_argument(
        "--tolerance", type=float, default=0.005, metavar="SHARE",
        help="how far a figure may differ and still agree (default: 0.005, half a point of accuracy)",
    )  # fmt: skip
    reproduce.add_argument("--data-root", metavar="DIR", help="where the data stands now, if it has moved")
    reproduce.add_argument("--resume", action="store_true", help="go on with a repetition in --out that was stopped")
    reproduce.set_defaults(run=_reproduce)


def _distill(options: argparse.Namespace) -> None:
    from limbeck.workflows.distill.run import distill

    settings, name = list(options.settings), options.recipe
    if name is not None and "=" in name and not Path(name).exists():
        settings, name = [name, *settings], None
    if options.data_root is not None:
        settings.append(f"data.root={options.data_root}")
    if options.seed is not None:
        settings.append(f"seed={options.seed}")
    distill(name, settings, run_dir=options.out, resume=options.resume)


def _study(options: argparse.Namespace) -> None:
    from limbeck.workflows.study.run import study

    root = [] if options.data_root is None else [f"data.root={options.data_root}"]
    study(
        options.recipe, [*options.settings, *root], seeds=options.seeds, jobs=options.jobs, output_dir=options.out,
        resume=options.resume, storage=options.storage,
    )  # fmt: skip


def _select_teachers(options: argparse.Namespace) -> None:
    from limbeck.workflows.select_teachers.run import select_teachers

    select_teachers(
        options.recipe, options.settings, latency_budget=options.latency_budget, margin=options.margin, output_dir=options.out,
        baseline_run=options.baseline_run,
    )  # fmt: skip


def _reproduce(options: argparse.Namespace) -> int:
    from limbeck.workflows.reproduce.run import reproduce

    if options.resume and options.out is None:
        raise LimbeckError("--resume goes on with the repetition in --out: give its folder")
    result = reproduce(
        options.folder,
        output_dir=options.out,
        tolerance=options.tolerance,
        data_root=options.data_root,
        resume=options.resume,
    )
    return int(result["match"] == "different")
