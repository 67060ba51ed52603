-- Where one step's time went on one rank. The parts add up to the duration. Of vtrain's own captures: for traces of
-- other profilers see gpu_step_breakdown.
-- @column run_id: run
-- @column rank: global rank
-- @column step: training step
-- @column duration_ns: duration of the step, ns
-- @column forward_ns: compute in the forward passes, ns
-- @column backward_ns: compute in the backward passes, ns
-- @column recompute_ns: forward compute repeated in the backward passes, ns
-- @column optimizer_ns: optimizer step, gradient reset and clipping, ns
-- @column communication_ns: time blocked by communication, waits and bubbles included, ns
-- @column other_ns: what is left: host work between the parts, ns
WITH compute AS (
    SELECT
        run_id, rank, step,
        sum(self_ns) FILTER (phase = 'forward') AS forward_ns,
        sum(self_ns) FILTER (phase = 'backward') AS backward_ns,
        sum(self_ns) FILTER (phase = 'recompute') AS recompute_ns,
        sum(self_ns) FILTER (kind IN ('optimizer', 'zero_grad')) AS optimizer_ns
    FROM spans
    -- What runs on another stream runs beside the rest.
    WHERE stream IS NULL
    GROUP BY ALL
),
communication AS (
    SELECT run_id, rank, step, sum(exposed_ns) AS communication_ns
    FROM collectives
    WHERE source = 'hook'
    GROUP BY ALL
)
SELECT
    s.run_id, s.rank, s.step, s.duration_ns,
    coalesce(forward_ns, 0)::BIGINT AS forward_ns,
    coalesce(backward_ns, 0)::BIGINT AS backward_ns,
    coalesce(recompute_ns, 0)::BIGINT AS recompute_ns,
    coalesce(optimizer_ns, 0)::BIGINT AS optimizer_ns,
    coalesce(communication_ns, 0)::BIGINT AS communication_ns,
    (s.duration_ns - coalesce(forward_ns, 0) - coalesce(backward_ns, 0) - coalesce(recompute_ns, 0)
        - coalesce(optimizer_ns, 0) - coalesce(communication_ns, 0))::BIGINT AS other_ns
FROM steps s
LEFT JOIN compute USING (run_id, rank, step)
LEFT JOIN communication USING (run_id, rank, step)
WHERE s.run_id NOT IN (SELECT run_id FROM runs WHERE source IN ('kineto', 'nsys'))
