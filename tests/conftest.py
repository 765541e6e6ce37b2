"""Seeded, quick Hypothesis runs. `--campaign N` multiplies the size of the random soundness campaign; `--shapes` checks the
kernel's shape annotations while the tests run (it doubles their time)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

settings.register_profile(
    "suite",
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--campaign", type=int, default=1, help="size of the random soundness campaign, in multiples of the usual one"
    )
    parser.addoption("--shapes", action="store_true", help="check shape annotations of the kernel at every call")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--shapes"):
        install_import_hook("verify", "beartype.beartype")


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> int:
    """How many times larger than usual the random campaign is to be."""
    return int(request.config.getoption("--campaign"))
