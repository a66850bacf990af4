"""The commands. Nothing heavy is imported before a command is known, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from limbeck._version import __version__
from limbeck.core.errors import LimbeckError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status: 0 done, 2 a mistake in what was given, 128 + n stopped by signal n."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no positional words after an option; settings may stand anywhere.
    if rest and not (hasattr(options, "settings") and all("=" in word and word[0] != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.settings = [*options.settings, *rest]
    try:
        status: int = options.run(options) or 0
    except LimbeckError as error:
        if not getattr(error, "told", False):
            _say(f"limbeck{_which()}: {error}")
        return 128 + int(getattr(error, "signal", -126))
    except KeyboardInterrupt:
        if not _which():
            _say("limbeck: stopped by SIGINT; whatever was finished is kept, and --resume goes on from there")
        return 130
    except BrokenPipeError:
        return 141
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="limbeck",
        description="Knowledge distillation from theory to deployment. Start with: limbeck distill",
    )
    parser.add_argument("--version", action="version", version=f"limbeck {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

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

    study = commands.add_parser(
        "study",
        help="did it help: a recipe's arms and matched controls over several seeds, with intervals and a verdict",
        description="Trains the teacher, the student alone (for equal steps, for equal wall time, with label "
        "smoothing), the recipe and its `study: {arms: ...}`, each with every seed. The test part opens once in each.",
    )
    study.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a name of `limbeck recipe list`")
    study.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the recipe")
    study.add_argument("--seeds", type=int, metavar="N", help="how many seeds, from 0 (default: the recipe's, or 5)")
    study.add_argument("--jobs", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    study.add_argument(
        "--out", type=Path, metavar="DIR", help="its folder (default: runs/NAME-study, numbered if taken)"
    )
    study.add_argument("--resume", action="store_true", help="go on with the study in --out; new arms and seeds join")
    study.add_argument(
        "--storage", metavar="URL", help="a database for the queue, which several machines name alike (default: a file)"
    )
    study.add_argument("--data-root", metavar="DIR", help="where the data stands; the same as data.root=DIR")
    study.set_defaults(run=_study)

    teachers = commands.add_parser(
        "teachers",
        help="measure a recipe's teachers on the validation part and choose among them",
        description="Candidates are the recipe's teachers; the test part stays shut. Writes teachers.json and "
        "teachers.svg.",
    )
    teachers.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a name of `limbeck recipe list`")
    teachers.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the recipe")
    teachers.add_argument(
        "--budget", type=float, metavar="MS",
        help="ms a picture for all teachers together (default: 30 times the student's)",
    )  # fmt: skip
    teachers.add_argument(
        "--margin", type=float, default=5.0, metavar="POINTS", help="how far above the student alone (default: 5)"
    )
    teachers.add_argument(
        "--out", type=Path, metavar="DIR", help="where to (default: runs/NAME-teachers); what is trained there is kept"
    )
    teachers.add_argument("--alone", type=Path, metavar="RUN", help="a finished run to take the student alone from")
    teachers.set_defaults(run=_teachers)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a run's networks again: attacked, corrupted, shifted, calibrated, in other runtimes",
        description="Without a flag of what to measure: the student's figures, on the validation part. With "
        "one or more: every network of the run side by side, into RUN/evaluation.json.",
    )
    evaluate.add_argument("folder", type=Path, metavar="RUN")
    evaluate.add_argument(
        "--part", choices=("validation", "test"), default="validation", help="the test part opens once in a run"
    )
    evaluate.add_argument("--data-root", metavar="DIR", help="where the data stands now, if it has moved")
    _add_measures(evaluate)
    evaluate.set_defaults(run=_evaluate)

    diagnose = commands.add_parser(
        "diagnose",
        help="say in plain words what is likely wrong with a run",
        description="Reads what the run wrote down; trains nothing, and reads no data.",
    )
    diagnose.add_argument("folder", type=Path, metavar="RUN")
    diagnose.set_defaults(run=_diagnose)

    export = commands.add_parser("export", help="write a run's student as ONNX and check it against torch")
    export.add_argument("folder", type=Path, metavar="RUN")
    export.add_argument("--to", type=Path, metavar="FILE", help="where to (default: RUN/student.onnx)")
    export.add_argument("--data-root", metavar="DIR", help="where the data stands now, if it has moved")
    export.set_defaults(run=_export)

    report = commands.add_parser("report", help="write a run's report.html again from its record")
    report.add_argument("folder", type=Path, metavar="RUN")
    report.set_defaults(run=_report)

    card = commands.add_parser("card", help="write a run's model card (README.md) again from its record")
    card.add_argument("folder", type=Path, metavar="RUN")
    card.add_argument(
        "--license",
        default="other",
        metavar="ID",
        help="of the weights, as the Hub spells it (apache-2.0); yours to say",
    )
    card.set_defaults(run=_card)

    rerun = commands.add_parser(
        "rerun",
        help="repeat a run from its record, and say whether the figures agree",
        description="Trains all of it again in a new folder. Exit status 0: the figures agree; 1: they do not.",
    )
    rerun.add_argument("folder", type=Path, metavar="RUN")
    rerun.add_argument("--out", type=Path, metavar="DIR", help="the new folder (default: RUN-rerun, numbered if taken)")
    rerun.add_argument(
        "--tolerance", type=float, default=0.005, metavar="SHARE",
        help="how far a figure may differ and still agree (default: 0.005, half a point of accuracy)",
    )  # fmt: skip
    rerun.add_argument("--data-root", metavar="DIR", help="where the data stands now, if it has moved")
    rerun.add_argument("--resume", action="store_true", help="go on with a repetition in --out that was stopped")
    rerun.set_defaults(run=_rerun)

    record = commands.add_parser("record", help="check a run's record and its hash, or print the schema of records")
    acts = record.add_subparsers(required=True, metavar="ACTION")
    act = acts.add_parser("check", help="say whether a record is sound and as it was written; exit status 1: it is not")
    act.add_argument("folder", type=Path, metavar="RUN")
    act.set_defaults(run=_record_check)
    acts.add_parser("schema", help="print the JSON Schema of record.json").set_defaults(run=_record_schema)

    compare = commands.add_parser(
        "compare",
        help="put runs, or the arms of a study, beside each other on one page",
        description="Runs of one recipe with other seeds are seeds of the same arms. A study may still be running.",
    )
    compare.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folders of runs, or that of a study")
    compare.add_argument("--out", type=Path, metavar="FILE.html", help="the page (default: compare.html)")
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write the table with every figure in full as well")
    compare.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for GitHub as well")
    compare.add_argument("--latex", type=Path, metavar="FILE", help="write the table for a paper (booktabs) as well")
    compare.add_argument("--against", metavar="ARM", help="what to compare with (default: alone, or as the study says)")
    compare.set_defaults(run=_compare)

    board = commands.add_parser("board", help="show the runs and studies under a folder in a browser, live")
    board.add_argument("folder", type=Path, metavar="DIR")
    board.add_argument("--port", type=int, default=8642, metavar="N", help="of 127.0.0.1 (default: 8642)")
    board.set_defaults(run=_board)

    taps = commands.add_parser("taps", help="list the places in a model where features can be read")
    taps.add_argument("model", metavar="MODEL", help="resnet20, torchvision:resnet18, timm:vit_tiny_patch16_224, or "
                      "package.module:function with --plugin package")  # fmt: skip
    taps.add_argument("--input", default="3x32x32", metavar="CxHxW", help="the shape of one input (default: 3x32x32)")
    taps.add_argument("--plugin", action="append", default=[], metavar="PACKAGE", help="a package MODEL may come from")
    taps.set_defaults(run=_taps)

    cache = commands.add_parser("cache", help="fill, list, check or remove caches of teachers' answers")
    acts = cache.add_subparsers(required=True, metavar="ACTION")
    act = acts.add_parser("fill", help="ask a recipe's teachers about every view of every picture, ahead of all runs")
    act.add_argument("recipe", metavar="RECIPE")
    act.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    act.add_argument("--batch", type=int, default=256, metavar="N", help="pictures asked about at once (default: 256)")
    act.add_argument("--data-root", metavar="DIR", help="where the data stands; the same as data.root=DIR")
    act.set_defaults(run=_cache_fill)
    act = acts.add_parser("info", help="list the caches there are")
    act.set_defaults(run=_cache_info, keys=())
    check = acts.add_parser("verify", help="read every answer and check it")
    check.add_argument("keys", nargs="*", metavar="KEY", help="the caches to check, by the start of their keys; all")
    check.set_defaults(run=_cache_verify)
    gone = acts.add_parser("prune", help="remove caches: those named, those not used for long, or all")
    gone.add_argument("keys", nargs="*", metavar="KEY", help="the caches to remove, by the start of their keys")
    gone.add_argument("--older", type=float, metavar="DAYS", help="those that were not used for so many days")
    gone.add_argument("--all", action="store_true", dest="everything", help="all of them")
    gone.set_defaults(run=_cache_prune)
    for one in (act, check, gone):
        one.add_argument(
            "--root", metavar="DIR", help="the folder of all caches ($LIMBECK_CACHE, ~/.cache/limbeck/answers)"
        )

    recipe = commands.add_parser("recipe", help="check or show a recipe, or list those that come with limbeck")
    acts = recipe.add_subparsers(required=True, metavar="ACTION")
    for name, does in (("check", "say whether a recipe is sound"), ("show", "print it with every setting filled in")):
        act = acts.add_parser(name, help=does)
        act.add_argument("recipe", metavar="FILE")
        act.add_argument("settings", nargs="*", metavar="KEY=VALUE")
        act.set_defaults(run=_recipe_check if name == "check" else _recipe_show)
    acts.add_parser("list", help="the recipes that come with limbeck").set_defaults(run=_recipe_list)
    return parser


def _add_measures(evaluate: argparse.ArgumentParser) -> None:
    say = evaluate.add_argument
    say(
        "--all", action="store_true", dest="everything", help="all that needs no folder, and what a folder is given for"
    )
    say(
        "--attacks", nargs="?", const="", metavar="NAMES",
        help="accuracy under attack: fgsm,pgd,apgd (default: all that are installed)",
    )  # fmt: skip
    say("--eps", metavar="E", help="the largest change of a pixel in 0..1 under attack (default: 8/255)")
    say("--corruptions", action="store_true", help="accuracy under 15 common corruptions in 5 severities")
    say("--noise", action="store_true", help="accuracy under Gaussian noise, more and more")
    say("--shift", type=Path, metavar="DIR", help="accuracy on other pictures of the same classes, one folder a class")
    say("--twin", type=Path, metavar="DIR", help="the pictures of --shift before they were shifted, by the same names")
    say(
        "--ood",
        nargs="?",
        const="noise",
        metavar="DIR",
        help="tell pictures of DIR, or noise, from those of the classes",
    )
    say("--calibration", action="store_true", help="ECE and NLL before and after temperature scaling")
    say("--efficiency", action="store_true", help="latency, size and accuracy in torch, onnxruntime and OpenVINO")
    say("--examples", type=int, metavar="N", help="pictures to attack, corrupt and make noisy (default: 1000)")


def _distill(options: argparse.Namespace) -> None:
    from limbeck.programs.distill import distill

    settings, name = list(options.settings), options.recipe
    if name is not None and "=" in name and not Path(name).exists():
        settings, name = [name, *settings], None
    if options.data_root is not None:
        settings.append(f"data.root={options.data_root}")
    if options.seed is not None:
        settings.append(f"seed={options.seed}")
    distill(name, settings, out=options.out, resume=options.resume)


def _study(options: argparse.Namespace) -> None:
    from limbeck.programs.study import study

    root = [] if options.data_root is None else [f"data.root={options.data_root}"]
    study(
        options.recipe, [*options.settings, *root], seeds=options.seeds, jobs=options.jobs, out=options.out,
        resume=options.resume, storage=options.storage,
    )  # fmt: skip


def _teachers(options: argparse.Namespace) -> None:
    from limbeck.programs.teachers import teachers

    teachers(
        options.recipe, options.settings, budget=options.budget, margin=options.margin, out=options.out,
        alone=options.alone,
    )  # fmt: skip


def _evaluate(options: argparse.Namespace) -> None:
    what = [
        name
        for name, given in (
            ("attacks", options.attacks is not None or options.everything),
            ("corruptions", options.corruptions or options.everything),
            ("noise", options.noise or options.everything),
            ("shift", options.shift is not None),
            ("ood", options.ood is not None or options.everything),
            ("calibration", options.calibration or options.everything),
            ("efficiency", options.efficiency or options.everything),
        )
        if given
    ]
    if what:
        from limbeck.programs.examine import EXAMPLES, examine

        examine(
            options.folder, what, part=options.part, data_root=options.data_root, attacks=options.attacks or None,
            eps=options.eps, examples=EXAMPLES if options.examples is None else options.examples,
            shifted=options.shift, twin=options.twin, outside=options.ood,
        )  # fmt: skip
        return
    for name in ("eps", "examples", "twin"):
        if getattr(options, name) is not None:
            raise LimbeckError(f"--{name} says how to measure, and nothing to measure is asked for: add --all, say")
    from limbeck.programs.revisit import evaluate

    evaluate(options.folder, part=options.part, data_root=options.data_root)


def _diagnose(options: argparse.Namespace) -> None:
    from limbeck.programs.diagnose import diagnose

    diagnose(options.folder)


def _export(options: argparse.Namespace) -> None:
    from limbeck.programs.revisit import export

    export(options.folder, to=options.to, data_root=options.data_root)


def _report(options: argparse.Namespace) -> None:
    from limbeck.report import changed, write_report

    print(write_report(options.folder))  # noqa: T201
    if doubt := changed(options.folder):
        _say(f"warning: {doubt}")


def _card(options: argparse.Namespace) -> None:
    from limbeck.report import write_card

    print(write_card(options.folder, license=options.license))  # noqa: T201


def _rerun(options: argparse.Namespace) -> int:
    from limbeck.programs.rerun import rerun

    if options.resume and options.out is None:
        raise LimbeckError("--resume goes on with the repetition in --out: give its folder")
    found = rerun(
        options.folder, out=options.out, tolerance=options.tolerance, data_root=options.data_root, resume=options.resume
    )
    return int(found["agrees"] == "not")


def _record_check(options: argparse.Namespace) -> int:
    from limbeck.report import check_record

    wrong = check_record(options.folder)
    for sentence in wrong:
        _say(sentence)
    if not wrong:
        print(f"{options.folder} is as it was written, and sound")  # noqa: T201
    return int(bool(wrong))


def _record_schema(options: argparse.Namespace) -> None:
    from limbeck.report import schema_text

    print(schema_text(), end="")  # noqa: T201


def _compare(options: argparse.Namespace) -> None:
    from limbeck.programs.compare import compare

    compare(
        options.folders, out=options.out, csv=options.csv, markdown=options.markdown, latex=options.latex,
        against=options.against,
    )  # fmt: skip


def _board(options: argparse.Namespace) -> None:
    from limbeck.board import serve

    serve(options.folder, port=options.port)


def _taps(options: argparse.Namespace) -> None:
    from limbeck.programs.revisit import taps

    taps(options.model, options.input, plugins=options.plugin)


def _cache_fill(options: argparse.Namespace) -> None:
    from limbeck.programs.cache import fill

    root = [] if options.data_root is None else [f"data.root={options.data_root}"]
    fill(options.recipe, [*options.settings, *root], batch=options.batch)


def _cache_info(options: argparse.Namespace) -> None:
    from limbeck.programs.cache import info

    info(options.root)


def _cache_verify(options: argparse.Namespace) -> None:
    from limbeck.programs.cache import verify

    verify(options.keys, options.root)


def _cache_prune(options: argparse.Namespace) -> None:
    from limbeck.programs.cache import prune

    prune(options.keys, older=options.older, everything=options.everything, root=options.root)


def _recipe_check(options: argparse.Namespace) -> None:
    from limbeck.recipe import check, find, load

    recipe = load(find(options.recipe), options.settings)
    check(recipe)
    print(f"{options.recipe} is sound")  # noqa: T201


def _recipe_show(options: argparse.Namespace) -> None:
    from limbeck.recipe import find, load, show

    print(show(load(find(options.recipe), options.settings)), end="")  # noqa: T201


def _recipe_list(options: argparse.Namespace) -> None:
    from limbeck.recipe import listing

    for name, first in listing():
        print(f"{name:<36} {first}")  # noqa: T201


def _which() -> str:
    """Which process speaks, where it is not the first of those that torchrun started."""
    rank = os.environ.get("RANK", "0") if int(os.environ.get("WORLD_SIZE") or 1) > 1 else "0"
    return "" if rank == "0" else f" (process {rank})"


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
