"""What methods.py measures beside accuracies: how hard terms pulled in the studies, and a ratio of latencies."""

from __future__ import annotations

import csv
import statistics
import time
from pathlib import Path

import torch
from results import row

from limbeck.recipe import load_recipe
from limbeck.workflows._job.job import Job

TURNS, CALLS = 30, 20


def pulled(work: Path, arm: str, seeds: list[int]) -> dict[str, float]:
    """By term, its gradient over that of the weighted hard loss: the median over the epochs looked at, of all seeds."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        with (work / "trials" / arm / str(seed) / "metrics.csv").open(newline="") as file:
            for line in csv.DictReader(file):
                for column, value in line.items():
                    if column.startswith("grad_norm_ratio/") and value:
                        found.setdefault(column.partition("/")[2], []).append(float(value))
    return {term: statistics.median(values) for term, values in found.items()}


def latency_ratio(one: dict, work: Path) -> dict:
    """The teacher's time for a picture over the student's: batch 1, one thread, float32, in turns in one process."""
    recipe = load_recipe(work / "recipe.yaml", ["study=null"])
    job = Job.from_recipe(recipe, work / "dry_run")
    picture = job.data.validation.read(torch.arange(1))
    networks = [job.build_teacher("wide").eval(), job.build_student().eval()]
    torch.set_num_threads(1)
    ratios = []
    with torch.no_grad():
        for turn in range(TURNS + 2):
            took = []
            for network in networks:
                spent = []
                for _ in range(CALLS):
                    start = time.perf_counter()
                    network(picture)
                    spent.append(time.perf_counter() - start)
                took.append(statistics.median(spent))
            if turn >= 2:
                ratios.append(took[0] / took[1])
    data = "WRN-16-4 over ResNet-14, one picture of 32 pixels, torch in eval mode, in turns"
    return row("tinyimagenet_latency_ratio", ratios, unit="times", aim=">= 4", data=data, digits=2)
