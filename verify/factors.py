"""Factors of polynomials with integer coefficients (through FLINT) and of integers (by small primes), within bounds on their size."""

from __future__ import annotations

from collections.abc import Mapping

import flint

__all__ = ["factor_polynomial", "prime_powers"]

Rows = Mapping[tuple[int, ...], int]
_MAX_TERMS, _MAX_BITS, _MAX_VARIABLES = 48, 128, 10
_MAX_DEGREE = {1: 24, 2: 12}  # total degree, by number of variables
_MAX_DEGREE_OF_MANY = 8
_SMALL = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)


def factor_polynomial(rows: Rows) -> list[tuple[dict[tuple[int, ...], int], int]] | None:
    """Irreducible factors with multiplicities of a primitive polynomial, a constant -1 joined to the first; None where it is
    irreducible or too large to try. rows: exponents -> coefficient. The caller multiplies the factors out to be sure."""
    variables = len(next(iter(rows)))
    degree = max(map(sum, rows))
    if (
        not 0 < variables <= _MAX_VARIABLES
        or len(rows) > _MAX_TERMS
        or degree > _MAX_DEGREE.get(variables, _MAX_DEGREE_OF_MANY)
        or min(map(min, rows)) < 0
        or max(abs(c) for c in rows.values()).bit_length() > _MAX_BITS
    ):
        return None
    context = flint.fmpz_mpoly_ctx.get(tuple(f"x{i}" for i in range(variables)), "lex")
    constant, factors = context.from_dict(dict(rows)).factor()
    found = [({tuple(map(int, k)): int(c) for k, c in f.to_dict().items()}, int(e)) for f, e in factors]
    if abs(int(constant)) != 1 or sum(e for _, e in found) < 2:
        return None
    if int(constant) == -1:
        first, multiplicity = found[0]
        if multiplicity % 2 == 0:
            return None
        found[0] = {k: -c for k, c in first.items()}, multiplicity
    return found


def prime_powers(n: int) -> list[tuple[int, int]]:
    """n >= 1 as powers of primes below 100 and of one number without such factors."""
    out = []
    for p in _SMALL:
        e = 0
        while n % p == 0:
            n, e = n // p, e + 1
        if e:
            out.append((p, e))
    return [*out, (n, 1)] if n > 1 else out
