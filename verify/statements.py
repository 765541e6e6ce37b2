"""The kinds of statements, by their names in files: one visible table."""

from __future__ import annotations

from verify.context_margin import ContextMargin
from verify.context_rival import ContextRival
from verify.family import Family
from verify.invertible import Invertible, InvertibleFloor
from verify.invertible_preimage import Preimage
from verify.lora_error import LayerError
from verify.lora_floor import LoraFloor
from verify.posterior import GroupPass
from verify.prompt_floor import PromptFloorStatement
from verify.prompted import Prompted
from verify.statement import Statement
from verify.token_read_out import TokenReadOut
from verify.token_trigger import TokenTrigger

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
    TokenTrigger.kind: TokenTrigger,
    TokenReadOut.kind: TokenReadOut,
    ContextMargin.kind: ContextMargin,
    ContextRival.kind: ContextRival,
    GroupPass.kind: GroupPass,
}
