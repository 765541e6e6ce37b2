"""Many formulas, compiled and proved one after the other or side by side, with a table that survives whatever happens.

entries (what a suite is, read from JSON), attained (how far a formula's values reach), rows (results.jsonl, a line per finished entry),
work (one entry, on whatever machine), run (all of them), result (what comes out), pool (processes of this machine).
"""

from constructions.suite.attained import attained_range
from constructions.suite.entries import Entry, SuiteError, read_entries
from constructions.suite.pool import WorkerPool
from constructions.suite.result import SuiteResult
from constructions.suite.rows import Row
from constructions.suite.run import run_suite

__all__ = ["Entry", "Row", "SuiteError", "SuiteResult", "WorkerPool", "attained_range", "read_entries", "run_suite"]
