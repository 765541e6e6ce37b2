"""Wang, Chauhan, Wang and Hsieh 2023, "Universality and Limitations of Prompt Tuning" (arXiv 2305.18787): both halves, as statements that are proved.

`universal`: one transformer with two heads of size 1 and feed-forward width 4 whose prompts number a family of quantised Lipschitz functions
(Theorem 1). `floor`: for one layer and examples with a shared last token, the smallest error that any prompt of any length has (Theorem 2, made
exact). `lora`: what a rank-1 update memorises and prompts of fewer than n tokens do not (section 5). `invertible`: models that compute
only invertible functions, whatever the prefix (section 4). What each returns has a `statement`, the kernel's `verdict` on it, and `save`.

Names are told apart: `prompt_floor` is for all prompts of one `AttentionLayer` (several heads, perhaps a feed-forward block),
`short_prompt_floor` for those of N tokens on a `SingleHead`; `ResidualModel` is a stack of `AttentionBlock` and `FeedForwardBlock`.
"""

from constructions.wang2023.floor import (
    AttentionLayer,
    FeedForward,
    FloorError,
    PromptFloor,
    prompt_floor,
    random_layer,
    unmemorable,
)
from constructions.wang2023.floor.from_torch import layer_from_torch
from constructions.wang2023.floor.tuning import TuningCurves, tune_prompts
from constructions.wang2023.invertible.floor import SharedTargetFloor, shared_target_floor
from constructions.wang2023.invertible.inverse import Inverse, inverse
from constructions.wang2023.invertible.model import apply_model, random_model, random_prefixes
from constructions.wang2023.invertible.rescaled import Rescaled, rescaled
from constructions.wang2023.invertible.slopes import LipschitzCurve, largest_slope, lipschitz_curve
from constructions.wang2023.invertible.verdict import Invertibility, invertibility
from constructions.wang2023.lora.dataset import LoraDataset, generated_dataset
from constructions.wang2023.lora.floor import ShortPromptFloor, short_prompt_floor
from constructions.wang2023.lora.imitation import Imitation, imitations
from constructions.wang2023.lora.layer import SingleHead, random_head
from constructions.wang2023.lora.table import ParametersRow, parameters_table
from constructions.wang2023.lora.tuned import tuned_prompt
from constructions.wang2023.universal import (
    CompiledPrompt,
    Grid,
    Plan,
    TooLargeError,
    Universal,
    compile_prompt,
    plan,
    plan_prompt,
    universal_transformer,
)
from verify.invertible_model import AttentionBlock, FeedForwardBlock, ResidualModel

__all__ = [
    "AttentionBlock",
    "AttentionLayer",
    "CompiledPrompt",
    "FeedForward",
    "FeedForwardBlock",
    "FloorError",
    "Grid",
    "Imitation",
    "Inverse",
    "Invertibility",
    "LipschitzCurve",
    "LoraDataset",
    "ParametersRow",
    "Plan",
    "PromptFloor",
    "Rescaled",
    "ResidualModel",
    "SharedTargetFloor",
    "ShortPromptFloor",
    "SingleHead",
    "TooLargeError",
    "TuningCurves",
    "Universal",
    "apply_model",
    "compile_prompt",
    "generated_dataset",
    "imitations",
    "inverse",
    "invertibility",
    "largest_slope",
    "layer_from_torch",
    "lipschitz_curve",
    "parameters_table",
    "plan",
    "plan_prompt",
    "prompt_floor",
    "random_head",
    "random_layer",
    "random_model",
    "random_prefixes",
    "rescaled",
    "shared_target_floor",
    "short_prompt_floor",
    "tune_prompts",
    "tuned_prompt",
    "universal_transformer",
    "unmemorable",
]
