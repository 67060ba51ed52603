-- The same kernels in two runs, per step and rank: what got slower or faster, and what only one of them has.
-- Times are averages over all captured ranks and steps of a run, so that differences add up.
-- @column base_run: run compared with
-- @column run_id: run
-- @column kind: kernel kind; other where no rule knows the name
-- @column name: kernel name, without its template and call arguments
-- @column base_calls: calls per step and rank in the base run; null where it has none
-- @column run_calls: the same in the run
-- @column base_ns: time per step and rank in the base run; null where it has none, ns
-- @column run_ns: the same in the run, ns
-- @column difference_ns: run less base; null where only one of the two has it, ns
-- @column ratio: run over base; null where only one of the two has it
WITH named AS (
    SELECT run_id, rank, step, kind, duration_ns, {kernel_name} AS name
    FROM kernels
),
captured AS (
    SELECT run_id, count(DISTINCT (rank, step)) AS steps FROM kernels WHERE step >= 0 GROUP BY run_id
),
totals AS (
    SELECT run_id, kind, name, count(*) AS calls, sum(duration_ns) AS ns
    FROM named WHERE step >= 0 GROUP BY ALL
),
{two_runs: kind, name}
