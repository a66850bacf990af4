"""The paths of a GPU: mixed precision, compilation, kill and resume, backends, the cache, several devices, export.

`make gpu` runs it on a GPU in at most 8 minutes; without one it prints a sentence and ends with status 0.
`--device cpu --quick` runs the same parts on the CPU with few steps. Each part is a process of its own with a time
limit, so that one that fails or hangs does not stop the others. The status is 1 where a part fails.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

import limbeck
from limbeck.data import Augmentation, affine, from_tensors
from limbeck.export import to_onnx
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.models import small_cnn
from limbeck.teachers import BackendReport, CachedTeacher, FrozenTeacher
from limbeck.training import TrainingConfig, make_fabric

RESULT_PATH = Path(__file__).parent / "results" / "gpu.json"
LIMIT_S = 480.0
PART_LIMIT_S = 150.0
CLASSES = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a few steps of small networks")
    parser.add_argument("--output", type=Path, default=RESULT_PATH)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("make gpu needs a GPU that torch can use, and there is none: nothing was checked")
        return 0
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    setup = Setup(options.device, quick=options.quick)
    if options.part is None:
        return run_all_parts(options)
    name, *arguments = options.part.split(":")
    print(json.dumps(PARTS[name](setup, options.folder, *arguments)))
    return 0


class Setup:
    """Data and networks, small or large enough to load a GPU."""

    def __init__(self, device: str, *, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.steps = 12 if quick else 200
        self.batch_size = 32 if quick else 256
        self.widths = (4, 8) if quick else (32, 128)
        self.task = limbeck.tasks.Classification(classes=CLASSES)

    def load_data(self) -> limbeck.data.DataModule:
        """Images of a class-dependent pattern with noise."""
        generator = torch.Generator().manual_seed(0)
        size, samples = (16, 320) if self.quick else (32, 4096)
        target = torch.arange(samples) % CLASSES
        patterns = torch.rand(CLASSES, 3, size, size, generator=generator)
        images = 0.5 * patterns[target] + 0.5 * torch.rand(samples, 3, size, size, generator=generator)
        return from_tensors(images, target, augment=Augmentation((affine(degrees=5),), num_views=2))

    def make_network(self, width: int) -> nn.Module:
        torch.manual_seed(width)
        return small_cnn(width=width, channels=3, classes=CLASSES)

    def make_distiller(self, *, compile: bool = False, backend: str = "eager") -> limbeck.Distiller:
        student, teacher = map(self.make_network, self.widths)
        return limbeck.Distiller(
            torch.compile(student) if compile else student, FrozenTeacher(teacher, backend=backend),
            objective={"target": CrossEntropyLoss(), "kd": KDLoss(temperature=4.0)}, task=self.task,
        )  # fmt: skip

    def train(self, distiller: limbeck.Distiller, **settings: object) -> limbeck.FitResult:
        training = TrainingConfig(
            optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9), batch_size=self.batch_size, max_grad_norm=5.0,
            checkpoint_every_seconds=0.0,
        )  # fmt: skip
        return limbeck.fit(
            distiller, self.load_data(), steps=self.steps, training=training, callbacks=[],
            **{"steps_per_epoch": self.steps // 2, **settings},
        )  # fmt: skip


def check_training(setup: Setup, folder: Path, precision: str, compile: str) -> dict:
    """A training in ``precision``, with a compiled student where ``compile`` is set: the loss decreases."""
    start = time.perf_counter()
    distiller = setup.make_distiller(compile=bool(compile))
    run = setup.train(distiller, fabric=make_fabric(precision=precision))
    losses = [row["loss"] for row in run.history]
    devices = {str(parameter.device.type) for parameter in distiller.student.parameters()}
    if not losses[-1] < losses[0]:
        raise AssertionError(f"the loss must decrease, got {losses}")
    return {"losses": losses, "devices": sorted(devices), "seconds": time.perf_counter() - start} | peak_memory()


def check_resume(setup: Setup, folder: Path, precision: str) -> dict:
    """A training that is killed and resumed has the weights and the gradient scale of one that was not."""
    reference = run_process(setup, f"fit:{precision}", folder / "whole")
    killed = start_process(setup, f"fit:{precision}:slow", folder / "killed")
    checkpoint = folder / "killed" / "checkpoint" / "distilled.distill.pt"
    wait_until(lambda: checkpoint.exists() or killed.poll() is not None)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    if killed.returncode != -signal.SIGKILL:
        raise AssertionError(f"the training must be killed before its end, and its status was {killed.returncode}")
    resumed = run_process(setup, f"fit:{precision}:resume", folder / "killed")
    if resumed["scaler"] != reference["scaler"]:
        raise AssertionError(f"the state of the scaler must be {reference['scaler']}, got {resumed['scaler']}")
    difference = max_difference(folder / "whole" / "weights.pt", folder / "killed" / "weights.pt")
    if difference > (0.0 if setup.device == "cpu" else 1e-3):
        raise AssertionError(f"weights differ by {difference} from those of the training that was not killed")
    return {"max_abs_difference": difference, "scaler": resumed["scaler"]}


def fit(setup: Setup, folder: Path, precision: str, mode: str = "") -> dict:
    """The process that :func:`check_resume` kills."""
    distiller, fabric = setup.make_distiller(), make_fabric(precision=precision)
    if mode == "slow":
        distiller.student.register_forward_hook(lambda *_: time.sleep(0.1))
    run = setup.train(distiller, fabric=fabric, run_dir=folder, resume=mode == "resume")
    weights = {name: value.cpu() for name, value in run.student.state_dict().items()}
    torch.save(weights, folder / "weights.pt")
    return {"scaler": fabric.strategy.precision.state_dict()}


def check_backends(setup: Setup, folder: Path) -> dict:
    """Every backend gives the outputs of eager, or says why it cannot."""
    data, network = setup.load_data(), setup.make_network(setup.widths[1]).to(setup.device).eval()
    batch = {key: value.to(setup.device) for key, value in data.batches(batch_size=setup.batch_size).batch(0).items()}
    expected = FrozenTeacher(network).predict(batch, setup.task).require_logits()
    results = {}
    for name in ("eager", "fold_batchnorm", "compile", "onnxruntime", "auto"):
        teacher = FrozenTeacher(network, backend=name)
        try:
            logits = teacher.predict(batch, setup.task).require_logits()
        except limbeck.LimbeckError as error:
            if name in ("eager", "fold_batchnorm", "auto"):
                raise
            results[name] = {"unsupported": str(error)}
            continue
        if logits.device != expected.device:
            raise AssertionError(f"the logits of {name} must be on {expected.device}, got {logits.device}")
        results[name] = {"max_relative_difference": relative_difference(logits, expected)} | describe(
            teacher.backend.report
        )
        if results[name]["max_relative_difference"] > 1e-3:
            raise AssertionError(f"{name} differs from eager by {results[name]['max_relative_difference']}")
    return results


def check_cache(setup: Setup, folder: Path) -> dict:
    """The cache is filled on the device, and a second reader gets the stored outputs without the teacher."""
    data, network = setup.load_data(), setup.make_network(setup.widths[1]).to(setup.device)
    batch = {key: value.to(setup.device) for key, value in data.batches(batch_size=setup.batch_size).batch(0).items()}
    cached = CachedTeacher(network, data, root=folder)
    start = time.perf_counter()
    for _ in cached.populate(setup.task, batch_size=setup.batch_size):
        pass
    seconds, misses = time.perf_counter() - start, cached.misses
    reader = CachedTeacher(network, data, root=folder)
    start = time.perf_counter()
    logits = reader.predict(batch, setup.task).require_logits()
    expected = FrozenTeacher(network).predict(batch, setup.task).require_logits()
    difference = relative_difference(logits, expected)
    if reader.misses or difference > 5e-3 or logits.device != expected.device:
        raise AssertionError(f"stored outputs: {reader.misses} misses, difference {difference}, on {logits.device}")
    return {"outputs": misses, "fill_seconds": seconds, "read_seconds": time.perf_counter() - start,
            "max_relative_difference": difference}  # fmt: skip


def check_processes(setup: Setup, folder: Path, strategy: str, num_processes: str) -> dict:
    """Processes that share a training end with the same loss as each other, and it decreases."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [*command, __file__, *part_arguments(setup, f"fit_process:{strategy}", folder)], check=True,
        timeout=PART_LIMIT_S, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]
    losses = {tuple(result["losses"]) for result in results}
    if len(results) != int(num_processes) or len(losses) != 1:
        raise AssertionError(f"{num_processes} processes must have one history, got {results}")
    if not results[0]["losses"][-1] < results[0]["losses"][0]:
        raise AssertionError(f"the loss must decrease, got {results[0]['losses']}")
    return results[0]


