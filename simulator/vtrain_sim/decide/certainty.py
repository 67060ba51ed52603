"""How sure the order of two plans is.

Most of what may be wrong with a projection is wrong with the other one too: how long products, exchanges or launches
take is estimated from the same figures. What both have of it cancels out in their ratio; what remains is where their
time goes elsewhere, and what varies from step to step.
"""

from __future__ import annotations

import math

from vtrain_sim.simulate.result import Projection

# A plan that is better with no more than this probability is tied with the other one.
SURE = 0.9


def probability_of_better(one: Projection, other: Projection, ratio: float) -> float:
    """Probability that a plan is better than another one, 0 to 1, if errors are normal in the logarithm.

    ratio: what plans are ranked by, the other one's over this one's, as it is projected: more than 1 where this one is
    better.
    """
    sources = {**one.errors, **other.errors}
    apart = sum((one.errors.get(source, 0.0) - other.errors.get(source, 0.0)) ** 2 for source in sources)
    sigma = math.sqrt(apart + one.step_sigma**2 + other.step_sigma**2)
    return 0.5 * (1 + math.erf(math.log(ratio) / sigma / math.sqrt(2)))
