"""Oymak, Rawat, Soltanolkotabi and Thrampoulidis 2023, "On the Role of Attention in Prompt-tuning" (arXiv 2306.03435): compiled, trained, predicted.

`ContextualData` is the data: relevant tokens, which carry the label, among misleading ones. `compile_context_prompt` returns a prompt and a head whose margin
is proved on the whole support of bounded-noise data; `rival_bound` proves what no weights of averaging, linear prompt-attention or self-attention reach
(section 3). `phase_diagram` and `diagonal_diagram` draw both beside optimised weights, `trained_on_samples` trains on samples: measured, not proved.

`descent` (the first three gradient steps, section 4), `asymptotics` (the test error for a known prompt, section 5) and `real_data` (framed digits; needs
scikit-learn) have names of their own, such as `asymptotics.experiment()`. What they return is sampled or derived, and has `save` and `load`.
"""

from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.errors import ContextError, MarginError
from constructions.oymak2023.model import (
    Averaging,
    LinearPromptAttention,
    PromptAttention,
    SelfAttention,
    accuracy,
)
from constructions.oymak2023.separation.accuracy import RivalBound, hard_mixture, rival_bound, self_attention_threshold
from constructions.oymak2023.separation.compile import ContextPrompt, compile_context_prompt
from constructions.oymak2023.separation.phases import DiagonalDiagram, PhaseDiagram, diagonal_diagram, phase_diagram
from constructions.oymak2023.separation.samples import TrainedOnSamples, trained_on_samples

__all__ = [
    "Averaging",
    "ContextError",
    "ContextPrompt",
    "ContextualData",
    "DiagonalDiagram",
    "LinearPromptAttention",
    "MarginError",
    "PhaseDiagram",
    "PromptAttention",
    "RivalBound",
    "SelfAttention",
    "TrainedOnSamples",
    "accuracy",
    "compile_context_prompt",
    "diagonal_diagram",
    "hard_mixture",
    "phase_diagram",
    "rival_bound",
    "self_attention_threshold",
    "trained_on_samples",
]