def fit_process(setup: Setup, folder: Path, strategy: str) -> dict:
    """One of the processes of :func:`check_processes`."""
    run = setup.train(setup.make_distiller(), fabric=make_fabric(strategy=strategy))
    result = {"losses": [row["loss"] for row in run.history]} | peak_memory()
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(result))
    return result


def check_export(setup: Setup, folder: Path) -> dict:
    """A student that was trained on the device is exported, and onnxruntime gives its logits."""
    folder.mkdir(parents=True, exist_ok=True)
    data = setup.load_data()
    run = setup.train(setup.make_distiller(), fabric=make_fabric(precision="bf16-mixed"))
    images = data.validation.read(torch.arange(len(data.validation)))
    student = run.student.to(setup.device).eval()
    with torch.no_grad():
        on_device = student(images.to(setup.device)).cpu()
    info = to_onnx(student, images[:1], folder / "student.onnx", check_inputs=images)
    from limbeck.export import predict_onnx

    difference = relative_difference(predict_onnx(folder / "student.onnx", images), on_device)
    if difference > 1e-2:  # convolutions may use TF32 on the device
        raise AssertionError(f"onnxruntime differs from torch on {setup.device} by {difference}")
    return {"max_abs_difference": info["max_abs_difference"], "max_relative_difference_to_device": difference}


