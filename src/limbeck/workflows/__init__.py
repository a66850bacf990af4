"""How many times the engine runs: for each teacher, for the baseline, distilled; and for variants × seeds."""

from limbeck.workflows.compare.run import compare
from limbeck.workflows.distill.assistants import distill_chain
from limbeck.workflows.distill.born_again_rounds import train_born_again
from limbeck.workflows.distill.mutual_learning import train_mutual
from limbeck.workflows.distill.run import distill
from limbeck.workflows.evaluate.robustness_api import evaluate_robustness
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
