"""``limbeck evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add the command to the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a run's models: under attack, corruption and shift, calibration, other runtimes",
        description="Without a flag of what to measure: the student's metrics on the validation split. With "
        "one or more: every model of the run, into RUN/evaluation.json.",
    )
    evaluate.add_argument("folder", type=Path, metavar="RUN")
    evaluate.add_argument(
        "--split", choices=("validation", "test"), default="validation", help="the test split is read once in a run"
    )
    evaluate.add_argument("--data-root", metavar="DIR", help="root folder of the data, if it has moved")
    _add_metric_flags(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _add_metric_flags(evaluate: argparse.ArgumentParser) -> None:
    add_argument = evaluate.add_argument
    add_argument(
        "--all",
        action="store_true",
        dest="everything",
        help="everything that needs no folder, and what a folder is given for",
    )
    add_argument(
        "--attacks", nargs="?", const="", metavar="NAMES",
        help="accuracy under attack: fgsm,pgd,apgd (default: all that are installed)",
    )  # fmt: skip
    add_argument("--eps", metavar="E", help="the largest change of a pixel in 0..1 under attack (default: 8/255)")
    add_argument("--corruptions", action="store_true", help="accuracy under 15 common corruptions in 5 severities")
    add_argument("--noise", action="store_true", help="accuracy under Gaussian noise of increasing strength")
    add_argument(
        "--shifted-dir",
        type=Path,
        metavar="DIR",
        help="accuracy on other images of the same classes, one folder per class",
    )
    add_argument(
        "--reference-dir",
        type=Path,
        metavar="DIR",
        help="the original images of --shifted-dir, by the same names",
    )
    add_argument(
        "--ood",
        nargs="?",
        const="noise",
        metavar="DIR",
        help="out-of-distribution detection: images of DIR, or noise",
    )
    add_argument("--calibration", action="store_true", help="ECE and NLL before and after temperature scaling")
    add_argument(
        "--efficiency", action="store_true", help="latency, size and accuracy in torch, onnxruntime and OpenVINO"
    )
    add_argument(
        "--num-samples", type=int, metavar="N", help="images for attacks, corruptions and noise (default: 1000)"
    )


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
            raise LimbeckError(f"{option} needs something to measure: add --all")
    from limbeck.workflows.revisit import evaluate_run

    evaluate_run(options.folder, split=options.split, data_root=options.data_root)
