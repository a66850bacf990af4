"""``limbeck evaluate`` with something to evaluate: every network of a run, side by side, into ``evaluation.json``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from limbeck._version import __version__
from limbeck.core.errors import LimbeckError, nearest
from limbeck.data import Data
from limbeck.evaluation import ATTACKS, EPS, machine, versions
from limbeck.models import load_weights
from limbeck.recipe.study_schema import CONTROLS
from limbeck.report import evaluation_table
from limbeck.teachers import Foreign
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.job import Job
from limbeck.workflows.distill.run import fingerprint
from limbeck.workflows.evaluate.efficiency import efficiency
from limbeck.workflows.evaluate.image_folders import any_pictures, by_class, twins
from limbeck.workflows.evaluate.robustness_api import Asked, side_by_side
from limbeck.workflows.revisit import finished

__all__ = ["EXAMPLES", "FILE", "examine"]

EXAMPLES = 1000
FILE = "evaluation.json"


def examine(
    folder: Path, what: Sequence[str], *, part: str = "validation", data_root: str | None = None,
    attacks: str | None = None, eps: str | None = None, examples: int = EXAMPLES, shifted: Path | None = None,
    twin: Path | None = None, outside: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure the networks of the run in ``folder``, write ``evaluation.json`` there, and print a table.

    Arguments:
        folder: the run.
        what: out of ``attacks``, ``corruptions``, ``noise``, ``shift``, ``ood``, ``calibration`` and ``efficiency``.
        part: ``validation``; or ``test``, which opens once in a run.
        data_root: where the data stands now, if it has moved.
        attacks: names with commas between; ``None``: all that are installed.
        eps: the largest change of a pixel, 0..1, as a number or a fraction (``8/255``).
        examples: how many pictures are attacked, corrupted and made noisy.
        shifted: a folder of pictures of the same classes.
        twin: a folder with the same pictures before they were shifted.
        outside: a folder of other pictures, or ``noise``.
    """
    begun, notes = time.monotonic(), list[str]()
    job = finished(folder, data_root)
    asked = Asked(
        what=tuple(name for name in what if name != "efficiency"), attacks=_attacks(attacks, notes, what=what),
        eps=_eps(eps), examples=examples, seed=job.recipe.seed, **_folders(job.data, shifted, twin, outside),
    )  # fmt: skip
    networks = _networks(job, folder, notes)
    samples = job.data.validation if part == "validation" else job.data.sealed.open(fingerprint(networks))
    pairs = [("distilled", name) for name in ("alone", "direct") if {"distilled", name} <= networks.keys()]
    found = {
        **_head(job, folder, part, asked),
        **side_by_side(networks, job.data, job.task, samples, asked=asked, pairs=pairs),
        "efficiency": None,
    }
    for name, title in _titles(folder).items():
        if name in found["models"]:
            found["models"][name] = {**title, **found["models"][name]}
    if "efficiency" in what:
        # The student alone is the same network with other weights, and costs the same.
        found["efficiency"] = efficiency(
            {name: one for name, one in networks.items() if name not in ("alone", "direct") or len(networks) == 1},
            job.data, job.task, samples,
        )  # fmt: skip
        notes += found["efficiency"].pop("notes")
    found |= {"notes": notes, "seconds": round(time.monotonic() - begun, 2)}
    text = json.dumps(found, indent=1, allow_nan=False)
    path = write_atomically(folder / FILE, lambda partial: partial.write_text(text))
    if part == "test":
        job.data.sealed.finish()
    _say(evaluation_table(found))
    _say(str(path.resolve()))
    return found


def _head(job: Job, folder: Path, part: str, asked: Asked) -> dict[str, Any]:
    return {
        "schema": 1, "kind": "evaluation", "limbeck": __version__, "name": job.recipe.name, "seed": job.recipe.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "part": part,
        "asked": {
            "what": list(asked.what), "attacks": list(asked.attacks), "eps": asked.eps, "examples": asked.examples,
        },
        "data": {"name": job.data.name, "fingerprint": job.data.fingerprint()}, "machine": machine(),
        "versions": versions(),
    }  # fmt: skip


