"""The command line under mutated recipes, argument lists and damaged files: tracebacks and hangs, both aimed at 0.

Each case is a process forked from this one, in a folder of its own, with a limit of CPU time, wall time and memory. It
depends on the kind and number of the case only, so `--only KIND --case N --show` repeats one and prints its output.
Training is left out in most cases: a recipe is checked and rehearsed as by `limbeck distill`, up to its first step.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import io
import os
import pkgutil
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from fuzz_inputs import RECIPES, SMALL, copy_folder, damage_file, make_arguments, make_paths, mutate_recipe
from results import make_row, write_rows

from limbeck.cli import main as limbeck_main

COUNTS = {"files": 300, "arguments": 500, "recipe": 1000}
CPU_SECONDS, WALL_SECONDS = 60, 180
MEMORY_BYTES = 12 * 2**30
UNEXPECTED_STATUS = 70
RUN_COMMANDS = (
    "report run", "model-card run", "record check run", "diagnose run", "export run", "evaluate run", "compare run",
    "evaluate run --calibration", "distill small.yaml --out run --resume", "reproduce run --out again", "dashboard",
    "compare run run2", "distill small.yaml student.width=5 teachers.teacher.weights=run --out new",
)  # fmt: skip
STUDY_COMMANDS = (
    "compare study",
    "study study.yaml --out study --resume",
    "dashboard",
    "record check study/trials/hot/0",
)
CACHE_COMMANDS = ("cache info --root cache", "cache verify --root cache", "cache prune --older-than 1 --root cache")


class Rehearsed(BaseException):
    """A recipe was checked and rehearsed; training would begin now."""


class Outcome(NamedTuple):
    """What a case ended with: ``ok``, ``refused``, ``unexpected`` (status 70), ``traceback``, or ``hang``."""

    kind: str
    text: str


def run_case(action: Callable[[Path], int], folder: Path) -> Outcome:
    """Run ``action`` in a forked process whose current folder is ``folder``."""
    log, start = folder.with_suffix(".log"), time.monotonic()
    if (pid := os.fork()) == 0:
        _run_child(action, folder, log)
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() - start > WALL_SECONDS:
            os.killpg(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
            break
        time.sleep(0.002)
    text, status = log.read_text(errors="replace"), os.waitstatus_to_exitcode(ended[1])
    for path in folder.glob("limbeck-*.traceback"):
        text += path.read_text(errors="replace")
    if status in (-signal.SIGKILL, -signal.SIGXCPU):
        return Outcome("hang", text)
    if status < 0 or "Traceback (most recent call last)" in log.read_text(errors="replace"):
        return Outcome("traceback", f"status {status}\n{text}")
    return Outcome({0: "ok", UNEXPECTED_STATUS: "unexpected"}.get(status, "refused"), text)


def _run_child(action: Callable[[Path], int], folder: Path, log: Path) -> None:
    os.setsid()
    os.chdir(folder)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ |= {"HOME": str(folder), "TMPDIR": str(folder), "LIMBECK_CACHE": str(folder / "home-cache")}
    tempfile.tempdir = None
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = 1
    try:
        status = action(folder)
    except Rehearsed:
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def stop_before_training() -> None:
    """Replace the trainings of this process, after everything that is checked before them."""
    # By name, since limbeck.workflows.distill is also the function.
    distill, study = (import_module(f"limbeck.workflows.{name}.run") for name in ("distill", "study"))

    def stop(*args: object, **options: object) -> None:
        raise Rehearsed

    distill._train_all = study.run_workers = stop
    study._measure_time_ratio = lambda job: 1.0


def run_recipe(folder: Path, generator: random.Random) -> int:
    (folder / "recipe.yaml").write_bytes(mutate_recipe(generator))
    status = limbeck_main(["recipe", "check", "recipe.yaml"])
    if status or generator.random() > 0.9:
        return status
    if generator.random() > 0.05:
        stop_before_training()
    command = "study" if generator.random() < 0.1 else "distill"
    return limbeck_main([command, "recipe.yaml", "--out", "out"])


def run_arguments(folder: Path, generator: random.Random, fixtures: Path) -> int:
    make_paths(folder)
    for name in ("run", "study"):
        copy_folder(fixtures / name, folder / name)
    stop_before_training()
    stop_server()
    arguments = make_arguments(generator)
    print("limbeck", *(argument.encode(errors="surrogateescape") for argument in arguments))
    return limbeck_main(arguments)


def run_files(folder: Path, generator: random.Random, fixtures: Path) -> int:
    for name in ("run", "study", "cache"):
        copy_folder(fixtures / name, folder / name)
    copy_folder(fixtures / "run", folder / "run2")
    (folder / "small.yaml").write_text((fixtures / "small.yaml").read_text())
    (folder / "study.yaml").write_text((fixtures / "study.yaml").read_text())
    stop_before_training()
    name, commands = generator.choices(
        (("run", RUN_COMMANDS), ("study", STUDY_COMMANDS), ("cache", CACHE_COMMANDS)), (8, 2, 1)
    )[0]
    files = sorted(path for path in (folder / name).rglob("*") if path.is_file() and path.stat().st_size)
    # Most commands read the files of the run itself, not the checkpoints below it.
    own_files = [path for path in files if path.parent == folder / name]
    path = generator.choice(own_files if own_files and generator.random() < 0.7 else files)
    kind = damage_file(path, generator)
    command = generator.choice(commands)
    print(f"{path.relative_to(folder)} {kind}: {command}")
    return show_dashboard(folder) if command == "dashboard" else limbeck_main(command.split())


def stop_server() -> None:
    import uvicorn

    uvicorn.Server.run = lambda self, sockets: None


def show_dashboard(folder: Path) -> int:
    """The index and the pages of the dashboard; a page with the status 500 is unexpected."""
    from limbeck.dashboard.app import create_app
    from limbeck.dashboard.run_index import list_runs

    app = create_app(folder)
    names = [f"/at/{name}" for name in list_runs(folder)]
    return max(asyncio.run(_get(app, path)) for path in ("/", *names))


async def _get(app: Callable, path: str) -> int:
    statuses = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return UNEXPECTED_STATUS if statuses[0] >= 500 else 0


def import_everything() -> None:
    """Import what commands import, once before the forks, and fill the caches of names and type hints."""
    import limbeck

    for module in pkgutil.walk_packages(limbeck.__path__, "limbeck."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    for name in ("matplotlib.pyplot", "onnxscript", "onnxruntime", "sklearn.datasets", "safetensors.torch", "uvicorn"):
        import_module(name)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        for recipe in RECIPES:
            Path(file.name).write_text(recipe)
            with contextlib.redirect_stdout(io.StringIO()):
                assert limbeck_main(["recipe", "check", file.name]) == 0, recipe


def make_fixtures(folder: Path) -> None:
    """A finished run, a study and a cache, which cases damage."""
    folder.mkdir()
    (folder / "small.yaml").write_text(SMALL + "export: {to: [onnx]}\n")
    (folder / "study.yaml").write_text(
        RECIPES[1].replace("seeds: [0, 1]", "seeds: 1").replace("export: {to: [onnx]}", "")
    )

    def build(path: Path) -> int:
        status = limbeck_main(["distill", "small.yaml", "--out", "run", "cache.root=cache"])
        status = status or limbeck_main(["evaluate", "run", "--calibration"])
        return status or limbeck_main(["study", "study.yaml", "--out", "study"])

    outcome = run_case(build, folder)
    assert outcome.kind == "ok", outcome.text


def run_kind(kind: str, numbers: range, root: Path) -> dict[int, Outcome]:
    outcomes = {}
    for number in numbers:
        generator = random.Random(f"{kind}-{number}")
        folder = root / f"{kind}-{number}"
        folder.mkdir()
        actions: dict[str, Callable[[Path], int]] = {
            "recipe": lambda path: run_recipe(path, generator),  # noqa: B023
            "arguments": lambda path: run_arguments(path, generator, root / "fixtures"),  # noqa: B023
            "files": lambda path: run_files(path, generator, root / "fixtures"),  # noqa: B023
        }
        outcomes[number] = run_case(actions[kind], folder)
        os.system(f"rm -rf {folder} {folder.with_suffix('.log')}")
    return outcomes


def summarize(kind: str, outcomes: dict[int, Outcome]) -> None:
    """Print the cases that are neither a success nor a refusal, grouped by the last line of their output."""
    print(kind, dict(collections.Counter(outcome.kind for outcome in outcomes.values())), flush=True)
    groups = collections.defaultdict(list)
    for number, outcome in outcomes.items():
        if outcome.kind not in ("ok", "refused"):
            frames = re.findall(r'File "[^"]*/(\w+/\w+\.py)", line (\d+)', outcome.text)
            lines = outcome.text.strip().splitlines() or [""]
            groups[outcome.kind, *(":".join(frame) for frame in frames[-1:]), lines[-1][:160]].append(number)
    for group, numbers in sorted(groups.items(), key=lambda item: -len(item[1])):
        print(f"  {len(numbers):4} × {' | '.join(group)}  cases {numbers[:5]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=COUNTS, help="one kind of case")
    parser.add_argument("--case", type=int, help="one case of --only")
    parser.add_argument("--count", type=int, help="so many cases of each kind; writes no result")
    parser.add_argument("--show", action="store_true", help="print the output of each case")
    options = parser.parse_args()
    import_everything()
    start, total = time.monotonic(), collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        make_fixtures(root / "fixtures")
        for kind in [options.only] if options.only else COUNTS:
            numbers = (
                range(options.count or COUNTS[kind]) if options.case is None else range(options.case, options.case + 1)
            )
            kind_start = time.monotonic()
            outcomes = run_kind(kind, numbers, root)
            print(f"{kind}: {(time.monotonic() - kind_start) / len(numbers):.2f} s per case", flush=True)
            if options.show:
                print("\n\n".join(outcome.text for outcome in outcomes.values()))
            summarize(kind, outcomes)
            total.update(outcome.kind for outcome in outcomes.values())
    print(f"{time.monotonic() - start:.0f} s")
    if options.only is None and options.count is None:
        figures = {
            "fuzz_cases": (total.total(), "1800"), "fuzz_tracebacks": (total["traceback"], "0"),
            "fuzz_hangs": (total["hang"], "0"), "fuzz_unexpected_errors": (total["unexpected"], "0"),
        }  # fmt: skip
        data = "1,000 recipes, 500 argument lists, 300 damaged files"
        write_rows([make_row(key, [value], unit="cases", aim=aim, data=data) for key, (value, aim) in figures.items()])


if __name__ == "__main__":
    main()
