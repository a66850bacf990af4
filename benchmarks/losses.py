"""Every loss that limbeck.losses and torchdistill 1.1.5 both have: the same number or not, and the time of both.

Both sides get the same tensors, in one process on one thread, and take turns of a few calls, each a forward and a
backward pass. A figure is our time over theirs: each repeat gives one ratio, of the medians of its calls.

Nothing is believed of either side: ours has to be what NumPy makes of the paper in float64, and theirs what NumPy makes
of their form, where that is another number. Where torchdistill's loss is the same, its gradient has to be as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from results import parsed, row, write
from torchdistill_run import ROOT, VERSION, environment

import limbeck

CLOSE = {"ours": 5e-5, "theirs": 2e-4, "gradients": 1e-4}  # float32; PKT takes logarithms of ratios close to 1
HALF = ("attention_transfer", "attention_transfer_last", "fsp", "crd")
# Beside these, torchdistill has the same squared error for hints, logits and SimKD, measured once, as `fitnet`.
# torchdistill has the same squared error for hints, logits and SimKD, measured once as `fitnet`.
ONLY = {
    "in_torchdistill_only": (
        "AuxSSKDLoss", "SSKDLoss", "PADL2Loss", "RegularizationLoss", "KTALoss", "AffinityLoss", "ChSimLoss",
        "SRDLoss", "DISTPlusLoss", "SKDInstanceLoss", "SKDDirectionLoss",
    ),
    "in_limbeck_only": (
        "cwd", "dkd", "gram", "jsd", "mgd", "mlkd", "nst", "nkd", "ofd", "pkd", "reverse_kl", "ttm",
    ),
}  # fmt: skip


def measured(python: str, options: argparse.Namespace) -> dict:
    """What losses_sides.py found, a process of its own in torchdistill's environment."""
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
    found = json.loads(out.read_text())
    if found["torchdistill"] != VERSION:
        sys.exit(f"torchdistill {found['torchdistill']} was measured, and {VERSION} is what is claimed")
    return found["methods"]


def wrong(name: str, found: dict) -> list[str]:
    """What is not as it is said to be."""
    apart = {side: abs(found[side] / found[f"{side}_in_float64"] - 1) for side in ("ours", "theirs")}
    apart["gradients"] = found.get("gradients_apart", 0.0)
    return [f"{name}: {what} are {much:.1e} apart" for what, much in apart.items() if not much < CLOSE[what]]


def told(name: str, found: dict) -> dict:
    """The values, whether they are one number, and why not; printed as well."""
    same = not found["why"]
    says = "the same" if same else f"{found['ours'] / found['theirs']:.6g} of theirs: {found['why']}"
    print(f"{name}: ours {found['ours']:.7g}, theirs {found['theirs']:.7g}; {says}")
    microseconds = {
        side: [round(1e6 * pair[which], 1) for pair in found["seconds"]]
        for which, side in enumerate(("ours_microseconds", "theirs_microseconds"))
    }
    return {key: value for key, value in found.items() if key != "seconds"} | {"same": same} | microseconds


def rows(methods: dict[str, dict]) -> list[dict]:
    return [
        row(
            f"loss_time_over_torchdistill_{name}", [ours / theirs for ours, theirs in found["seconds"]],
            unit="ratio", aim="<= 0.5" if name in HALF else "<= 1.0", data=f"random, {found['shape']}",
        )
        for name, found in methods.items()
    ]  # fmt: skip


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    methods = measured(options.python or environment(options.work / "torchdistill"), options)
    values = {name: told(name, found) for name, found in methods.items()}
    if mistakes := [line for name, found in methods.items() for line in wrong(name, found)]:
        sys.exit("; ".join(mistakes))
    if options.only:
        print({one["name"]: [one["low"], one["value"], one["high"]] for one in rows(methods)})
        return  # a part of the figures is not written over all of them
    write(rows(methods), load_before=load, methods=values, **ONLY)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12, help="of each method")
    parser.add_argument("--budget", type=float, default=0.1, help="seconds of a repeat; each side has a turn at least")
    parser.add_argument("--only", nargs="*", default=[], help="methods to look at; no file is written")
    parser.add_argument("--python", help=f"an interpreter with torchdistill {VERSION}, torch and torchvision")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "torchdistill_run")
    return parsed(parser, places=("python", "work", "only"))


if __name__ == "__main__":
    main()