PARTS: dict[str, Callable[..., dict]] = {
    "train": check_training, "resume": check_resume, "fit": fit, "backends": check_backends, "cache": check_cache,
    "processes": check_processes, "fit_process": fit_process, "export": check_export,
}  # fmt: skip


def list_parts(device: str) -> list[str]:
    """The parts in the order of their importance, for the number of visible devices."""
    parts = ["train:32-true:", "train:bf16-mixed:", "train:16-mixed:", "resume:16-mixed", "resume:32-true", "cache"]
    parts += ["export", "backends", "train:bf16-mixed:compile", "train:bf16-true:"]
    num_processes = 2 if device == "cpu" else torch.cuda.device_count()
    if num_processes > 1:
        parts += [f"processes:{strategy}:{num_processes}" for strategy in ("ddp", "fsdp")]
    if device == "cpu":
        parts = [part for part in parts if "16-mixed" not in part or "bf16" in part]  # float16 scaling is for GPUs
    return parts


def run_all_parts(options: argparse.Namespace) -> int:
    """Run the parts one after another within the limit, and write the result after each."""
    start, results = time.perf_counter(), dict[str, dict]()
    num_failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for part in list_parts(options.device):
            part_start, remaining = time.perf_counter(), LIMIT_S - (time.perf_counter() - start)
            if remaining < 15:
                results[part] = {"status": "skipped", "reason": f"the limit of {LIMIT_S:g} s"}
                continue
            results[part] = run_part(options, part, Path(folder) / part.replace(":", "_"), min(PART_LIMIT_S, remaining))
            results[part]["wall_seconds"] = round(time.perf_counter() - part_start, 1)
            num_failed += results[part]["status"] == "failed"
            print(f"{part}: {results[part]['status']} ({results[part]['wall_seconds']} s)", flush=True)
            write_results(options, results)
    print(f"{num_failed} of {len(results)} parts failed; {options.output}")
    return int(num_failed > 0)


def run_part(options: argparse.Namespace, part: str, folder: Path, limit: float) -> dict:
    setup = Setup(options.device, quick=options.quick)
    command = [sys.executable, __file__, *part_arguments(setup, part, folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"status": "failed", "error": f"not finished in {limit:.0f} s"}
    if process.returncode:
        return {"status": "failed", "error": errors.strip()[-2000:]}
    return {"status": "passed", "result": json.loads(output.strip().splitlines()[-1])}


def write_results(options: argparse.Namespace, results: dict) -> None:
    """Write the machine, and the outcome of each part."""
    machine = {"device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
               "num_devices": torch.cuda.device_count() if options.device == "cuda" else 1,
               "torch": torch.__version__, "quick": options.quick}  # fmt: skip
    options.output.write_text(json.dumps({"rows": [], "machine": machine, "parts": results}, indent=1) + "\n")


def part_arguments(setup: Setup, part: str, folder: Path) -> list[str]:
    return [*(["--quick"] if setup.quick else []), "--device", setup.device, "--folder", str(folder), "--part", part]


def start_process(setup: Setup, part: str, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, __file__, *part_arguments(setup, part, folder)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run_process(setup: Setup, part: str, folder: Path) -> dict:
    process = start_process(setup, part, folder)
    output, errors = process.communicate(timeout=PART_LIMIT_S)
    if process.returncode:
        raise AssertionError(errors.strip()[-1500:])
    return json.loads(output.strip().splitlines()[-1])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PART_LIMIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def max_difference(first: Path, second: Path) -> float:
    one, two = torch.load(first), torch.load(second)
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in one)


def relative_difference(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value.float() - expected.float()).abs().max() / expected.abs().max())


def describe(report: BackendReport) -> dict:
    return {"backend": report.backend, "latency_ms": dict(report.latency_ms), "skipped": dict(report.skipped)}


def peak_memory() -> dict:
    return {"peak_mb": torch.cuda.max_memory_allocated() / 1e6} if torch.cuda.is_available() else {}


if __name__ == "__main__":
    sys.exit(main())
