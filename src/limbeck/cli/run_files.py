"""Commands on the files of one run: diagnose, export, report, model-card, record."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add the commands to the parser."""
    _add_diagnose(commands)
    _add_export(commands)
    _add_report(commands)
    _add_model_card(commands)
    _add_record(commands)


def _add_diagnose(commands: SubParsers) -> None:
    diagnose = commands.add_parser(
        "diagnose",
        help="list likely problems of a run",
        description="Reads the files of the run; trains nothing, and reads no data.",
    )
    diagnose.add_argument("folder", type=Path, metavar="RUN")
    diagnose.set_defaults(run=_diagnose)


def _diagnose(options: argparse.Namespace) -> None:
    from limbeck.workflows.diagnose import diagnose

    diagnose(options.folder)


def _add_export(commands: SubParsers) -> None:
    export = commands.add_parser("export", help="write a run's student as ONNX and check it against torch")
    export.add_argument("folder", type=Path, metavar="RUN")
    export.add_argument("--to", type=Path, metavar="FILE", help="output file (default: RUN/student.onnx)")
    export.add_argument("--data-root", metavar="DIR", help="root folder of the data, if it has moved")
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> None:
    from limbeck.workflows.revisit import export_run

    export_run(options.folder, output_path=options.to, data_root=options.data_root)


def _add_report(commands: SubParsers) -> None:
    report = commands.add_parser("report", help="write a run's report.html again from its record")
    report.add_argument("folder", type=Path, metavar="RUN")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from limbeck.report import integrity_warning, write_report

    print(write_report(options.folder))  # noqa: T201
    if warning := integrity_warning(options.folder):
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201


def _add_model_card(commands: SubParsers) -> None:
    model_card = commands.add_parser("model-card", help="write a run's model card (README.md) again from its record")
    model_card.add_argument("folder", type=Path, metavar="RUN")
    model_card.add_argument(
        "--license",
        default="other",
        metavar="ID",
        help="license of the weights, as on the Hugging Face Hub (apache-2.0)",
    )
    model_card.set_defaults(run=_model_card)


def _model_card(options: argparse.Namespace) -> None:
    from limbeck.report import write_model_card

    print(write_model_card(options.folder, license=options.license))  # noqa: T201


def _add_record(commands: SubParsers) -> None:
    record = commands.add_parser("record", help="check a run's record and its hash, or print the schema of records")
    actions = record.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="check that a record is valid and intact; exit status 1: it is not")
    check.add_argument("folder", type=Path, metavar="RUN")
    check.set_defaults(run=_record_check)
    actions.add_parser("schema", help="print the JSON Schema of record.json").set_defaults(run=_record_schema)


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
