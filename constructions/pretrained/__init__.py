"""Prefixes for chosen heads of a language model that somebody else trained.

Layer 0 has finitely many queries, and what is compiled there is proved for every text (`Site`, `compile_at_site`). Elsewhere a whole group of
heads is calibrated on text, and each run gets a rigorous bound for every token (`compile_group`, `verify_pass`). What a late layer's write does to
the model's answers is measured (`steer`, `measure_steering`). `warm_start` and `beside_lora` go on from there by training.
Needs the extra `pretrained` and the package whose weights are used; nothing is imported before it is called for.
"""

from constructions.pretrained.group import CalibratedPrefix, compile_group
from constructions.pretrained.layer0 import CompiledAtSite
from constructions.pretrained.posterior import PassReport, verify_pass
from constructions.pretrained.site import Site, SiteError, compile_at_site
from constructions.pretrained.steering import SteeringReport, measure_steering, steer
from constructions.pretrained.warm_start import beside_lora, warm_start

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
    "steer",
    "verify_pass",
    "warm_start",
]
