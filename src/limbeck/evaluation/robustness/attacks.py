"""Accuracy under white-box adversarial attacks: untargeted, L∞, within 0..1.

FGSM is Goodfellow et al.'s (2015, https://arxiv.org/abs/1412.6572), PGD Madry et al.'s (2018,
https://arxiv.org/abs/1706.06083), APGD Croce & Hein's (2020, https://arxiv.org/abs/2003.01690), from the package
torchattacks. ε, the largest change of a pixel, is in pixel units of 0..1, so the attacked network maps pixels
``[n, ...]`` in 0..1 to logits ``[n, classes]`` and normalizes itself. Its modes and gradients do not change. An attack
takes ``pixels`` on the network's device and ``target`` (``[n]`` class indices), and raises a :class:`LimbeckError` for
``eps`` or pixels outside 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data.counter_rng import derive_seed, make_generator
from limbeck.data.split import Split
from limbeck.evaluation.checks import model_device, require_class_targets, require_labeled, require_pixels
from limbeck.utils.eval_mode import eval_mode

__all__ = ["ATTACKS", "DEFAULT_EPS", "adversarial_accuracy", "apgd", "fgsm", "pgd"]

DEFAULT_EPS = 8 / 255
"""The usual ε for color images of 32×32."""


def fgsm(network: nn.Module, pixels: Tensor, target: Tensor, *, eps: float = DEFAULT_EPS) -> Tensor:
    """Fast gradient sign method: one step of ``eps`` that increases the loss.

    >>> network = nn.Linear(1, 2, bias=False)
    >>> with torch.no_grad(): _ = network.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> fgsm(network, torch.tensor([[0.5]]), torch.tensor([0]), eps=0.25)
    tensor([[0.2500]])
    """
    require_pixels(pixels, eps=eps)
    with eval_mode(network):
        return (pixels + eps * _gradient_sign(network, pixels, target)).clamp(0, 1)


def pgd(
    network: nn.Module, pixels: Tensor, target: Tensor, *, eps: float = DEFAULT_EPS, seed: int = 0, steps: int = 20,
    step_size: float | None = None,
) -> Tensor:  # fmt: skip
    """Projected gradient descent: ``steps`` from a uniformly random start, each projected to within ``eps``.

    ``step_size`` is the change of a pixel per step; ``None``: a quarter of ``eps`` (2/255 for 8/255).
    """
    require_pixels(pixels, eps=eps)
    step_size = eps / 4 if step_size is None else step_size
    if steps < 1 or not 0 < step_size <= 1:
        raise LimbeckError(
            f"steps must be at least 1 and step_size in 0..1 (2/255 = 0.0078), got {steps} and {step_size}"
        )
    # On the CPU, so that the start is the same on every device.
    start = torch.rand(pixels.shape, generator=make_generator(seed), dtype=pixels.dtype).to(pixels.device)
    perturbed = (pixels + eps * (2 * start - 1)).clamp(0, 1)
    with eval_mode(network):
        for _ in range(steps):
            perturbed = perturbed + step_size * _gradient_sign(network, perturbed, target)
            perturbed = (pixels + (perturbed - pixels).clamp(-eps, eps)).clamp(0, 1)
    return perturbed


def apgd(
    network: nn.Module, pixels: Tensor, target: Tensor, *, eps: float = DEFAULT_EPS, seed: int = 0, steps: int = 20
) -> Tensor:
    """Auto-PGD on the cross-entropy, with an adaptive step size, by torchattacks."""
    require_pixels(pixels, eps=eps)
    if pixels.ndim != 4:
        raise LimbeckError(f"apgd needs images [n, channels, height, width], got {list(pixels.shape)}; use pgd")
    try:
        import torchattacks  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise LimbeckError(
            f"apgd needs torchattacks, which cannot be imported ({error}); pip install --no-deps torchattacks (its "
            "dependencies pin an old version of requests)"
        ) from error
    attack = torchattacks.APGD(network, norm="Linf", eps=eps, steps=steps, seed=seed)
    # torchattacks seeds torch's global generator.
    with torch.random.fork_rng(), eval_mode(network), torch.enable_grad():
        perturbed: Tensor = attack(pixels, target)
    return perturbed.detach()


ATTACKS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"fgsm": lambda *args, seed, **options: fgsm(*args, **options), "pgd": pgd, "apgd": apgd}
)
"""The attacks of :func:`adversarial_accuracy` by name, which take ``eps`` and ``seed``."""


def adversarial_accuracy(
    network: nn.Module, split: Split, *, attacks: Sequence[str] = ("fgsm", "pgd"), eps: float = DEFAULT_EPS,
    seed: int = 0, batch_size: int = 256,
) -> dict[str, Tensor]:  # fmt: skip
    """Whether ``network`` stays correct on each labeled sample of ``split`` under ``attacks`` from :data:`ATTACKS`.

    Returns:
        ``[labeled]`` booleans by name: ``clean``, each attack, and ``worst_case``, correct under all of them. A sample
        that is wrong without an attack is wrong under every attack.

    >>> from limbeck.data.split import InMemory
    >>> split = Split.from_images(InMemory(torch.tensor([[0.9, 0.1], [0.55, 0.45]])), torch.tensor([0, 0]))
    >>> correct = adversarial_accuracy(nn.Identity(), split, attacks=["fgsm"], eps=0.1)
    >>> correct["clean"].tolist(), correct["fgsm"].tolist(), correct["worst_case"].tolist()
    ([True, True], [True, False], [True, False])
    """
    for name in attacks:
        if name not in ATTACKS:
            raise LimbeckError(f"unknown attack {name!r}; use one of {suggest_names(name, ATTACKS)}")
    require_class_targets(split, "an attack")
    split, device = require_labeled(split), model_device(network)
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
                    network, pixels[correct], target[correct], eps=eps, seed=derive_seed(seed, batch_index) % 2**32
                )
                still_correct[correct] = _is_correct(network, perturbed, target[correct])
            chunks[name].append(still_correct.cpu())
    results = {name: torch.cat(pieces) for name, pieces in chunks.items()}
    return {**results, "worst_case": torch.stack(list(results.values())).all(dim=0)}


def _gradient_sign(network: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
    """Sign of the gradient of the cross-entropy with respect to the pixels."""
    with torch.enable_grad():
        leaf = pixels.detach().requires_grad_()
        logits = network(leaf).float()
        target_logit = logits.gather(1, target[:, None])[:, 0]
        other_logit = logits.scatter(1, target[:, None], float("-inf")).logsumexp(dim=1)
        # The cross-entropy in a form whose gradient does not round to 0: above a margin of 17, 1 − p is 0 in float32.
        (gradient,) = torch.autograd.grad(F.softplus(other_logit - target_logit).sum(), leaf)
    return gradient.sign()


def _is_correct(network: nn.Module, pixels: Tensor, target: Tensor) -> Tensor:
    with eval_mode(network):
        return torch.as_tensor(network(pixels).argmax(dim=1) == target)
