"""Prefixes for chosen heads of a language model that somebody else trained.

Layer 0 has finitely many queries, and what is compiled there is proved for every text (`Site`, `compile_at_site`). Elsewhere a whole group of
heads is calibrated on text, and each run gets a rigorous bound for every token (`compile_group`, `verify_pass`). What a late layer's write does to
the model's answers is measured (`steer`, `spare_others`, `measure_steering`). `beside_lora` trains an adapter around a prefix.
Needs the extra `pretrained` and the package whose weights are used; nothing is imported before it is called for.
"""

from constructions.pretrained.beside_lora import beside_lora
from constructions.pretrained.group import CalibratedPrefix, compile_group
from constructions.pretrained.layer0 import CompiledAtSite
from constructions.pretrained.posterior import PassReport, verify_pass
from constructions.pretrained.site import Site, SiteError, compile_at_site
from constructions.pretrained.steering import SteeringReport, measure_steering, spare_others, steer

__all__ = [
    "CalibratedPrefix",
    "CompiledAtSite",
    "PassReport",
    "Site",
    "SiteError",
    "SteeringReport",
    "beside_lora",
    "compile_at_site",
    "compile_group",
    "measure_steering",
    "spare_others",
    "steer",
    "verify_pass",
]
