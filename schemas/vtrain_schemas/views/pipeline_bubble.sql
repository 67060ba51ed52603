-- Time that each pipeline stage was idle: blocked in pipeline communication for longer than the
-- transfers themselves take.
-- @column run_id: run
-- @column rank: global rank
-- @column pp_rank: pipeline stage
-- @column step: training step
-- @column step_ns: duration of the step, ns
-- @column idle_ns: time blocked by pipeline communication, ns
-- @column bubble_fraction: idle time over the duration of the step, 0 to 1
SELECT
    s.run_id, s.rank, r.pp_rank, s.step, s.duration_ns AS step_ns,
    coalesce(sum(c.exposed_ns), 0)::BIGINT AS idle_ns,
    coalesce(sum(c.exposed_ns), 0) / nullif(s.duration_ns, 0) AS bubble_fraction
FROM steps s
JOIN ranks r USING (run_id, rank)
LEFT JOIN collectives c
    ON c.run_id = s.run_id AND c.rank = s.rank AND c.step = s.step AND c.role = 'pp'
GROUP BY s.run_id, s.rank, r.pp_rank, s.step, s.duration_ns
