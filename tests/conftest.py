"""One thread and one seed for every test, and processes with the environment of torchrun.

Two pytest workers on two cores leave no core for a second thread.
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
TIMEOUT = 600


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    """Reset the number of threads, which a recipe may have raised."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def studies():
    """The module ``studies.py`` in this folder, which writes folders of runs and studies."""
    spec = importlib.util.spec_from_file_location("studies", Path(__file__).with_name("studies.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Ranks:
    """The processes of one run and their output."""

    def __init__(self, processes, logs):
        self.processes, self._logs = processes, logs

    def wait(self):
        """Exit statuses, -n for signal n; a process that exceeds the timeout is killed, with the status -9."""
        for process in self.processes:
            process.join(TIMEOUT)
            process.kill()
            process.join()
        return [process.exitcode for process in self.processes]

    def output(self):
        return [log.read_text() if log.exists() else "" for log in self._logs]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """``ranks(*argv)`` starts two processes with the environment of torchrun.

    ``argv`` are arguments of the command ``limbeck``, or a script and its arguments; ``first`` is code to execute
    before. The processes are forked from one that has imported torch already, which saves several seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["limbeck.workflows", "lightning_fabric", "torch.distributed.tensor", "onnxscript"])

    def start(*argv, world_size=2, first=""):
        folder = tmp_path_factory.mktemp("ranks")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        logs = [folder / f"{rank}.log" for rank in range(world_size)]
        processes = []
        for rank, log in enumerate(logs):
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment = {name: str(value) for name, value in environment.items()}
            init_globals = {"ENVIRONMENT": environment, "LOG": str(log), "ARGV": argv, "SETUP": first}
            processes.append(
                context.Process(target=runpy.run_path, args=(str(RANK), init_globals), kwargs={"run_name": "__main__"})
            )
            processes[-1].start()
        return Ranks(processes, logs)

    return start
