"""`python -m benchmarks`."""

from benchmarks.command import app

if __name__ == "__main__":  # worker processes import this file too
    app(prog_name="python -m benchmarks")
