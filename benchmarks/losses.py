"""Every loss that limbeck.losses and torchdistill 1.1.5 both have: equal values or not, and the time of both.

Both libraries get the same tensors, in one process on one thread, and alternate after a few calls, each a forward and a
backward pass. A row is limbeck's time over torchdistill's: each repeat gives one ratio, of the medians of its calls.

Both values are checked: limbeck's must equal the paper's formula in float64 NumPy, and torchdistill's its own form in
NumPy where that gives another value. Where the values are equal, the gradients must be equal too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from results import make_row, parse_options, write_rows
from torchdistill_run import ROOT, VERSION, make_environment

import limbeck

CLOSE = {"ours": 5e-5, "theirs": 2e-4, "gradients": 1e-4}  # float32; PKT takes logarithms of ratios close to 1
# torchdistill has the same squared error for hints, logits and SimKD, measured once as `fitnet`.
ONE_SIDED = {
    "in_torchdistill_only": (
        "AuxSSKDLoss", "SSKDLoss", "PADL2Loss", "RegularizationLoss", "KTALoss", "AffinityLoss", "ChSimLoss",
        "SRDLoss", "DISTPlusLoss", "SKDInstanceLoss", "SKDDirectionLoss",
    ),
    "in_limbeck_only": (
        "cwd", "dkd", "gram", "jsd", "mgd", "mlkd", "nst", "nkd", "ofd", "pkd", "reverse_kl", "ttm",
    ),
}  # fmt: skip


def run_sides(python: str, options: argparse.Namespace) -> dict:
    """The results of losses_sides.py, run as a process in the environment of torchdistill."""
    out = options.work / "losses.json"
    out.unlink(missing_ok=True)
    script = Path(__file__).with_name("losses_sides.py")
    paths = [str(Path(limbeck.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    settings = {"repeats": options.repeats, "budget": options.budget}
    subprocess.run(
        [python, str(script), json.dumps(options.only), json.dumps(settings), str(out)], check=True,
        env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    result = json.loads(out.read_text())
    if result["torchdistill"] != VERSION:
        sys.exit(f"torchdistill {result['torchdistill']} is installed; the rows are of {VERSION}")
    return result["methods"]


def find_differences(name: str, result: dict) -> list[str]:
    """Values and gradients that differ from their reference."""
    differences = {side: abs(result[side] / result[f"{side}_in_float64"] - 1) for side in ("ours", "theirs")}
    differences["gradients"] = result.get("gradients_apart", 0.0)
    return [
        f"{name}: {key} differ from the reference by {difference:.1e}"
        for key, difference in differences.items()
        if not difference < CLOSE[key]
    ]


def describe_values(name: str, result: dict) -> dict:
    """The values, whether they are equal, and why not; printed as well."""
    same = not result["why"]
    text = "the same" if same else f"{result['ours'] / result['theirs']:.6g} of theirs: {result['why']}"
    print(f"{name}: ours {result['ours']:.7g}, theirs {result['theirs']:.7g}; {text}")
    microseconds = {
        side: [round(1e6 * pair[index], 1) for pair in result["seconds"]]
        for index, side in enumerate(("ours_microseconds", "theirs_microseconds"))
    }
    return {key: value for key, value in result.items() if key != "seconds"} | {"same": same} | microseconds


def make_rows(methods: dict[str, dict]) -> list[dict]:
    return [
        make_row(
            f"loss_time_over_torchdistill_{name}", [ours / theirs for ours, theirs in result["seconds"]],
            unit="ratio", aim="<= 1.1", data=f"random, {result['shape']}",
        )
        for name, result in methods.items()
    ]  # fmt: skip


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    methods = run_sides(options.python or make_environment(options.work / "torchdistill"), options)
    values = {name: describe_values(name, result) for name, result in methods.items()}
    if errors := [error for name, result in methods.items() for error in find_differences(name, result)]:
        sys.exit("; ".join(errors))
    if options.only:
        print({row["name"]: [row["low"], row["value"], row["high"]] for row in make_rows(methods)})
        return  # some of the rows do not replace all of them
    write_rows(make_rows(methods), load_before=load, methods=values, **ONE_SIDED)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12, help="of each method")
    parser.add_argument("--budget", type=float, default=0.1, help="seconds of a repeat (at least one turn each)")
    parser.add_argument("--only", nargs="*", default=[], help="methods to measure; no file is written")
    parser.add_argument("--python", help=f"an interpreter with torchdistill {VERSION}, torch and torchvision")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "torchdistill_run")
    return parse_options(parser, local=("python", "work", "only"))


if __name__ == "__main__":
    main()
