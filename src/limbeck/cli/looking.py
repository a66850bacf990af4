"""The commands that look at what was trained: evaluate, diagnose, compare, dashboard, report, model-card, record, export."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add them to the parser."""
    _add_evaluate(commands)
    _add_diagnose(commands)
    _add_compare(commands)
    _add_dashboard(commands)
    _add_export(commands)
    _add_report(commands)
    _add_model_card(commands)
    _add_record(commands)


def _add_evaluate(commands: SubParsers) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a run's networks again: attacked, corrupted, shifted, calibrated, in other runtimes",
        description="Without a flag of what to measure: the student's figures, on the validation split. With "
        "one or more: every network of the run side by side, into RUN/evaluation.json.",
    )
    evaluate.add_argument("folder", type=Path, metavar="RUN")
    evaluate.add_argument(
        "--split", choices=("validation", "test"), default="validation", help="the test split opens once in a run"
    )
    evaluate.add_argument("--data-root", metavar="DIR", help="where the data stands now, if it has moved")
    _add_metric_flags(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_diagnose(commands: SubParsers) -> None:
    diagnose = commands.add_parser(
        "diagnose",
        help="say in plain words what is likely wrong with a run",
        description="Reads what the run wrote down; trains nothing, and reads no data.",
    )
    diagnose.add_argument("folder", type=Path, metavar="RUN")
    diagnose.set_defaults(run=_diagnose)


def _add_metric_flags(evaluate: argparse.ArgumentParser) -> None:
    add_argument = evaluate.add_argument
    add_argument(
        "--all", action="store_true", dest="everything", help="all that needs no folder, and what a folder is given for"
    )
    add_argument(
        "--attacks", nargs="?", const="", metavar="NAMES",
        help="accuracy under attack: fgsm,pgd,apgd (default: all that are installed)",
    )  # fmt: skip
    add_argument("--eps", metavar="E", help="the largest change of a pixel in 0..1 under attack (default: 8/255)")
    add_argument("--corruptions", action="store_true", help="accuracy under 15 common corruptions in 5 severities")
    add_argument("--noise", action="store_true", help="accuracy under Gaussian noise, more and more")
    add_argument(
        "--shifted-dir",
        type=Path,
        metavar="DIR",
        help="accuracy on other pictures of the same classes, one folder a class",
    )
    add_argument(
        "--reference-dir",
        type=Path,
        metavar="DIR",
        help="the pictures of --shifted-dir before they were shifted, by the same names",
    )
    add_argument(
        "--ood",
        nargs="?",
        const="noise",
        metavar="DIR",
        help="tell pictures of DIR, or noise, from those of the classes",
    )
    add_argument("--calibration", action="store_true", help="ECE and NLL before and after temperature scaling")
    add_argument(
        "--efficiency", action="store_true", help="latency, size and accuracy in torch, onnxruntime and OpenVINO"
    )
    add_argument(
        "--num-samples", type=int, metavar="N", help="pictures to attack, corrupt and make noisy (default: 1000)"
    )


def _add_compare(commands: SubParsers) -> None:
    compare = commands.add_parser(
        "compare",
        help="put runs, or the variants of a study, beside each other on one page",
        description="Runs of one recipe with other seeds are seeds of the same variants. A study may still be running.",
    )
    compare.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folders of runs, or that of a study")
    compare.add_argument("--out", type=Path, metavar="FILE.html", help="the page (default: compare.html)")
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write the table with every figure in full as well")
    compare.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for GitHub as well")
    compare.add_argument("--latex", type=Path, metavar="FILE", help="write the table for a paper (booktabs) as well")
    compare.add_argument(
        "--baseline", metavar="NAME", help="what to compare with (default: the baseline, or as the study says)"
    )
    compare.set_defaults(run=_compare)


def _add_dashboard(commands: SubParsers) -> None:
    dashboard = commands.add_parser("dashboard", help="show the runs and studies under a folder in a browser, live")
    dashboard.add_argument("folder", type=Path, metavar="DIR")
    dashboard.add_argument("--port", type=int, default=8642, metavar="N", help="of 127.0.0.1 (default: 8642)")
    dashboard.set_defaults(run=_dashboard)


def _add_export(commands: SubParsers) -> None:
    export = commands.add_parser("export", help="write a run's student as ONNX and check it against torch")
    export.add_argument("folder", type=Path, metavar="RUN")
    export.add_argument("--to", type=Path, metavar="FILE", help="where to (default: RUN/student.onnx)")
    export.add_argument("--data-root", metavar="DIR", help="where the data stands now, if it has moved")
    export.set_defaults(run=_export)


def _add_report(commands: SubParsers) -> None:
    report = commands.add_parser("report", help="write a run's report.html again from its record")
    report.add_argument("folder", type=Path, metavar="RUN")
    report.set_defaults(run=_report)


def _add_model_card(commands: SubParsers) -> None:
    model_card = commands.add_parser("model-card", help="write a run's model card (README.md) again from its record")
    model_card.add_argument("folder", type=Path, metavar="RUN")
    model_card.add_argument(
        "--license",
        default="other",
        metavar="ID",
        help="of the weights, as the Hub spells it (apache-2.0); yours to say",
    )
    model_card.set_defaults(run=_model_card)


def _add_record(commands: SubParsers) -> None:
    record = commands.add_parser("record", help="check a run's record and its hash, or print the schema of records")
    actions = record.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="say whether a record is valid and intact; exit status 1: it is not")
    check.add_argument("folder", type=Path, metavar="RUN")
    check.set_defaults(run=_record_check)
    actions.add_parser("schema", help="print the JSON Schema of record.json").set_defaults(run=_record_schema)


