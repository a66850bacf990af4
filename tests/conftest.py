"""One thread and one seed for every test; and processes that stand together as torchrun starts them.

Two workers on two cores leave no core for a second thread, and threads that wait for each other are slow.
"""

import importlib.util
import multiprocessing
import os
import runpy
import socket
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # for this process, as torch is imported later, and for those it starts

import pytest
import torch

RANK = Path(__file__).with_name("rank.py")
LIMIT = 60


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    """A recipe may ask for more threads; the next test starts with one again."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def studies():
    """The module ``studies.py`` beside this file: it writes folders of runs and studies."""
    spec = importlib.util.spec_from_file_location("studies", Path(__file__).with_name("studies.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Ranks:
    """Several processes of one run, and what each of them prints."""

    def __init__(self, processes, logs):
        self.processes, self._logs = processes, logs

    def wait(self):
        """Exit statuses, minus n for signal n; a process that does not end is killed, and its status is -9."""
        for process in self.processes:
            process.join(LIMIT)
            process.kill()
            process.join()
        return [process.exitcode for process in self.processes]

    def output(self):
        return [log.read_text() if log.exists() else "" for log in self._logs]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """``ranks(*words)`` starts two processes with the environment that torchrun gives.

    ``words`` are those of the command ``limbeck``, or a script and its arguments; ``first`` is run before. They are
    forked from a process that has imported torch already, which saves the seconds that torchrun needs for it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["limbeck.workflows", "lightning_fabric", "torch.distributed.tensor", "onnxscript"])

    def start(*words, world_size=2, first=""):
        folder = tmp_path_factory.mktemp("ranks")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        logs = [folder / f"{rank}.log" for rank in range(world_size)]
        processes = []
        for rank, log in enumerate(logs):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            given = {"PLACE": {k: str(v) for k, v in place.items()}, "LOG": str(log), "WORDS": words, "FIRST": first}
            processes.append(
                context.Process(target=runpy.run_path, args=(str(RANK), given), kwargs={"run_name": "__main__"})
            )
            processes[-1].start()
        return Ranks(processes, logs)

    return start
