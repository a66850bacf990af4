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

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data.counter_rng import derive_seed, make_generator
from limbeck.data.split import Split
from limbeck.evaluation.checks import evaluation_mode, require_pixels

__all__ = ["ATTACKS", "DEFAULT_EPS", "adversarial_accuracy", "apgd", "fgsm", "pgd"]

DEFAULT_EPS = 8 / 255
"""What colour pictures of 32×32 are usually attacked with."""


def fgsm(network: nn.Module, pixels: Tensor, target: Tensor, *, eps: float = DEFAULT_EPS) -> Tensor:
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
    with evaluation_mode(network):
        return (pixels + eps * _gradient_sign(network, pixels, target)).clamp(0, 1)


def pgd(
    network: nn.Module, pixels: Tensor, target: Tensor, *, eps: float = DEFAULT_EPS, seed: int = 0, steps: int = 20,
    step_size: float | None = None,
) -> Tensor:  # fmt: skip
    """``pixels`` after ``steps`` steps up the loss from a random start, each brought back to within ``eps``.

    Args:
        network: takes pixels and gives logits ``[n, classes]``; its modes and gradients stay as they are.
        pixels: ``[n, ...]`` in 0..1, on the network's device.
        target: ``[n]`` class numbers.
        eps: the largest change of a pixel, in 0..1.
        seed: of the start, which is uniform within ``eps``.
        steps: how many.
        step_size: how long each is; ``None``: a quarter of ``eps``, which is 2/255 for 8/255.

    >>> network = nn.Linear(1, 2, bias=False)
    >>> with torch.no_grad(): _ = network.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> pgd(network, torch.tensor([[0.5]]), torch.tensor([0]), eps=0.25)
    tensor([[0.2500]])
    """
    require_pixels(pixels, eps=eps)
    if steps < 1 or (step_size is not None and not 0 < step_size <= 1):
        raise LimbeckError(
            f"pgd takes steps from 1 and a step_size in 0..1 (2/255 = 0.0078), not {steps} and {step_size}"
        )
    update_size = eps / 4 if step_size is None else step_size
    # Drawn on the CPU, so that every device starts from the same place.
    start = torch.rand(pixels.shape, generator=make_generator(seed), dtype=pixels.dtype).to(pixels.device)
    perturbed = (pixels + eps * (2 * start - 1)).clamp(0, 1)
    with evaluation_mode(network):
        for _ in range(steps):
            perturbed = perturbed + update_size * _gradient_sign(network, perturbed, target)
            perturbed = (pixels + (perturbed - pixels).clamp(-eps, eps)).clamp(0, 1)
    return perturbed


def apgd(
    network: nn.Module, pixels: Tensor, target: Tensor, *, eps: float = DEFAULT_EPS, seed: int = 0, steps: int = 20
) -> Tensor:  # fmt: skip
    """``pixels`` after ``steps`` of APGD on the cross-entropy, whose step finds its own length; by torchattacks.

    Raises:
        LimbeckError: torchattacks is not installed, or ``eps`` or pixels are not in units of 0..1.
    """
    require_pixels(pixels, eps=eps)
    if pixels.ndim != 4:
        raise LimbeckError(f"apgd takes pictures [n, channels, height, width], not {list(pixels.shape)}: use pgd")
    attack = _import_torchattacks().APGD(network, norm="Linf", eps=eps, steps=steps, seed=seed)
    # It seeds torch's own generator, and what comes after must not hang on whether there was an attack.
    with torch.random.fork_rng(), evaluation_mode(network), torch.enable_grad():
        perturbed: Tensor = attack(pixels, target)
    return perturbed.detach()