def _diagnose(options: argparse.Namespace) -> None:
    from limbeck.workflows.diagnose import diagnose

    diagnose(options.folder)


def _evaluate(options: argparse.Namespace) -> None:
    checks = [
        name
        for name, is_requested in (
            ("attacks", options.attacks is not None or options.everything),
            ("corruptions", options.corruptions or options.everything),
            ("noise", options.noise or options.everything),
            ("shift", options.shifted_dir is not None),
            ("ood", options.ood is not None or options.everything),
            ("calibration", options.calibration or options.everything),
            ("efficiency", options.efficiency or options.everything),
        )
        if is_requested
    ]
    if checks:
        from limbeck.workflows.evaluate.run import DEFAULT_NUM_SAMPLES, evaluate_networks

        evaluate_networks(
            options.folder, checks, split=options.split, data_root=options.data_root, attacks=options.attacks or None,
            eps=options.eps, num_samples=DEFAULT_NUM_SAMPLES if options.num_samples is None else options.num_samples,
            shifted_dir=options.shifted_dir, reference_dir=options.reference_dir, ood=options.ood,
        )  # fmt: skip
        return
    for option, value in (
        ("--eps", options.eps), ("--num-samples", options.num_samples), ("--reference-dir", options.reference_dir)
    ):  # fmt: skip
        if value is not None:
            raise LimbeckError(f"{option} says how to measure, and nothing to measure is asked for: add --all, say")
    from limbeck.workflows.revisit import evaluate_run

    evaluate_run(options.folder, split=options.split, data_root=options.data_root)


def _compare(options: argparse.Namespace) -> None:
    from limbeck.workflows.compare.run import compare

    compare(
        options.folders, html=options.out, csv=options.csv, markdown=options.markdown, latex=options.latex,
        baseline=options.baseline,
    )  # fmt: skip


def _dashboard(options: argparse.Namespace) -> None:
    from limbeck.dashboard import serve

    serve(options.folder, port=options.port)


def _export(options: argparse.Namespace) -> None:
    from limbeck.workflows.revisit import export_run

    export_run(options.folder, output_path=options.to, data_root=options.data_root)


def _report(options: argparse.Namespace) -> None:
    from limbeck.report import integrity_warning, write_report

    print(write_report(options.folder))  # noqa: T201
    if warning := integrity_warning(options.folder):
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201


def _model_card(options: argparse.Namespace) -> None:
    from limbeck.report import write_model_card

    print(write_model_card(options.folder, license=options.license))  # noqa: T201


def _record_check(options: argparse.Namespace) -> int:
    from limbeck.report import check_record

    problems = check_record(options.folder)
    for sentence in problems:
        print(sentence, file=sys.stderr)  # noqa: T201
    if not problems:
        print(f"{options.folder}: record is intact (hash matches)")  # noqa: T201
    return int(bool(problems))


def _record_schema(options: argparse.Namespace) -> None:
    from limbeck.report import render_json_schema

    print(render_json_schema(), end="")  # noqa: T201
