"""Accuracy under attack: pictures changed within ε so that a network errs, which it shows the way to by its gradient.

FGSM is Goodfellow et al.'s (2015, https://arxiv.org/abs/1412.6572), PGD Madry et al.'s (2018,
https://arxiv.org/abs/1706.06083), APGD Croce & Hein's (2020, https://arxiv.org/abs/2003.01690), of which the package
torchattacks has the code. All keep every pixel within ε of what it was (L∞) and within 0..1, and aim at any class
but the true one.

ε is in units of the pixel, 0..1, so a network that is attacked takes pixels and normalises them itself: 8/255 of a
normalised input would be another attack for each data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError, nearest
from limbeck.data.counter_rng import generator, mix
from limbeck.data.split import Part
from limbeck.evaluation.checks import evaluating, require_pixels

__all__ = ["ATTACKS", "EPS", "apgd", "attacked", "fgsm", "pgd"]

EPS = 8 / 255
"""What colour pictures of 32×32 are usually attacked with."""


def fgsm(network: nn.Module, pixels: Tensor, target: Tensor, *, eps: float = EPS) -> Tensor:
    """``pixels`` one step of ``eps`` up the loss.

    Args:
        network: takes pixels and gives logits ``[n, classes]``; its modes and gradients stay as they are.
        pixels: ``[n, ...]`` in 0..1, on the network's device.
        target: ``[n]`` class numbers.
        eps: the largest change of a pixel, in 0..1.

    Raises:
        LimbeckError: ``eps`` or pixels that are not in units of 0..1.

    >>> network = nn.Linear(1, 2, bias=False)
    >>> with torch.no_grad(): _ = network.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> fgsm(network, torch.tensor([[0.5]]), torch.tensor([0]), eps=0.25)
    tensor([[0.2500]])
    """
    require_pixels(pixels, eps=eps)
    with evaluating(network):
        return (pixels + eps * _uphill(network, pixels, target)).clamp(0, 1)


def pgd(
    network: nn.Module, pixels: Tensor, target: Tensor, *, eps: float = EPS, seed: int = 0, steps: int = 20,
    step: float | None = None,
) -> Tensor:  # fmt: skip
    """``pixels`` after ``steps`` steps up the loss from a random start, each brought back to within ``eps``.

    Args:
        network: takes pixels and gives logits ``[n, classes]``; its modes and gradients stay as they are.
        pixels: ``[n, ...]`` in 0..1, on the network's device.
        target: ``[n]`` class numbers.
        eps: the largest change of a pixel, in 0..1.
        seed: of the start, which is uniform within ``eps``.
        steps: how many.
        step: how long each is; ``None``: a quarter of ``eps``, which is 2/255 for 8/255.

    >>> network = nn.Linear(1, 2, bias=False)
    >>> with torch.no_grad(): _ = network.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> pgd(network, torch.tensor([[0.5]]), torch.tensor([0]), eps=0.25)
    tensor([[0.2500]])
    """
    require_pixels(pixels, eps=eps)
    if steps < 1 or (step is not None and not 0 < step <= 1):
        raise LimbeckError(f"pgd takes steps from 1 and a step in 0..1 (2/255 = 0.0078), not {steps} and {step}")
    length = eps / 4 if step is None else step
    # Drawn on the CPU, so that every device starts from the same place.
    start = torch.rand(pixels.shape, generator=generator(seed), dtype=pixels.dtype).to(pixels.device)
    changed = (pixels + eps * (2 * start - 1)).clamp(0, 1)
    with evaluating(network):
        for _ in range(steps):
            changed = changed + length * _uphill(network, changed, target)
            changed = (pixels + (changed - pixels).clamp(-eps, eps)).clamp(0, 1)
    return changed


def apgd(
    network: nn.Module, pixels: Tensor, target: Tensor, *, eps: float = EPS, seed: int = 0, steps: int = 20
) -> Tensor:  # fmt: skip
    """``pixels`` after ``steps`` of APGD on the cross-entropy, whose step finds its own length; by torchattacks.

    Raises:
        LimbeckError: torchattacks is not installed, or ``eps`` or pixels are not in units of 0..1.
    """
    require_pixels(pixels, eps=eps)
    if pixels.ndim != 4:
        raise LimbeckError(f"apgd takes pictures [n, channels, height, width], not {list(pixels.shape)}: use pgd")
    attack = _torchattacks().APGD(network, norm="Linf", eps=eps, steps=steps, seed=seed)
    # It seeds torch's own generator, and what comes after must not hang on whether there was an attack.
    with torch.random.fork_rng(), evaluating(network), torch.enable_grad():
        changed: Tensor = attack(pixels, target)
    return changed.detach()


def _drawn_by(attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``attack`` as all are called here, with the number of the batch as one more word of its seed."""

    def made(*given: Any, eps: float, seed: int, turn: int) -> Tensor:
        return attack(*given, eps=eps, seed=mix(seed, turn) % 2**32)

    return made