def _networks(job: Job, folder: Path, notes: list[str]) -> dict[str, nn.Module]:
    """Every network of the run whose weights are kept, in the order of the record: teachers, controls, the student."""
    found: dict[str, nn.Module] = {}
    models = _titles(folder)
    for name, one in models.items():
        places = _places(folder, name, one["role"], single=len(models) == 1)
        file = next((file for file in places if file.exists()), None)
        if file is None:
            why = "it only answers" if one["role"] == "teacher" else "this run was made by a limbeck that kept none"
            notes.append(f"{name} is left out, for its weights are not in {folder}: {why}")
        elif not isinstance(network := _built(job, name), Foreign):
            found[name] = load_weights(network, file).eval()
    if not found:
        raise LimbeckError(f"{folder} keeps the weights of no network, so there is nothing to evaluate: run it again")
    return found


def _places(folder: Path, name: str, role: str, *, single: bool) -> tuple[Path, ...]:
    """Where the weights may stand: in a run, or in a cell of a study, which holds one student or the teachers."""
    beside = folder / "checkpoint" / f"{name}.safetensors"
    if role in ("teacher", "assistant"):
        return beside, folder / f"{name}.safetensors"
    return (folder / "student.safetensors" if role == "distilled" or single else beside,)


def _built(job: Job, name: str) -> nn.Module:
    if name in job.recipe.teachers:
        return job.teacher(name)
    if name in job.recipe.assistants:
        return job.assistant(name)
    return job.student() if name in CONTROLS else job.shipped()


def _titles(folder: Path) -> dict[str, dict[str, str]]:
    """Role and title of each model in the record."""
    try:
        models = json.loads((folder / "record.json").read_text())["models"]
        return {name: {"role": one["role"], "title": one["title"]} for name, one in models.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LimbeckError(f"{folder / 'record.json'} cannot be read: it is not the record of a run") from error


def _attacks(given: str | None, notes: list[str], *, what: Sequence[str]) -> tuple[str, ...]:
    if given is not None:
        names = tuple(name.strip() for name in given.split(",") if name.strip())
        for name in names:
            if name not in ATTACKS:
                raise LimbeckError(f"no attack is named {name!r}; there are: {nearest(name, ATTACKS)}")
        if not names:
            raise LimbeckError(f"--attacks names attacks with commas between, out of {', '.join(ATTACKS)}")
        return names
    if find_spec("torchattacks") is not None:
        return tuple(ATTACKS)
    if "attacks" in what:
        notes.append("apgd is left out, for torchattacks is not installed: pip install --no-deps torchattacks")
    return tuple(name for name in ATTACKS if name != "apgd")


def _eps(given: str | None) -> float:
    """A number or a fraction."""
    if given is None:
        return EPS
    above, _, below = given.partition("/")
    try:
        eps = float(above) / (float(below) if below else 1.0)
    except (ValueError, ZeroDivisionError):
        raise LimbeckError(f"--eps is a number or a fraction in 0..1, such as 8/255, not {given!r}") from None
    if not 0 < eps <= 1:
        raise LimbeckError(
            f"an unnormalised ε is refused: --eps is in pixel units of 0..1, and {given} is not between 0 and 1; give "
            f"{given}/255 for {given} levels of 255"
            if eps > 1
            else f"--eps is a number or a fraction in 0..1, such as 8/255, not {given!r}"
        )
    return eps


def _folders(data: Data, shifted: Path | None, twin: Path | None, outside: str | None) -> Mapping[str, Any]:
    found: dict[str, Any] = {"shifted": None, "twin": None}
    if twin is not None and shifted is None:
        raise LimbeckError("--twin is the other version of the pictures of --shift: give --shift as well")
    if shifted is not None and twin is not None:
        found["twin"], found["shifted"] = twins(twin, shifted, data)
    elif shifted is not None:
        found["shifted"] = by_class(shifted, data)
    noise = outside is None or (outside == "noise" and not Path(outside).is_dir())
    return {**found, "outside": None if noise else any_pictures(Path(outside or ""), data)}


def _say(text: str) -> None:
    print(text)  # noqa: T201
