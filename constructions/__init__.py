"""Constructions: from a target function to an explicit attention prefix. What they propose, `verify` proves."""

from constructions.compile import compile_prefix
from constructions.compiled import Compiled, load
from constructions.errors import CompileError
from constructions.problem import GridData
from verify import Box, Sequences, Sphere

__all__ = ["Box", "CompileError", "Compiled", "GridData", "Sequences", "Sphere", "compile_prefix", "load"]