def _fgsm(*given: Any, eps: float, seed: int, turn: int) -> Tensor:
    return fgsm(*given, eps=eps)  # draws nothing


ATTACKS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"fgsm": _fgsm, "pgd": _drawn_by(pgd), "apgd": _drawn_by(apgd)}
)
"""What :func:`attacked` knows, by name."""


def attacked(
    network: nn.Module, part: Part, *, attacks: Sequence[str] = ("fgsm", "pgd"), eps: float = EPS, seed: int = 0,
    batch: int = 256,
) -> dict[str, Tensor]:  # fmt: skip
    """On which labelled samples of ``part`` the network stays right.

    Args:
        network: takes pixels in 0..1 and gives logits ``[n, classes]``; where it stands, there it is attacked.
        part: the samples; those without a label are left out.
        attacks: names out of :data:`ATTACKS`.
        eps: the largest change of a pixel, in 0..1.
        seed: of what is drawn.
        batch: samples at once.

    Returns:
        ``[labelled]`` booleans by name: ``clean``, each attack, and ``worst``, right under every one of them. What was
        wrong before an attack counts as wrong under it, so that no attack can mend an answer.

    Raises:
        LimbeckError: an unknown attack, no labelled sample, or ``eps`` or pixels that are not in units of 0..1.

    >>> from limbeck.data.split import Stored
    >>> part = Part.whole(Stored(torch.tensor([[0.9, 0.1], [0.55, 0.45]])), torch.tensor([0, 0]))
    >>> found = attacked(nn.Identity(), part, attacks=["fgsm"], eps=0.1)
    >>> found["clean"].tolist(), found["fgsm"].tolist(), found["worst"].tolist()
    ([True, True], [True, False], [True, False])
    """
    for name in attacks:
        if name not in ATTACKS:
            raise LimbeckError(f"no attack is named {name!r}; there are: {nearest(name, ATTACKS)}")
    part = part.labelled()
    if not len(part):
        raise LimbeckError("there is nothing to attack: no sample has a label")
    held = next(iter(network.parameters()), None)
    device = torch.device("cpu") if held is None else held.device
    found: dict[str, list[Tensor]] = {name: [] for name in ("clean", *attacks)}
    for turn, which in enumerate(torch.split(torch.arange(len(part)), batch)):
        pixels, target = part.read(which).to(device), part.target[which].to(device)
        require_pixels(pixels, eps=eps)
        right = _right(network, pixels, target)
        found["clean"].append(right.cpu())
        for name in attacks:
            stays = right.clone()
            if bool(right.any()):
                changed = ATTACKS[name](network, pixels[right], target[right], eps=eps, seed=seed, turn=turn)
                stays[right] = _right(network, changed, target[right])
            found[name].append(stays.cpu())
    whole = {name: torch.cat(pieces) for name, pieces in found.items()}
    return {**whole, "worst": torch.stack(list(whole.values())).all(dim=0)}


def _uphill(network: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
    """The sign of the gradient of the cross-entropy by the pixels; the parameters' gradients are not touched."""
    with torch.enable_grad():
        leaf = pixels.detach().requires_grad_()
        logits = network(leaf).float()
        own = logits.gather(1, target[:, None])[:, 0]
        others = logits.scatter(1, target[:, None], float("-inf")).logsumexp(dim=1)
        # The cross-entropy, written so that its gradient does not round to zero where the network is sure: from a gap
        # of 17 on, 1 − p is 0 in float32, and a network that is merely sure of itself would look robust.
        (gradient,) = torch.autograd.grad(F.softplus(others - own).sum(), leaf)
    return gradient.sign()


def _right(network: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
    with evaluating(network):
        return torch.as_tensor(network(pixels).argmax(dim=1) == target)


def _torchattacks() -> Any:
    try:
        import torchattacks  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise LimbeckError(
            f"apgd is torchattacks's, which cannot be imported ({error}): pip install --no-deps torchattacks, without "
            "its dependencies, since it asks for a requests of many years ago"
        ) from error
    return torchattacks
