"""One thread and one seed for every test, and processes with the environment of torchrun.

Two pytest workers on two cores leave no core for a second thread.
"""

import functools
import gc
import importlib.util
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # for this process, as torch is imported later, and for those it starts
os.environ["LIMBECK_CONFIG"] = tempfile.mkdtemp(prefix="limbeck-config-")  # not in the user's home

import pytest

gc.disable()  # until the tests are collected
FORKED = Path(__file__).with_name("forked.py")
SHORT_TIMING = Path(__file__).with_name("short_timing.py")
TIMEOUT = 600
LONGEST = (
    "docs/test_docs.py", "docs/test_quickstart.py", "workflows/study/test_study.py", "test_recipes.py",
    "workflows/test_ranks.py",
    "examples/test_examples.py", "training/test_resume.py", "docs/test_add_a_task.py", "training/test_fsdp.py",
    "workflows/test_distill.py", "workflows/test_self_distillation.py", "workflows/test_select_teachers.py",
    "workflows/test_simkd.py", "workflows/test_assistants.py", "workflows/test_segmentation_run.py",
    "workflows/test_speech_run.py", "export/test_task_export.py", "teachers/test_signals.py",
    "teachers/test_backends.py", "dashboard/test_dashboard_browser.py", "report/test_page.py",
    "workflows/test_evaluate.py", "models/test_segmentation_networks.py", "models/test_build.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Sort the modules that take longest to the front, so that no worker is left with one of them at the end."""
    folder = Path(__file__).parent
    rank = {folder / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish():
    """Exempt what was imported from garbage collection: searching torch again and again takes 8 % of the time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def remove_config():
    """Remove the folder with the plugins that tests have trusted."""
    yield
    shutil.rmtree(os.environ["LIMBECK_CONFIG"], ignore_errors=True)


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    """Reset the number of threads, which a recipe may have raised."""
    import torch  # not in the process that hands the tests to workers

    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def one_registry_of_onnx_operators():
    """The exporter compiles its 500 operators once for all exports, which is half the time of an export."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(autouse=True, scope="session")
def short_timing():
    """What ``short_timing.py`` defines: latencies are the median of two calls."""
    return runpy.run_path(str(SHORT_TIMING))


@pytest.fixture
def all_calls(monkeypatch, short_timing):
    """Latencies of as many calls as in use, not of two."""
    monkeypatch.setattr("limbeck.utils.timing._collect_durations", short_timing["collect_all"])


@pytest.fixture
def trusted_plugins():
    """Trust the plugins of the recipe files of a test, as ``--trust`` does."""
    from limbeck.recipe import trust_plugins

    with trust_plugins():
        yield


@pytest.fixture(scope="session")
def studies():
    """The module ``studies.py`` in this folder, which writes folders of runs and studies."""
    spec = importlib.util.spec_from_file_location("studies", Path(__file__).with_name("studies.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ForkedPython:
    """A process like that of ``subprocess.Popen``, forked from one that has imported torch already.

    Output goes to files, which :meth:`communicate` reads. ``returncode`` is −n for signal n.
    """

    def __init__(self, context, folder, argv, *, environment=None, cwd=None, first="", new_session=False):
        self._logs = [folder / "stdout", folder / "stderr"]
        options = {
            "environment": {**os.environ, **(environment or {})}, "cwd": str(cwd or Path.cwd()),
            "logs": [str(log) for log in self._logs], "argv": [str(argument) for argument in argv], "first": first,
            "new_session": new_session, "short_timing": str(SHORT_TIMING),
        }  # fmt: skip
        self._process = context.Process(
            target=runpy.run_path, args=(str(FORKED), {"OPTIONS": options}), kwargs={"run_name": "__main__"}
        )
        self._process.start()

    @property
    def pid(self):
        return self._process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def wait(self, timeout=TIMEOUT):
        """The exit status; a process that exceeds the timeout is killed, with the status −9."""
        self._process.join(timeout)
        if self._process.is_alive():
            self.kill()
            self._process.join()
        return self.returncode

    def communicate(self, timeout=TIMEOUT):
        self.wait(timeout)
        return tuple(self.read_output())

    def read_output(self):
        """What the process has written to stdout and stderr so far."""
        return [log.read_text() if log.exists() else "" for log in self._logs]

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)


@pytest.fixture(scope="session")
def fork_python(tmp_path_factory):
    """``fork_python(*argv)`` starts a script, ``"-c", code``, or a command of ``limbeck`` with its arguments.

    ``first`` is code to execute before. Saves the seconds that a new interpreter needs to import torch.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["limbeck.workflows", "lightning_fabric", "torch.distributed.tensor", "onnxscript"])

    def start(*argv, **options):
        return ForkedPython(context, tmp_path_factory.mktemp("process"), argv, **options)

    return start


@pytest.fixture
def forked_workers(monkeypatch):
    """Workers of a study are forked from this process, not spawned, which takes each the seconds to import torch."""
    get_context = multiprocessing.get_context
    monkeypatch.setattr(
        multiprocessing, "get_context", lambda method=None: get_context("fork" if method == "spawn" else method)
    )


@pytest.fixture(scope="session")
def run_python(fork_python):
    """Like ``fork_python``, until the process has ended: exit status, stdout and stderr."""

    def run(*argv, **options):
        process = fork_python(*argv, **options)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)

    return run


class Ranks:
    """The processes of one run and their output."""

    def __init__(self, processes):
        self.processes = processes

    def wait(self):
        """Exit statuses, −n for signal n."""
        return [process.wait() for process in self.processes]

    def output(self):
        return ["".join(process.read_output()) for process in self.processes]


@pytest.fixture(scope="session")
def ranks(fork_python):
    """``ranks(*argv)`` starts two processes with the environment of torchrun; arguments as of ``fork_python``."""

    def start(*argv, world_size=2, first=""):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = {
            "WORLD_SIZE": world_size,
            "LOCAL_WORLD_SIZE": world_size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        return Ranks(
            [
                fork_python(
                    *argv,
                    environment={name: str(value) for name, value in {**world, "RANK": r, "LOCAL_RANK": r}.items()},
                    first=first,
                )
                for r in range(world_size)
            ]
        )

    return start
