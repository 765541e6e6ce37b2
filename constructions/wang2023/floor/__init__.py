"""What no prompt can do: the exact floor of a single layer's error over all prompts (Wang, Chauhan, Wang and Hsieh 2023, made quantitative)."""

from constructions.wang2023.floor.errors import FloorError
from constructions.wang2023.floor.floor import prompt_floor
from constructions.wang2023.floor.pair import random_layer, unmemorable
from constructions.wang2023.floor.result import PromptFloor
from verify.prompt_floor import AttentionLayer, FeedForward

__all__ = ["AttentionLayer", "FeedForward", "FloorError", "PromptFloor", "prompt_floor", "random_layer", "unmemorable"]
