"""Complete runs of limbeck and torchdistill 1.1.5: ResNet-56 to ResNet-20 on CIFAR-10 images, from start to accuracy.

torchdistill runs its teacher at every step. limbeck runs it once on each of K = 4 views of each image: its first run
fills the cache while it trains, and a repeated run (called the third) reads it. Each run is a process, timed from start
to end, on one thread; the runs alternate. The ratio is of wall time; CPU seconds are reported too, since they depend
less on the load of the machine.

Results are stored in --work, where a killed benchmark continues.
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
from cifar import load_images
from finished import hash_settings, load_or_run
from results import make_row, parse_options, write_rows

import limbeck

ROOT = Path(__file__).resolve().parent.parent
VERSION = "1.1.5"
SIDES = ("torchdistill", "first", "third")


def make_environment(folder: Path) -> str:
    """An interpreter with torchdistill and the packages of this one, created in ``folder`` where it is missing."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"installing torchdistill {VERSION} in {folder}", flush=True)
        venv.EnvBuilder(with_pip=True, clear=True).create(folder)
        # system_site_packages would add the packages of the base Python, not those of this environment.
        site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        (site / "this.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = ["-m", "pip", "install", "--quiet", "--no-deps", f"torchdistill=={VERSION}"]
        subprocess.run([python, *install], check=True)
        (folder / "ready").touch()
    return str(python)


def run_side(python: str, side: str, settings: dict, work: Path) -> dict:
    """The result of a run, with its wall and CPU seconds."""
    out = work / "result.json"
    out.unlink(missing_ok=True)
    script = Path(__file__).with_name("torchdistill_sides.py")
    paths = [str(Path(limbeck.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    load, cpu_start, start = os.getloadavg()[0], _cpu_seconds(), time.perf_counter()
    subprocess.run(
        [python, str(script), side, json.dumps(settings), str(out)], check=True,
        env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, "cpu_seconds": _cpu_seconds() - cpu_start, "load_before": load}
    result |= json.loads(out.read_text())
    print(f"{side}: {seconds:.1f} s, CPU {result['cpu_seconds']:.1f} s", flush=True)
    return result


def run_seed(seed: int, options: argparse.Namespace, python: str) -> dict[str, dict]:
    """The three runs of one seed."""
    work: Path = options.work
    settings = {
        "seed": seed,
        "epochs": options.epochs,
        "num_images": options.num_images,
        "data_root": options.data_root,
    }
    limbeck_settings = settings | {"views": options.views, "backend": options.backend}
    cache = work / f"cache-{hash_settings(limbeck_settings)}"
    limbeck_settings["cache"] = str(cache)
    first_file, third_file = (
        work / f"{side}-{seed}-{hash_settings(limbeck_settings)}.json" for side in ("first", "third")
    )
    if not cache.exists() and not third_file.exists():
        first_file.unlink(missing_ok=True)  # the third run reads the cache of the first

    def first() -> dict:
        shutil.rmtree(cache, ignore_errors=True)
        return run_side(sys.executable, "limbeck", limbeck_settings, work)

    runs = {
        "torchdistill": load_or_run(
            work, f"torchdistill-{seed}", settings, lambda: run_side(python, "torchdistill", settings, work)
        ),
        "first": load_or_run(work, f"first-{seed}", limbeck_settings, first),
        "third": load_or_run(
            work, f"third-{seed}", limbeck_settings, lambda: run_side(sys.executable, "limbeck", limbeck_settings, work)
        ),
    }
    if runs["torchdistill"]["torchdistill"] != VERSION:
        sys.exit(f"torchdistill {runs['torchdistill']['torchdistill']} is installed; the rows are of {VERSION}")
    if misses := runs["third"]["cache"]["misses"]:
        sys.exit(f"the repeated run had {misses} cache misses; empty {work} and start again")
    return runs


def make_rows(turns: list[dict[str, dict]], data: str) -> list[dict]:
    """Ratios of the run times, and the accuracies of the students."""
    rows = []
    for side, aim in (("first", "<= 0.70"), ("third", "<= 0.65")):
        ratios = [runs[side]["seconds"] / runs["torchdistill"]["seconds"] for runs in turns]
        rows.append(make_row(f"run_over_torchdistill_{side}", ratios, unit="ratio", aim=aim, data=data))
    correct = {side: np.array([runs[side]["correct"] for runs in turns], dtype=float) for side in SIDES}
    difference = correct["first"] - correct["torchdistill"]
    unit = "% of the test split"
    return [
        *rows,
        bootstrap_row("run_torchdistill_accuracy", correct["torchdistill"], unit=unit, aim="report", data=data),
        bootstrap_row("run_limbeck_accuracy", correct["first"], unit=unit, aim="report", data=data),
        bootstrap_row("run_accuracy_difference", difference, unit="points", aim="0 in the interval", data=data),
    ]


def bootstrap_row(name: str, values: np.ndarray, *, unit: str, aim: str, data: str) -> dict:
    """100 times the mean of ``values`` (``[seeds, images]``), with a bootstrap interval over the images.

    Both students are evaluated on the same images, so differences are paired. The interval covers the choice of test
    images; the variation between seeds needs more --seeds.
    """
    by_image = 100 * values.mean(0)
    indices = np.random.default_rng(0).integers(0, len(by_image), (10_000, len(by_image)))
    low, high = np.quantile(by_image[indices].mean(1), [0.025, 0.975])
    rows = make_row(name, (100 * values.mean(1)).tolist(), unit=unit, aim=aim, data=data, digits=2)
    return rows | {"low": round(float(low), 2), "high": round(float(high), 2)}


def summarize(runs: dict[str, dict]) -> dict[str, dict]:
    """The runs of one seed without the predictions of each image."""
    return {
        side: {"accuracy": 100 * float(np.mean(run["correct"]))} | _without(run, "correct")
        for side, run in runs.items()
    }


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    python = options.python or make_environment(options.work / "torchdistill")
    settings = {"seed": 0, "epochs": 1, "num_images": options.num_images, "data_root": options.data_root}
    losses = load_or_run(options.work, "losses", settings, lambda: run_side(python, "losses", settings, options.work))
    if abs(losses["torchdistill"] / losses["limbeck"] - 1) > 1e-5:
        sys.exit(f"the two losses of one batch differ: {losses}")
    turns = [run_seed(seed, options, python) for seed in range(options.seeds)]
    num_images = min(options.num_images, len(load_images(options.data_root)["train"][0]))
    data = f"CIFAR-10 without JPEG, {num_images:,} + 1,000 images, ResNet-56 to ResNet-20, {options.epochs} epochs"
    ratios = {
        side: [runs[side]["cpu_seconds"] / runs["torchdistill"]["cpu_seconds"] for runs in turns]
        for side in ("first", "third")
    }
    write_rows(
        make_rows(turns, data), cpu_seconds_over_torchdistill=ratios, loss_of_one_batch=_without(losses, "seconds"),
        third_has_weights_of_first=[runs["first"]["student"] == runs["third"]["student"] for runs in turns],
        runs=[summarize(runs) for runs in turns],
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="of initial weights, order and views")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--num-images", type=int, default=4000, help="the first training images")
    parser.add_argument("--views", type=int, default=4, help="K, views per image")
    parser.add_argument("--backend", default="eager", help="inference backend of limbeck's teacher")
    parser.add_argument("--python", help=f"an interpreter with torchdistill {VERSION}, torch and torchvision")
    parser.add_argument("--data-root")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "torchdistill_run")
    return parse_options(parser, local=("python", "data_root", "work"))


def _without(result: dict, name: str) -> dict:
    return {key: value for key, value in result.items() if key != name}


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
