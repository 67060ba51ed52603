-- Each distinct operator on the roofline of its run: what it reached, and how far that is from the
-- best that the same run reached.
-- @column run_id: run
-- @column source: module, kineto or microbench
-- @column kind: operator kind
-- @column phase: forward, backward, ...
-- @column m: rows (tokens), or elements
-- @column n: columns
-- @column k: inner dimension
-- @column calls: calls seen
-- @column median_ns: median duration, ns
-- @column tflops_per_s: reached arithmetic rate, TFLOP/s
-- @column gbytes_per_s: reached memory rate, GB/s
-- @column intensity: arithmetic intensity, FLOP/byte
-- @column share_of_best_rate: arithmetic rate over the best matrix product or attention of the run and source
SELECT
    run_id, source, kind, phase, m, n, k, calls, median_ns,
    flops / nullif(median_ns, 0) / 1e3 AS tflops_per_s,
    bytes / nullif(median_ns, 0) AS gbytes_per_s,
    flops / nullif(bytes, 0) AS intensity,
    (flops / nullif(median_ns, 0))
        / max(flops / nullif(median_ns, 0)) FILTER (kind IN ({matrix_products}))
          OVER (PARTITION BY run_id, source) AS share_of_best_rate
FROM operator_times
