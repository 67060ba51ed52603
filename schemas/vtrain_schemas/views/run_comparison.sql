-- The same kind of work in two runs, per step and rank: what got slower or faster.
-- @column base_run: run compared with
-- @column run_id: run
-- @column kind: span kind
-- @column phase: forward, backward, recompute or update
-- @column base_ns: time per step and rank in the base run, enclosed spans excluded, ns
-- @column run_ns: the same in the run, ns
-- @column difference_ns: run less base, ns
-- @column ratio: run over base
WITH per_step AS (
    SELECT run_id, kind, phase, sum(self_ns) / count(DISTINCT (rank, step)) AS ns
    FROM spans
    GROUP BY ALL
)
SELECT
    b.run_id AS base_run, r.run_id, kind, phase,
    b.ns AS base_ns, r.ns AS run_ns, r.ns - b.ns AS difference_ns, r.ns / nullif(b.ns, 0) AS ratio
FROM per_step b
JOIN per_step r USING (kind, phase)
WHERE b.run_id <> r.run_id
