"""The public names of ``limbeck.evaluation``."""

# ruff: noqa: F403
from limbeck.evaluation.calibration import *
from limbeck.evaluation.checks import *
from limbeck.evaluation.cka import *
from limbeck.evaluation.class_metrics import *
from limbeck.evaluation.cost import *
from limbeck.evaluation.environment import *
from limbeck.evaluation.evaluate import *
from limbeck.evaluation.metric_bootstrap import *
from limbeck.evaluation.model_outputs import *
from limbeck.evaluation.resources import *
from limbeck.evaluation.robustness.attacks import *
from limbeck.evaluation.robustness.corruptions import *
from limbeck.evaluation.robustness.noise_and_shift import *
from limbeck.evaluation.robustness.ood import *
from limbeck.evaluation.saved_predictions import *
from limbeck.evaluation.similarity import *
from limbeck.evaluation.statistics import *
from limbeck.utils.timing import *
