"""The universal transformer T^{2,1,4}: one set of weights for a finite family of quantised Lipschitz functions, a prompt for each of them."""

from constructions.wang2023.universal.grid import Grid
from constructions.wang2023.universal.prompt import CompiledPrompt, compile_prompt, plan_prompt
from constructions.wang2023.universal.sizes import Plan, plan
from constructions.wang2023.universal.transformer import TooLargeError, Universal, universal_transformer

__all__ = [
    "CompiledPrompt",
    "Grid",
    "Plan",
    "TooLargeError",
    "Universal",
    "compile_prompt",
    "plan",
    "plan_prompt",
    "universal_transformer",
]
