"""Known prompt, unknown head: the test error of least squares on attended features as a formula, against Monte Carlo; the optimal temperature."""

from constructions.oymak2023.asymptotics.attention_law import AttentionMoments, exact_moments, leading_moments
from constructions.oymak2023.asymptotics.experiment import (
    AsymptoticsConfiguration,
    AsymptoticsExperiment,
    experiment,
    full,
    quick,
)
from constructions.oymak2023.asymptotics.features import Features, features
from constructions.oymak2023.asymptotics.formula import Prediction, gaussian_error, limiting_error, predicted_error
from constructions.oymak2023.asymptotics.simulate import head_errors, sample_features
from constructions.oymak2023.asymptotics.temperature import (
    TemperatureScan,
    mass_peak,
    optimal_temperature,
    scan_temperatures,
)

__all__ = [
    "AsymptoticsConfiguration",
    "AsymptoticsExperiment",
    "AttentionMoments",
    "Features",
    "Prediction",
    "TemperatureScan",
    "exact_moments",
    "experiment",
    "features",
    "full",
    "gaussian_error",
    "head_errors",
    "leading_moments",
    "limiting_error",
    "mass_peak",
    "optimal_temperature",
    "predicted_error",
    "quick",
    "sample_features",
    "scan_temperatures",
]
