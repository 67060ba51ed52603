-- Every distinct operator that was measured: kind, phase and shape, and its time.
-- @column run_id: run
-- @column source: module (hooks), kineto (torch.profiler) or microbench
-- @column kind: operator kind
-- @column phase: forward, backward, dgrad, wgrad, recompute or update
-- @column dtype: element type
-- @column fused: what one kernel or call fuses: flash, layernorm; null: nothing
-- @column causal: attention that masks later tokens; null for other kinds
-- @column m: rows (tokens), or elements for once-per-step kinds
-- @column n: columns
-- @column k: inner dimension
-- @column batch: independent problems
-- @column seq_q: query tokens
-- @column seq_kv: key tokens
-- @column heads: query heads
-- @column kv_heads: key/value heads
-- @column head_dim: dimension of a head
-- @column calls: calls seen
-- @column median_ns: median duration, ns
-- @column p10_ns: first decile of the duration, ns
-- @column p90_ns: last decile of the duration, ns
-- @column flops: floating point operations of one call, FLOP
-- @column bytes: memory traffic of a perfect implementation, bytes
SELECT
    run_id, source, kind, phase, dtype,
    -- Before schema 1.2 the text of fused said both, and causal attention counted the masked half too.
    CASE WHEN fused = 'flash, not causal' THEN 'flash' ELSE fused END AS fused,
    CASE WHEN causal IS NULL AND kind = 'attention' THEN coalesce(fused, '') <> 'flash, not causal' ELSE causal END
        AS causal,
    m, n, k, batch, seq_q, seq_kv, heads, kv_heads, head_dim,
    count(*) AS calls,
    median(duration_ns) AS median_ns,
    quantile_cont(duration_ns, 0.1) AS p10_ns,
    quantile_cont(duration_ns, 0.9) AS p90_ns,
    any_value(CASE WHEN causal IS NULL AND kind = 'attention' AND fused = 'flash' THEN flops / 2 ELSE flops END) AS flops,
    any_value(bytes) AS bytes
FROM operators
WHERE kind <> 'other'
GROUP BY ALL
