"""The kinds of statements, by their names in files: one visible table."""

from __future__ import annotations

from verify.family import Family, Prompted
from verify.invertible import Invertible, InvertibleFloor
from verify.invertible_preimage import Preimage
from verify.lora_error import LayerError
from verify.lora_floor import LoraFloor
from verify.prompt_floor import PromptFloorStatement
from verify.statement import Statement

__all__ = ["STATEMENTS"]

STATEMENTS: dict[str, type[Statement]] = {
    PromptFloorStatement.kind: PromptFloorStatement,
    Family.kind: Family,
    Prompted.kind: Prompted,
    Invertible.kind: Invertible,
    InvertibleFloor.kind: InvertibleFloor,
    LayerError.kind: LayerError,
    LoraFloor.kind: LoraFloor,
    Preimage.kind: Preimage,
}
