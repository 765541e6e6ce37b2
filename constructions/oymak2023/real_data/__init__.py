"""Real images with distracting patches: prompt-attention against averaging, linear prompts and self-attention, trained alike."""

from constructions.oymak2023.real_data.experiment import (
    RealDataConfiguration,
    RealDataExperiment,
    experiment,
    full,
    quick,
)
from constructions.oymak2023.real_data.framed_digits import FramedDigits, Split, framed_digits
from constructions.oymak2023.real_data.rivals import RIVALS, Budget, Trained, train

__all__ = [
    "RIVALS",
    "Budget",
    "FramedDigits",
    "RealDataConfiguration",
    "RealDataExperiment",
    "Split",
    "Trained",
    "experiment",
    "framed_digits",
    "full",
    "quick",
    "train",
]
