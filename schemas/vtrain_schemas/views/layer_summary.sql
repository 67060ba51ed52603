-- Time of each kind of module in each layer, per phase.
-- @column run_id: run
-- @column rank: global rank
-- @column layer_number: number of the layer in the whole model, from 1; null outside the layers
-- @column kind: span kind
-- @column phase: forward, backward, recompute or update
-- @column calls: spans seen
-- @column median_ns: median duration of one call, ns
-- @column step_ns: mean duration per step, all microbatches together, ns
SELECT
    run_id, rank, layer_number, kind, phase,
    count(*) AS calls,
    median(duration_ns) AS median_ns,
    sum(duration_ns) / count(DISTINCT step) AS step_ns
FROM spans
WHERE kind <> 'step'
GROUP BY ALL
