"""How many times the engine runs: for each teacher, for the baseline, distilled; and for variants × seeds."""

from limbeck.workflows.compare.run import compare
from limbeck.workflows.distill.run import distill
from limbeck.workflows.distill.train_networks import distill_chain, train_born_again, train_mutual
from limbeck.workflows.evaluate.robustness import evaluate_robustness
from limbeck.workflows.select_teachers.run import select_teachers
from limbeck.workflows.study.run import study

__all__ = [
    "compare",
    "distill",
    "distill_chain",
    "evaluate_robustness",
    "select_teachers",
    "study",
    "train_born_again",
    "train_mutual",
]
