"""Reference formulas for losses.py in float64 NumPy: those of the papers, and torchdistill's where they differ.

The functions named `their_…` are the forms of torchdistill 1.1.5 where the value differs; reproducing its values
confirms the differences that losses.py states.
"""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def kd(student: Array, teacher: Array, *, temperature: float) -> float:
    log_q, log_p = _log_softmax(student / temperature), _log_softmax(teacher / temperature)
    return float(temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(1).mean())


def logit_standardization(student: Array, teacher: Array, *, temperature: float) -> float:
    student_x, teacher_x = (
        (x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) for x in (student, teacher)
    )
    return kd(student_x, teacher_x, temperature=temperature)


def dist(student: Array, teacher: Array, *, beta: float, gamma: float, temperature: float) -> float:
    q, p = (np.exp(_log_softmax(logits / temperature)) for logits in (student, teacher))
    return float(temperature**2 * (beta * (1 - _pearson(q, p)).mean() + gamma * (1 - _pearson(q.T, p.T)).mean()))


def mean_squared(student: Array, teacher: Array) -> float:
    return float(((student - teacher) ** 2).mean())


def attention_transfer(student: Array, teacher: Array) -> float:
    return mean_squared(_square_map(student), _square_map(teacher))


def ft(student: Array, teacher: Array) -> float:
    return float(np.abs(_square_map(student) - _square_map(teacher)).mean())


def their_ft(student: Array, teacher: Array) -> float:
    return float(np.abs(_unit(_flat(student)) - _unit(_flat(teacher))).mean())


def ab(student: Array, teacher: Array) -> float:
    return float((np.maximum(1 + np.where(teacher > 0, -student, student), 0) ** 2).mean())


def vid(student: Array, teacher: Array, variance: Array) -> float:
    variance = variance.reshape(1, -1, 1, 1)
    return float(0.5 * ((teacher - student) ** 2 / variance + np.log(variance)).mean())


def reviewkd(student: Array, teacher: Array) -> float:
    difference = student - teacher
    terms = [(1.0, difference)] + [(1 / 2**n, _mean_pool(difference, k)) for n, k in ((1, 4), (2, 2), (3, 1))]
    return float(sum(w * (term**2).mean() for w, term in terms) / sum(w for w, _ in terms))


def fsp(student: tuple[Array, Array], teacher: tuple[Array, Array]) -> float:
    return mean_squared(_flow(*student, np.mean), _flow(*teacher, np.mean))


def their_fsp(student: tuple[Array, Array], teacher: tuple[Array, Array]) -> float:
    difference = _flow(*student, np.max) - _flow(*teacher, np.max)
    return float(np.sqrt((difference**2).sum(1)).sum() / len(difference))


def sp(student: Array, teacher: Array) -> float:
    return float(((_unit(_products(student)) - _unit(_products(teacher))) ** 2).sum() / len(student) ** 2)


def their_sp(student: Array, teacher: Array) -> float:
    student_x, teacher_x = (rows / np.abs(rows).sum(1, keepdims=True) for rows in map(_products, (student, teacher)))
    return float(((student_x - teacher_x) ** 2).sum() / len(student) ** 2)


def rkd_distance(student: Array, teacher: Array) -> float:
    student_x, teacher_x = (np.linalg.norm(x[:, None] - x, axis=2) for x in (student, teacher))
    return _smooth_l1(student_x / student_x[student_x > 0].mean() - teacher_x / teacher_x[teacher_x > 0].mean())


def rkd_angle(student: Array, teacher: Array) -> float:
    student_x, teacher_x = (np.einsum("jid,jkd->jik", unit, unit) for unit in map(_directions, (student, teacher)))
    return _smooth_l1(student_x - teacher_x)


def cc(student: Array, teacher: Array, *, gamma: float) -> float:
    student_x, teacher_x = (np.exp(2 * gamma * (_products(_unit(x)) - 1)) for x in (student, teacher))
    return mean_squared(student_x, teacher_x)


def their_cc(student: Array, teacher: Array, *, gamma: float, order: int) -> float:
    student_x, teacher_x = (
        sum((2 * gamma * _products(x)) ** p / math.factorial(p) for p in range(order + 1)) / math.exp(2 * gamma)
        for x in (student, teacher)
    )
    return float(np.sqrt(((student_x - teacher_x) ** 2).sum()) / len(student) ** 2)


def pkt(student: Array, teacher: Array) -> float:
    near = [(_products(_unit(x)) + 1) / 2 for x in (student, teacher)]
    q, p = (x / x.sum(1, keepdims=True) for x in near)
    return float((p * np.log((p + 1e-7) / (q + 1e-7))).mean())


def crd(student: Array, teacher: Array, students: Array, teachers: Array, *, momentum: float) -> float:
    """The first rows of the banks are those of this batch, which updates them before the comparison."""
    rows = len(student)
    students, teachers = students.copy(), teachers.copy()
    for bank, batch in ((students, student), (teachers, teacher)):
        bank[:rows] = _unit(momentum * bank[:rows] + (1 - momentum) * batch)
    positive = np.exp((student * teacher).sum(1) / 0.07)
    return _nce(positive, student @ teachers.T) + _nce(positive, teacher @ students.T)


def their_crd(student: Array, teacher: Array, students: Array, teachers: Array) -> float:
    """The positive is the older embedding in the bank, and is included in the mean of the negatives."""
    rows = np.arange(len(student))
    pairs = [student @ teachers.T, teacher @ students.T]
    return sum(_nce(np.exp(cosines[rows, rows] / 0.07), cosines, include_positive=True) for cosines in pairs)


def _nce(positive: Array, cosines: Array, *, include_positive: bool = False) -> float:
    """Noise-contrastive estimation of ``positive`` [rows] among the other ``cosines`` [rows, bank]."""
    negatives = np.arange(cosines.shape[1]) != np.arange(len(positive))[:, None]
    r = np.exp(cosines / 0.07)
    noise = (cosines.shape[1] - 1) * (r.mean() if include_positive else r[negatives].mean())
    return float((-np.log(positive / (positive + noise)) - (np.log(noise / (r + noise)) * negatives).sum(1)).mean())


def _log_softmax(logits: Array) -> Array:
    around = logits - logits.max(1, keepdims=True)
    return around - np.log(np.exp(around).sum(1, keepdims=True))


def _pearson(q: Array, p: Array) -> Array:
    student_x, teacher_x = (_unit(x - x.mean(1, keepdims=True)) for x in (q, p))
    return (student_x * teacher_x).sum(1)


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


def _unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _square_map(features: Array) -> Array:
    return _unit(_flat((features**2).mean(1)))


def _products(features: Array) -> Array:
    return _flat(features) @ _flat(features).T


def _mean_pool(x: Array, size: int) -> Array:
    step = x.shape[2] // size
    return x.reshape(*x.shape[:2], size, step, size, step).mean((3, 5))


def _flow(first: Array, last: Array, pool) -> Array:
    """The earlier map is twice as high and wide."""
    size = last.shape[2]
    first = pool(first.reshape(*first.shape[:2], size, 2, size, 2), axis=(3, 5))
    student_x, teacher_x = (x.reshape(*x.shape[:2], -1) for x in (first, last))
    return student_x @ teacher_x.transpose(0, 2, 1) / student_x.shape[2]


def _directions(rows: Array) -> Array:
    difference = rows[None] - rows[:, None]
    return difference / np.maximum(np.linalg.norm(difference, axis=2, keepdims=True), 1e-12)


def _smooth_l1(difference: Array) -> float:
    size = np.abs(difference)
    return float(np.where(size < 1, size**2 / 2, size - 0.5).mean())
