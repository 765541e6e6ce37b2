"""The trusted kernel: what a model computes, what a target is, and proofs that one is within eps of the other.

This package imports nothing from `constructions`: a certificate depends on the stored numbers and on what is here.
"""

from verify.artefact import Artefact, ArtefactError, check, load, save
from verify.certificate import Certificate, CertificateError, Status
from verify.domain import Box, BoxError
from verify.expression import Expression, ExpressionError, Node
from verify.lower_bound import Alternation, ZigZag, alternation, zigzag
from verify.model import Head, Layer, ModelError, Prefix, Transformer, forward
from verify.prove import Claim, prove
from verify.regularity import Enclosed, lipschitz_constant, value_range
from verify.sequences import Sequences
from verify.sphere import Sphere, SphereError
from verify.statement import Statement, StatementError, Verdict
from verify.statement_file import Stated, check_statement, holds_statement, load_statement, save_statement
from verify.target import ExpressionTarget, GridTarget, LipschitzTarget, Provenance, Target, TargetError

__all__ = [
    "Alternation",
    "Artefact",
    "ArtefactError",
    "Box",
    "BoxError",
    "Certificate",
    "CertificateError",
    "Claim",
    "Enclosed",
    "Expression",
    "ExpressionError",
    "ExpressionTarget",
    "GridTarget",
    "Head",
    "Layer",
    "LipschitzTarget",
    "ModelError",
    "Node",
    "Prefix",
    "Provenance",
    "Sequences",
    "Sphere",
    "SphereError",
    "Stated",
    "Statement",
    "StatementError",
    "Status",
    "Target",
    "TargetError",
    "Transformer",
    "Verdict",
    "ZigZag",
    "alternation",
    "check",
    "check_statement",
    "forward",
    "holds_statement",
    "lipschitz_constant",
    "load",
    "load_statement",
    "prove",
    "save",
    "save_statement",
    "value_range",
    "zigzag",
]
