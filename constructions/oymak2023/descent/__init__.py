"""The first three steps of gradient descent on prompt-attention: explicit, automatic and in the population; alignment and success against n, d and zeta."""

from constructions.oymak2023.descent.alignment import predicted_alignment, predicted_samples
from constructions.oymak2023.descent.automatic import automatic_steps, gradient_gap, gradient_gap_max
from constructions.oymak2023.descent.experiment import (
    DescentConfiguration,
    DescentExperiment,
    experiment,
    full,
    model_errors,
    quick,
)
from constructions.oymak2023.descent.population import PopulationSteps, population_steps
from constructions.oymak2023.descent.rate import RateFit, fit_rate
from constructions.oymak2023.descent.steps import Steps, head_gradient, prompt_gradient, three_steps

__all__ = [
    "DescentConfiguration",
    "DescentExperiment",
    "PopulationSteps",
    "RateFit",
    "Steps",
    "automatic_steps",
    "experiment",
    "fit_rate",
    "full",
    "gradient_gap",
    "gradient_gap_max",
    "head_gradient",
    "model_errors",
    "population_steps",
    "predicted_alignment",
    "predicted_samples",
    "prompt_gradient",
    "quick",
    "three_steps",
]
