"""Tokens that a model of a given size should see, by published scaling laws."""

from __future__ import annotations

from dataclasses import dataclass

from vtrain_sim.errors import UserError, nearest


@dataclass(frozen=True)
class Law:
    """tokens = coefficient x parameters ^ exponent."""

    coefficient: float
    exponent: float
    source: str


def _parametric(a: float, b: float, alpha: float, beta: float, source: str) -> Law:
    """From the fit L = E + a / N^alpha + b / D^beta: at the optimum of 6 N D FLOPs,
    N = G (C / 6)^(beta / (alpha + beta)) with G = (alpha a / (beta b))^(1 / (alpha + beta))
    (Hoffmann et al. 2022, eq. 4), so that D = G^-((alpha + beta) / beta) N^(alpha / beta)."""
    g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    return Law(g ** (-(alpha + beta) / beta), alpha / beta, source)


LAWS = {
    "chinchilla-20": Law(20.0, 1.0, "Hoffmann et al. 2022, arXiv:2203.15556, table 3: about 20 tokens per parameter"),
    "hoffmann-approach-3": _parametric(406.4, 410.7, 0.34, 0.28, "Hoffmann et al. 2022, arXiv:2203.15556, eq. 10"),
    "besiroglu": _parametric(482.01, 2085.43, 0.3478, 0.3658, "Besiroglu et al. 2024, arXiv:2404.10102, table 1"),
}


def tokens_for(parameters: float, law: str) -> float:
    """Compute-optimal training tokens of a model; raises `UserError` for an unknown law."""
    known = LAWS.get(law)
    if known is None:
        raise UserError(f"there is no scaling law {law!r}{nearest(law, LAWS)}; known are {', '.join(LAWS)}")
    return float(known.coefficient * parameters**known.exponent)


def largest_parameters(flops: float, law: str) -> float:
    """Parameters of the model that takes `flops` training FLOPs (6 per parameter and token) under a law."""
    tokens_for(1.0, law)
    coefficient, exponent = LAWS[law].coefficient, LAWS[law].exponent
    return float((flops / (6 * coefficient)) ** (1 / (1 + exponent)))
