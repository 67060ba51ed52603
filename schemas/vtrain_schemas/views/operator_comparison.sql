-- The same operators in two runs, per step and rank: what got slower or faster, and what only one of them has.
-- Times are averages over all captured ranks and steps of a run, so that differences add up. Operators that the
-- plugin's hooks saw and those of a profiler are apart (source).
-- @column base_run: run compared with
-- @column run_id: run
-- @column source: what saw it: module (hooks), kineto or nsys
-- @column kind: operator kind
-- @column phase: forward, backward, dgrad, wgrad, recompute or update
-- @column name: operator name
-- @column base_calls: calls per step and rank in the base run; null where it has none
-- @column run_calls: the same in the run
-- @column base_ns: time per step and rank in the base run, enclosed operators excluded; null where it has none, ns
-- @column run_ns: the same in the run, ns
-- @column difference_ns: run less base; null where only one of the two has it, ns
-- @column ratio: run over base; null where only one of the two has it
WITH named AS (
    SELECT run_id, rank, step, source, kind, phase, name, coalesce(self_ns, duration_ns) AS ns
    FROM operators
),
captured AS (
    SELECT run_id, count(DISTINCT (rank, step)) AS steps FROM operators WHERE step >= 0 GROUP BY run_id
),
totals AS (
    SELECT run_id, source, kind, phase, name, count(*) AS calls, sum(ns) AS ns
    FROM named WHERE step >= 0 GROUP BY ALL
),
{two_runs: source, kind, phase, name}
