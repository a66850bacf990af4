"""The commands that look at what was trained: evaluate, diagnose, compare, board, report, card, record, export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.cli import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add them to the parser."""
    _add_evaluate(commands)
    _add_diagnose(commands)
    _add_compare(commands)
    _add_board(commands)
    _add_export(commands)
    _add_report(commands)
    _add_card(commands)
    _add_record(commands)


def _add_evaluate(commands: Commands) -> None:
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


def _add_diagnose(commands: Commands) -> None:
    diagnose = commands.add_parser(
        "diagnose",
        help="say in plain words what is likely wrong with a run",
        description="Reads what the run wrote down; trains nothing, and reads no data.",
    )
    diagnose.add_argument("folder", type=Path, metavar="RUN")
    diagnose.set_defaults(run=_diagnose)


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


def _add_compare(commands: Commands) -> None:
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


def _add_board(commands: Commands) -> None:
    board = commands.add_parser("board", help="show the runs and studies under a folder in a browser, live")
    board.add_argument("folder", type=Path, metavar="DIR")
    board.add_argument("--port", type=int, default=8642, metavar="N", help="of 127.0.0.1 (default: 8642)")
    board.set_defaults(run=_board)


def _add_export(commands: Commands) -> None:
    export = commands.add_parser("export", help="write a run's student as ONNX and check it against torch")
    export.add_argument("folder", type=Path, metavar="RUN")
    export.add_argument("--to", type=Path, metavar="FILE", help="where to (default: RUN/student.onnx)")
    export.add_argument("--data-root", metavar="DIR", help="where the data stands now, if it has moved")
    export.set_defaults(run=_export)


def _add_report(commands: Commands) -> None:
    report = commands.add_parser("report", help="write a run's report.html again from its record")
    report.add_argument("folder", type=Path, metavar="RUN")
    report.set_defaults(run=_report)


def _add_card(commands: Commands) -> None:
    card = commands.add_parser("card", help="write a run's model card (README.md) again from its record")
    card.add_argument("folder", type=Path, metavar="RUN")
    card.add_argument(
        "--license",
        default="other",
        metavar="ID",
        help="of the weights, as the Hub spells it (apache-2.0); yours to say",
    )
    card.set_defaults(run=_card)


def _add_record(commands: Commands) -> None:
    record = commands.add_parser("record", help="check a run's record and its hash, or print the schema of records")
    acts = record.add_subparsers(required=True, metavar="ACTION")
    act = acts.add_parser("check", help="say whether a record is sound and as it was written; exit status 1: it is not")
    act.add_argument("folder", type=Path, metavar="RUN")
    act.set_defaults(run=_record_check)
    acts.add_parser("schema", help="print the JSON Schema of record.json").set_defaults(run=_record_schema)


def _diagnose(options: argparse.Namespace) -> None:
    from limbeck.workflows.diagnose import diagnose

    diagnose(options.folder)


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
        from limbeck.workflows.evaluate.run import EXAMPLES, examine

        examine(
            options.folder, what, part=options.part, data_root=options.data_root, attacks=options.attacks or None,
            eps=options.eps, examples=EXAMPLES if options.examples is None else options.examples,
            shifted=options.shift, twin=options.twin, outside=options.ood,
        )  # fmt: skip
        return
    for name in ("eps", "examples", "twin"):
        if getattr(options, name) is not None:
            raise LimbeckError(f"--{name} says how to measure, and nothing to measure is asked for: add --all, say")
    from limbeck.workflows.revisit import evaluate

    evaluate(options.folder, part=options.part, data_root=options.data_root)


def _compare(options: argparse.Namespace) -> None:
    from limbeck.workflows.compare.run import compare

    compare(
        options.folders, out=options.out, csv=options.csv, markdown=options.markdown, latex=options.latex,
        against=options.against,
    )  # fmt: skip


def _board(options: argparse.Namespace) -> None:
    from limbeck.dashboard import serve

    serve(options.folder, port=options.port)


def _export(options: argparse.Namespace) -> None:
    from limbeck.workflows.revisit import export

    export(options.folder, to=options.to, data_root=options.data_root)


def _report(options: argparse.Namespace) -> None:
    from limbeck.report import changed, write_report

    print(write_report(options.folder))  # noqa: T201
    if doubt := changed(options.folder):
        print(f"warning: {doubt}", file=sys.stderr)  # noqa: T201


def _card(options: argparse.Namespace) -> None:
    from limbeck.report import write_card

    print(write_card(options.folder, license=options.license))  # noqa: T201


def _record_check(options: argparse.Namespace) -> int:
    from limbeck.report import check_record

    wrong = check_record(options.folder)
    for sentence in wrong:
        print(sentence, file=sys.stderr)  # noqa: T201
    if not wrong:
        print(f"{options.folder} is as it was written, and sound")  # noqa: T201
    return int(bool(wrong))


def _record_schema(options: argparse.Namespace) -> None:
    from limbeck.report import schema_text

    print(schema_text(), end="")  # noqa: T201
