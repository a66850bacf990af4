"""How good, how like its teacher, how much better, and at what cost: the figures of a record."""

from limbeck.evaluation.agreement import find_disagreements, prediction_agreement
from limbeck.evaluation.calibration import (
    calibration_error_from_logits,
    fit_temperature,
    split_halves,
    temperature_scaling_metrics,
)
from limbeck.evaluation.checks import predict_logits, require_pixels
from limbeck.evaluation.cka import cka_matrix
from limbeck.evaluation.classification_metrics import calibration_error, classification_metrics, collect_logits
from limbeck.evaluation.cost import count_flops, count_parameters, measure_cost, measure_latency, weights_file_size
from limbeck.evaluation.diversity import (
    architecture_family,
    disagreement_rate,
    double_fault,
    error_correlation,
    linear_cka,
    pairwise_similarity,
    unbiased_cka,
)
from limbeck.evaluation.environment import get_git_revision, get_torch_flags, hash_environment
from limbeck.evaluation.fidelity import layerwise_cka, measure_fidelity, prediction_similarity
from limbeck.evaluation.hardware import get_hardware_info, get_package_versions
from limbeck.evaluation.interleaved_latency import measure_latencies
from limbeck.evaluation.layer_similarity import LayerRecorder
from limbeck.evaluation.model_outputs import ModelOutputs, collect_outputs
from limbeck.evaluation.paired_bootstrap import gap_recovered, mean_ci, paired_bootstrap
from limbeck.evaluation.paired_tests import mcnemar_test, paired_bootstrap_over_seeds
from limbeck.evaluation.peak_memory import measure_peak_memory
from limbeck.evaluation.resampling import paired_bootstrap_mean, paired_bootstrap_statistic, unpaired_bootstrap
from limbeck.evaluation.resources import ResourceMeter
from limbeck.evaluation.robustness.attacks import ATTACKS, DEFAULT_EPS, adversarial_accuracy, apgd, fgsm, pgd
from limbeck.evaluation.robustness.corruptions import CORRUPTION_NOTE, CORRUPTIONS, corrupt, corruption_accuracy
from limbeck.evaluation.robustness.input_noise import NOISE_SIGMAS, add_gaussian_noise, noise_accuracy
from limbeck.evaluation.robustness.ood import auroc, auroc_difference, energy_score, max_softmax, ood_metrics
from limbeck.evaluation.robustness.shift import shift_accuracy
from limbeck.evaluation.saved_predictions import Predictions, load_predictions, save_predictions
from limbeck.evaluation.seed_statistics import (
    adjust_p_values_holm,
    bootstrap_mean_ci,
    gap_recovered_ci,
    paired_mean_ci,
    required_num_seeds,
)

__all__ = [
    "ATTACKS",
    "CORRUPTIONS",
    "CORRUPTION_NOTE",
    "DEFAULT_EPS",
    "NOISE_SIGMAS",
    "LayerRecorder",
    "ModelOutputs",
    "Predictions",
    "ResourceMeter",
    "add_gaussian_noise",
    "adjust_p_values_holm",
    "adversarial_accuracy",
    "apgd",
    "architecture_family",
    "auroc",
    "auroc_difference",
    "bootstrap_mean_ci",
    "calibration_error",
    "calibration_error_from_logits",
    "cka_matrix",
    "classification_metrics",
    "collect_logits",
    "collect_outputs",
    "corrupt",
    "corruption_accuracy",
    "count_flops",
    "count_parameters",
    "disagreement_rate",
    "double_fault",
    "energy_score",
    "error_correlation",
    "fgsm",
    "find_disagreements",
    "fit_temperature",
    "gap_recovered",
    "gap_recovered_ci",
    "get_git_revision",
    "get_hardware_info",
    "get_package_versions",
    "get_torch_flags",
    "hash_environment",
    "layerwise_cka",
    "linear_cka",
    "load_predictions",
    "max_softmax",
    "mcnemar_test",
    "mean_ci",
    "measure_cost",
    "measure_fidelity",
    "measure_latencies",
    "measure_latency",
    "measure_peak_memory",
    "noise_accuracy",
    "ood_metrics",
    "paired_bootstrap",
    "paired_bootstrap_mean",
    "paired_bootstrap_over_seeds",
    "paired_bootstrap_statistic",
    "paired_mean_ci",
    "pairwise_similarity",
    "pgd",
    "predict_logits",
    "prediction_agreement",
    "prediction_similarity",
    "require_pixels",
    "required_num_seeds",
    "save_predictions",
    "shift_accuracy",
    "split_halves",
    "temperature_scaling_metrics",
    "unbiased_cka",
    "unpaired_bootstrap",
    "weights_file_size",
]  # fmt: skip
