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
per_step AS (
    SELECT run_id, kind, phase, calls / steps AS calls, (ns / steps)::BIGINT AS ns FROM totals JOIN captured USING (run_id)
),
known AS (
    SELECT run_id FROM runs UNION SELECT run_id FROM captured
),
pairs AS (
    SELECT b.run_id AS base_run, r.run_id FROM known b JOIN known r ON b.run_id <> r.run_id
),
sides AS (
    SELECT base_run, pairs.run_id, kind, phase, calls AS base_calls, ns AS base_ns, NULL::DOUBLE AS run_calls,
        NULL::BIGINT AS run_ns
    FROM pairs JOIN per_step ON per_step.run_id = base_run
    UNION ALL
    SELECT base_run, pairs.run_id, kind, phase, NULL, NULL, calls, ns
    FROM pairs JOIN per_step ON per_step.run_id = pairs.run_id
),
both_sides AS (
    SELECT base_run, run_id, kind, phase, max(base_calls) AS base_calls, max(run_calls) AS run_calls, max(base_ns) AS base_ns,
        max(run_ns) AS run_ns
    FROM sides GROUP BY base_run, run_id, kind, phase
)
SELECT *, run_ns - base_ns AS difference_ns, run_ns / nullif(base_ns, 0) AS ratio
FROM both_sides
