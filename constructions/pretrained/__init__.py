"""Prefixes for chosen heads of a language model that somebody else trained.

Layer 0 has finitely many queries, and what is compiled there is proved for every text (`Site`, `compile_at_site`). Needs the extra `pretrained` and the
package whose weights are used; nothing is imported before it is called for.
"""

from constructions.pretrained.layer0 import CompiledAtSite
from constructions.pretrained.site import Site, SiteError, compile_at_site

__all__ = ["CompiledAtSite", "Site", "SiteError", "compile_at_site"]
