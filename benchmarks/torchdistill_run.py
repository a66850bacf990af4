"""A whole run beside torchdistill 1.1.5: ResNet-56 to ResNet-20 on CIFAR-10 pictures, from `python` to the accuracy.

torchdistill asks its teacher at every step. limbeck asks it once about each of K = 4 views of each picture: its first
run fills the cache while it trains, and a repeated run (the third, the tenth: they do not differ) reads it. Each run is
a process of its own, timed from its start to its end, on one thread; the sides take turns. The wall clock is what
counts; processor seconds stand beside it, since they suffer less from what else the machine does.

What was measured is kept in --work, where a killed benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import numpy as np
import torch
from cifar import pictures
from finished import kept, known_by
from results import parsed, row, write

import limbeck

ROOT = Path(__file__).resolve().parent.parent
VERSION = "1.1.5"
SIDES = ("torchdistill", "first", "third")


def environment(folder: Path) -> str:
    """An interpreter that has torchdistill beside everything that this one has; made where it is not there yet."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"torchdistill {VERSION} is installed in {folder}", flush=True)
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        # system_site_packages would show the packages of the Python that made this environment, not its own.
        site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        (site / "this.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = ["-m", "pip", "install", "--quiet", "--no-deps", f"torchdistill=={VERSION}"]
        subprocess.run([python, *install], check=True)
        (folder / "ready").touch()
    return str(python)


def timed(python: str, side: str, settings: dict, work: Path) -> dict:
    """What a side found, with the seconds it took, on the clock and of the processor."""
    out = work / "said.json"
    out.unlink(missing_ok=True)
    script = Path(__file__).with_name("torchdistill_sides.py")
    paths = [str(Path(limbeck.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    load, processor, begun = os.getloadavg()[0], _processor(), time.perf_counter()
    subprocess.run(
        [python, str(script), side, json.dumps(settings), str(out)], check=True,
        env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    found = {"seconds": seconds, "processor_seconds": _processor() - processor, "load_before": load}
    found |= json.loads(out.read_text())
    print(f"{side}: {seconds:.1f} s, of the processor {found['processor_seconds']:.1f} s", flush=True)
    return found


def turn(seed: int, options: argparse.Namespace, python: str) -> dict[str, dict]:
    """All three runs of one seed."""
    work: Path = options.work
    settings = {"seed": seed, "epochs": options.epochs, "take": options.take, "data_root": options.data_root}
    ours = settings | {"views": options.views, "backend": options.backend}
    cache = work / f"cache-{known_by(ours)}"
    ours["cache"] = str(cache)
    first_of, third_of = (work / f"{side}-{seed}-{known_by(ours)}.json" for side in ("first", "third"))
    if not cache.exists() and not third_of.exists():
        first_of.unlink(missing_ok=True)  # the third run reads the cache that the first one filled

    def first() -> dict:
        shutil.rmtree(cache, ignore_errors=True)
        return timed(sys.executable, "limbeck", ours, work)

    runs = {
        "torchdistill": kept(
            work, f"torchdistill-{seed}", settings, lambda: timed(python, "torchdistill", settings, work)
        ),
        "first": kept(work, f"first-{seed}", ours, first),
        "third": kept(work, f"third-{seed}", ours, lambda: timed(sys.executable, "limbeck", ours, work)),
    }
    if runs["torchdistill"]["torchdistill"] != VERSION:
        sys.exit(f"torchdistill {runs['torchdistill']['torchdistill']} was measured, and {VERSION} is what is claimed")
    if asked := runs["third"]["cache"]["misses"]:
        sys.exit(f"the repeated run asked the teacher {asked} times: empty {work} and begin again")
    return runs


def rows(turns: list[dict[str, dict]], data: str) -> list[dict]:
    """Ratios of the whole runs, and what their students are worth."""
    made = []
    for side, aim in (("first", "<= 0.70"), ("third", "<= 0.65")):
        ratios = [runs[side]["seconds"] / runs["torchdistill"]["seconds"] for runs in turns]
        made.append(row(f"run_over_torchdistill_{side}", ratios, unit="ratio", aim=aim, data=data))
    right = {side: np.array([runs[side]["right"] for runs in turns], dtype=float) for side in SIDES}
    difference = right["first"] - right["torchdistill"]
    unit = "% of the test part"
    return [
        *made,
        over_pictures("run_torchdistill_accuracy", right["torchdistill"], unit=unit, aim="report", data=data),
        over_pictures("run_limbeck_accuracy", right["first"], unit=unit, aim="report", data=data),
        over_pictures("run_accuracy_difference", difference, unit="points", aim="0 in the interval", data=data),
    ]


def over_pictures(name: str, values: np.ndarray, *, unit: str, aim: str, data: str) -> dict:
    """100 times the mean of ``values`` (``[seeds, pictures]``), with a bootstrap's interval over the pictures.

    Both students answer the same pictures, so a difference is drawn in pairs. The interval tells what other test
    pictures would change; what another seed would change is told by more --seeds only.
    """
    by_picture = 100 * values.mean(0)
    drawn = np.random.default_rng(0).integers(0, len(by_picture), (10_000, len(by_picture)))
    low, high = np.quantile(by_picture[drawn].mean(1), [0.025, 0.975])
    made = row(name, (100 * values.mean(1)).tolist(), unit=unit, aim=aim, data=data, digits=2)
    return made | {"low": round(float(low), 2), "high": round(float(high), 2)}


def told(runs: dict[str, dict]) -> dict[str, dict]:
    """What is worth keeping of the runs of one seed."""
    return {
        side: {"accuracy": 100 * float(np.mean(run["right"]))} | _without(run, "right") for side, run in runs.items()
    }


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    python = options.python or environment(options.work / "torchdistill")
    settings = {"seed": 0, "epochs": 1, "take": options.take, "data_root": options.data_root}
    losses = kept(options.work, "losses", settings, lambda: timed(python, "losses", settings, options.work))
    if abs(losses["torchdistill"] / losses["limbeck"] - 1) > 1e-5:
        sys.exit(f"the two losses of one batch differ: {losses}")
    turns = [turn(seed, options, python) for seed in range(options.seeds)]
    many = min(options.take, len(pictures(options.data_root)["train"][0]))
    data = f"CIFAR-10 as published, {many:,} + 1,000 pictures, ResNet-56 to ResNet-20, {options.epochs} epochs"
    ratios = {
        side: [runs[side]["processor_seconds"] / runs["torchdistill"]["processor_seconds"] for runs in turns]
        for side in ("first", "third")
    }
    write(
        rows(turns, data), processor_seconds_over_torchdistill=ratios, loss_of_one_batch=_without(losses, "seconds"),
        third_has_the_weights_of_the_first=[runs["first"]["student"] == runs["third"]["student"] for runs in turns],
        runs=[told(runs) for runs in turns],
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="of the student's start, the order and the views")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--take", type=int, default=4000, help="of the training pictures, the first so many")
    parser.add_argument("--views", type=int, default=4, help="K, of each picture")
    parser.add_argument("--backend", default="eager", help="what computes limbeck's teacher")
    parser.add_argument("--python", help=f"an interpreter with torchdistill {VERSION}, torch and torchvision")
    parser.add_argument("--data-root")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "torchdistill_run")
    return parsed(parser, places=("python", "data_root", "work"))


def _without(found: dict, name: str) -> dict:
    return {key: value for key, value in found.items() if key != name}


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
