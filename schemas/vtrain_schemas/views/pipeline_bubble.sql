-- Time that each pipeline stage was idle: blocked in pipeline communication for longer than the
-- transfers themselves take. Of captures of real steps: imported traces do not say which stage a rank is, and a played
-- rank (fake world) waits for nobody, so that the time is null there.
-- @column run_id: run
-- @column rank: global rank
-- @column pp_rank: pipeline stage; null where not known
-- @column step: training step
-- @column step_ns: duration of the step, ns
-- @column idle_ns: time blocked by pipeline communication; null where the stage is not known, ns
-- @column bubble_fraction: idle time over the duration of the step, 0 to 1; null where the stage is not known
WITH stages AS (
    SELECT run_id, rank, CASE WHEN source = 'plugin' THEN pp_rank END AS pp_rank
    FROM ranks LEFT JOIN runs USING (run_id)
),
blocked AS (
    SELECT run_id, rank, step, sum(exposed_ns) AS ns FROM collectives WHERE role = 'pp' AND source = 'hook' GROUP BY ALL
)
SELECT
    s.run_id, s.rank, r.pp_rank, s.step, s.duration_ns AS step_ns,
    CASE WHEN r.pp_rank IS NOT NULL THEN coalesce(c.ns, 0)::BIGINT END AS idle_ns,
    CASE WHEN r.pp_rank IS NOT NULL THEN coalesce(c.ns, 0) / nullif(s.duration_ns, 0) END AS bubble_fraction
FROM steps s
LEFT JOIN stages r USING (run_id, rank)
LEFT JOIN blocked c USING (run_id, rank, step)
