"""Float64 arithmetic of the self-distillation papers, without torch or limbeck."""

import numpy as np


def log_softmax(z):
    z = np.asarray(z, dtype=np.float64)
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def softmax(z):
    return np.exp(log_softmax(z))


def kl(p_logits, q_logits, tau=1.0):
    """tau² · mean over rows of KL(p ‖ q)."""
    log_p, log_q = (log_softmax(np.asarray(z, dtype=np.float64) / tau) for z in (p_logits, q_logits))
    return float(tau**2 * np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))


def cross_entropy(logits, target):
    """Mean over the labelled rows of −log q(target); 0 where none has a label."""
    rows = [-log_softmax(logits)[i, label] for i, label in enumerate(target) if label >= 0]
    return float(np.mean(rows)) if rows else 0.0


def drawn(seed, *shapes, scale=1.0):
    draw = np.random.default_rng(seed)
    return [draw.normal(size=shape) * scale for shape in shapes]
