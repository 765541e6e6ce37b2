"""Measurements that back what the documentation claims: `python -m benchmarks` lists them, `python -m benchmarks NAME` runs one."""
