"""Circuits: an expression as a few univariate functions of affine read-outs, each of which is one head."""

from constructions.circuits.candidates import circuits_for
from constructions.circuits.ir import IR, Node, composed, to_circuit

__all__ = ["IR", "Node", "circuits_for", "composed", "to_circuit"]
