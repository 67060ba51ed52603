"""The cheapest shares with which all jobs meet their deadlines (progressive filling, ElasticFlow)."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_Ints: TypeAlias = NDArray[np.int64]
_Floats: TypeAlias = NDArray[np.float64]
# More jobs than this at once are never admitted together: the profile of free GPUs has this many pieces.
MOST_PIECES = 4096


def fill(
    now: float,
    capacity: int,
    remaining: _Floats,
    deadline: _Floats,
    first: _Ints,
    levels: _Ints,
    gpus: _Ints,
    seconds: _Floats,
    share: _Ints,
    piece_end: _Floats,
    piece_free: _Ints,
) -> int:
    """Give each job, in the order of the arrays (earliest deadline first), the number of GPUs with which it
    ends in time beside those before it for the fewest GPU-seconds (Gu et al., ASPLOS 2023, algorithm 1).

    remaining: [jobs] iterations; deadline: [jobs] seconds; job i may use ``gpus[first[i] : first[i] +
    levels[i]]``, ascending, with ``seconds`` per iteration. share: [jobs] is set to the GPUs from now on.
    piece_end, piece_free: scratch, the profile of free GPUs over time. Returns how many jobs could be
    served: the first that could not is at that index.
    """
    pieces = 1
    piece_end[0] = 1e300
    piece_free[0] = capacity
    for job in range(len(remaining)):
        # The level that ends in time with the fewest GPU-seconds: the smallest one, where more GPUs are less
        # efficient; with the best plan at each GPU count they may be more so.
        best = -1
        best_used = 0.0
        best_end = 0.0
        for level in range(levels[job]):
            need = remaining[job]
            used = 0.0
            begin = now
            piece = 0
            end = -1.0
            while piece < pieces and begin < deadline[job]:
                use = -1
                for lower in range(level, -1, -1):
                    if gpus[first[job] + lower] <= piece_free[piece]:
                        use = first[job] + lower
                        break
                until = min(piece_end[piece], deadline[job])
                if use >= 0:
                    done = (until - begin) / seconds[use]
                    if done >= need * (1 - 1e-12):
                        end = begin + need * seconds[use]
                        used += need * seconds[use] * gpus[use]
                        break
                    need -= done
                    used += (until - begin) * gpus[use]
                begin = until
                piece += 1
            if end >= 0.0 and (best < 0 or used < best_used * (1 - 1e-9)):
                best, best_used, best_end = level, used, end
        if best < 0 or pieces + 1 >= len(piece_end):
            return job
        share[job] = 0
        # Take the GPUs out of the profile up to the end, which splits its piece.
        piece = 0
        while True:
            taken = 0
            for lower in range(best, -1, -1):
                if gpus[first[job] + lower] <= piece_free[piece]:
                    taken = gpus[first[job] + lower]
                    break
            if piece == 0:
                share[job] = taken
            if best_end < piece_end[piece]:
                for later in range(pieces, piece, -1):
                    piece_end[later] = piece_end[later - 1]
                    piece_free[later] = piece_free[later - 1]
                piece_end[piece] = best_end
                piece_free[piece] -= taken
                pieces += 1
                break
            piece_free[piece] -= taken
            if best_end <= piece_end[piece]:
                break
            piece += 1
    return len(remaining)
