-- The same kind of work in two runs, per step and rank: what got slower or faster, and what only one of them has.
-- Times are averages over all captured ranks and steps of a run, so that differences add up.
-- @column base_run: run compared with
-- @column run_id: run
-- @column kind: span kind
-- @column phase: forward, backward, recompute or update
-- @column base_calls: calls per step and rank in the base run; null where it has none
-- @column run_calls: the same in the run
-- @column base_ns: time per step and rank in the base run, enclosed spans excluded; null where it has none, ns
-- @column run_ns: the same in the run, ns
-- @column difference_ns: run less base; null where only one of the two has it, ns
-- @column ratio: run over base; null where only one of the two has it
WITH captured AS (
    SELECT run_id, count(DISTINCT (rank, step)) AS steps FROM spans WHERE step >= 0 GROUP BY run_id
),
totals AS (
    SELECT run_id, kind, phase, count(*) AS calls, sum(self_ns) AS ns
    FROM spans WHERE step >= 0 GROUP BY ALL
),
{two_runs: kind, phase}
