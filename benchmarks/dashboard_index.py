"""The dashboard's index with 200 runs: unchanged runs against the first request, and 50 requests at once against one.

PYTHONPATH of another checkout measures that one.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import uvicorn
from results import make_row, write_rows

from limbeck.dashboard.app import create_app, open_socket

TURNS = 5


def load_writer() -> ModuleType:
    """``tests/studies.py``, which writes run folders."""
    path = Path(__file__).parents[1] / "tests" / "studies.py"
    spec = importlib.util.spec_from_file_location("studies", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_runs(root: Path, num_runs: int) -> None:
    """Three of four runs are finished, the others are in training."""
    writer = load_writer()
    writer.write_run(root / "run-0", 0)
    (root / "run-1").mkdir()
    (root / "run-1" / "recipe.yaml").write_text("name: r\nstages: [{name: s, steps: 300}]\n")
    writer.write_metrics_csv(root / "run-1" / "metrics.csv", {"baseline": 0.8}, steps=120, epochs=40)
    for index in range(2, num_runs):
        shutil.copytree(root / ("run-1" if index % 4 == 1 else "run-0"), root / f"run-{index}")


def measure(root: Path, num_requests: int) -> tuple[float, float, float]:
    """Seconds of the first request, of one with unchanged runs, and of the slowest of many at once."""
    server = uvicorn.Server(uvicorn.Config(create_app(root), log_level="error", lifespan="off"))
    with open_socket(0) as server_socket:
        url = f"http://127.0.0.1:{server_socket.getsockname()[1]}/"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [server_socket]})
        thread.start()

        def request(_: int = 0) -> float:
            start = time.perf_counter()
            with urllib.request.urlopen(url, timeout=300) as response:
                response.read()
            return time.perf_counter() - start

        first = request()
        unchanged = statistics.median(request() for _ in range(3))
        with ThreadPoolExecutor(num_requests) as pool:
            slowest = max(pool.map(request, range(num_requests)))
        server.should_exit = True
        thread.join()
    return first, unchanged, slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--requests", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        write_runs(root, options.runs)
        seconds = [measure(root, options.requests) for _ in range(TURNS)]
    first, unchanged, slowest = zip(*seconds, strict=True)
    data = f"{options.runs} runs, {options.requests} requests at once"
    write_rows(
        [
            make_row("dashboard_first_seconds", list(first), unit="s", aim="report", data=data),
            make_row("dashboard_unchanged_seconds", list(unchanged), unit="s", aim="report", data=data),
            make_row("dashboard_slowest_seconds", list(slowest), unit="s", aim="report", data=data),
            make_row(
                "dashboard_unchanged_over_first", [b / a for a, b, _ in seconds], unit="of the first request",
                aim="< 0.3", data=data,
            ),
            make_row(
                "dashboard_slowest_over_unchanged", [c / b for _, b, c in seconds], unit="times one request",
                aim="< 10", data=data,
            ),
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main()