def _with_batch_seed(attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``attack`` as all are called here, with the number of the batch as one more word of its seed."""

    def seeded_attack(*args: Any, eps: float, seed: int, batch_index: int) -> Tensor:
        return attack(*args, eps=eps, seed=derive_seed(seed, batch_index) % 2**32)

    return seeded_attack


def _run_fgsm(*args: Any, eps: float, seed: int, batch_index: int) -> Tensor:
    return fgsm(*args, eps=eps)  # draws nothing


ATTACKS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"fgsm": _run_fgsm, "pgd": _with_batch_seed(pgd), "apgd": _with_batch_seed(apgd)}
)
"""What :func:`attacked` knows, by name."""


def adversarial_accuracy(
    network: nn.Module, split: Split, *, attacks: Sequence[str] = ("fgsm", "pgd"), eps: float = DEFAULT_EPS, seed: int = 0,
    batch_size: int = 256,
) -> dict[str, Tensor]:  # fmt: skip
    """On which labelled samples of ``split`` the network stays right.

    Args:
        network: takes pixels in 0..1 and gives logits ``[n, classes]``; where it stands, there it is attacked.
        split: the samples; those without a label are left out.
        attacks: names out of :data:`ATTACKS`.
        eps: the largest change of a pixel, in 0..1.
        seed: of what is drawn.
        batch_size: samples at once.

    Returns:
        ``[labelled]`` booleans by name: ``clean``, each attack, and ``worst_case``, right under every one of them. What was
        wrong before an attack counts as wrong under it, so that no attack can mend an answer.

    Raises:
        LimbeckError: an unknown attack, no labelled sample, or ``eps`` or pixels that are not in units of 0..1.

    >>> from limbeck.data.split import InMemory
    >>> part = Split.from_images(InMemory(torch.tensor([[0.9, 0.1], [0.55, 0.45]])), torch.tensor([0, 0]))
    >>> found = adversarial_accuracy(nn.Identity(), part, attacks=["fgsm"], eps=0.1)
    >>> found["clean"].tolist(), found["fgsm"].tolist(), found["worst_case"].tolist()
    ([True, True], [True, False], [True, False])
    """
    for name in attacks:
        if name not in ATTACKS:
            raise LimbeckError(f"no attack is named {name!r}; there are: {suggest_names(name, ATTACKS)}")
    split = split.select_labeled()
    if not len(split):
        raise LimbeckError("there is nothing to attack: no sample has a label")
    first_parameter = next(iter(network.parameters()), None)
    device = torch.device("cpu") if first_parameter is None else first_parameter.device
    chunks: dict[str, list[Tensor]] = {name: [] for name in ("clean", *attacks)}
    for batch_index, indices in enumerate(torch.split(torch.arange(len(split)), batch_size)):
        pixels, target = split.read(indices).to(device), split.target[indices].to(device)
        require_pixels(pixels, eps=eps)
        correct = _is_correct(network, pixels, target)
        chunks["clean"].append(correct.cpu())
        for name in attacks:
            still_correct = correct.clone()
            if bool(correct.any()):
                perturbed = ATTACKS[name](
                    network, pixels[correct], target[correct], eps=eps, seed=seed, batch_index=batch_index
                )
                still_correct[correct] = _is_correct(network, perturbed, target[correct])
            chunks[name].append(still_correct.cpu())
    results = {name: torch.cat(pieces) for name, pieces in chunks.items()}
    return {**results, "worst_case": torch.stack(list(results.values())).all(dim=0)}


def _gradient_sign(network: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
    """The sign of the gradient of the cross-entropy by the pixels; the parameters' gradients are not touched."""
    with torch.enable_grad():
        leaf = pixels.detach().requires_grad_()
        logits = network(leaf).float()
        target_logit = logits.gather(1, target[:, None])[:, 0]
        other_logit = logits.scatter(1, target[:, None], float("-inf")).logsumexp(dim=1)
        # The cross-entropy, written so that its gradient does not round to zero where the network is sure: from a gap
        # of 17 on, 1 − p is 0 in float32, and a network that is merely sure of itself would look robust.
        (gradient,) = torch.autograd.grad(F.softplus(other_logit - target_logit).sum(), leaf)
    return gradient.sign()


def _is_correct(network: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
    with evaluation_mode(network):
        return torch.as_tensor(network(pixels).argmax(dim=1) == target)


def _import_torchattacks() -> Any:
    try:
        import torchattacks  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise LimbeckError(
            f"apgd is torchattacks's, which cannot be imported ({error}): pip install --no-deps torchattacks, without "
            "its dependencies, since it asks for a requests of many years ago"
        ) from error
    return torchattacks
