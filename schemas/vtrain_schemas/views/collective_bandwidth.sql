-- What the network gave: algorithm and bus bandwidth of each operation by payload and group, and a line through the
-- sizes. Bandwidths are as NCCL's tests define them (nccl-tests, doc/PERFORMANCE.md): algorithm bandwidth is payload
-- over time; bus bandwidth is that times 2 (n - 1) / n for all_reduce, (n - 1) / n for reduce_scatter, all_gather,
-- all_to_all, gather and scatter, and 1 for broadcast, reduce and point-to-point, in a group of n ranks. The time is
-- that of the transfer, without waiting for slower peers: the shortest duration over the ranks of a call, and of these
-- the median over the calls; where only one rank of each call was seen, whose wait is not known, their shortest tenth.
-- @column run_id: run
-- @column source: what timed the calls: hook (the plugin), kineto, nsys or microbench
-- @column op: operation; both ends of a point-to-point call are "p2p"
-- @column group_size: ranks of the group
-- @column nodes: hosts that the group spans; null where not known
-- @column ranks_per_node: ranks of the group on the host that has the most of them; null where not known
-- @column bytes: payload, the largest of input and output on one rank, bytes
-- @column calls: calls with a known duration
-- @column ranks_seen: most ranks of one call that are in the catalog; 1 of several: the time may contain waits
-- @column transfer_ns: time of the transfer, ns
-- @column algorithm_gb_per_s: algorithm bandwidth, GB/s
-- @column bus_gb_per_s: bus bandwidth; null for an operation that NCCL's tests do not have, GB/s
-- @column fit_latency_ns: of the least-squares line latency + bytes / bandwidth through the sizes of this operation and
-- kind of group, the latency; null with fewer than two sizes; below zero where the times are no line, ns
-- @column fit_gb_per_s: its bandwidth, to be compared with the algorithm bandwidth; null where the time does not grow, GB/s
-- @column fit_r2: share of the variance that the line explains, 0 to 1
WITH calls AS (
    SELECT run_id, source, CASE WHEN op IN ('send', 'recv') THEN 'p2p' ELSE op END AS op, group_ranks,
        len(group_ranks) AS group_size, max(nodes) AS nodes, max(ranks_per_node) AS ranks_per_node, max(bytes) AS bytes,
        count(DISTINCT rank) AS ranks_seen, min(duration_ns) AS transfer_ns
    FROM collectives
    WHERE len(group_ranks) > 1 AND duration_ns IS NOT NULL
    GROUP BY run_id, step, source, CASE WHEN op IN ('send', 'recv') THEN 'p2p' ELSE op END, group_ranks, sequence
),
sizes AS (
    SELECT run_id, source, op, group_size, nodes, ranks_per_node, bytes, count(*) AS calls, max(ranks_seen) AS ranks_seen,
        CASE WHEN max(ranks_seen) > 1 THEN median(transfer_ns) FILTER (ranks_seen > 1)
            ELSE quantile_cont(transfer_ns, 0.1) END::BIGINT AS transfer_ns
    FROM calls
    WHERE bytes > 0
    GROUP BY ALL
),
fits AS (
    SELECT *, count(*) OVER shape AS points, regr_intercept(transfer_ns, bytes) OVER shape AS latency_ns,
        regr_slope(transfer_ns, bytes) OVER shape AS ns_per_byte, regr_r2(transfer_ns, bytes) OVER shape AS r2
    FROM sizes
    WINDOW shape AS (PARTITION BY run_id, source, op, group_size, nodes, ranks_per_node)
)
SELECT
    run_id, source, op, group_size, nodes, ranks_per_node, bytes, calls, ranks_seen, transfer_ns,
    bytes / nullif(transfer_ns, 0) AS algorithm_gb_per_s,
    bytes / nullif(transfer_ns, 0) * {bus_factor} AS bus_gb_per_s,
    CASE WHEN points > 1 THEN latency_ns::BIGINT END AS fit_latency_ns,
    CASE WHEN points > 1 AND ns_per_byte > 0 THEN 1 / ns_per_byte END AS fit_gb_per_s,
    CASE WHEN points > 1 THEN r2 END AS fit_r2
FROM fits
