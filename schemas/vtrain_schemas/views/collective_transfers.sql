-- One collective or point-to-point call on one rank, with the transfer separated from the wait for
-- the slowest peer. The transfer is the shortest duration over the ranks of the call; the rest of
-- each rank's duration is waiting for others to arrive. Where only one of several ranks was seen, or the
-- group is not known, the wait is not known either, and the transfer is at most that.
-- @column run_id: run
-- @column step: training step
-- @column rank: global rank
-- @column op: operation; both ends of a point-to-point call are "p2p"
-- @column role: what the group is for (tp, dp, pp, cp, ep, embedding, ...)
-- @column group_ranks: global ranks of the call; sender and receiver for p2p; null where not known
-- @column nodes: hosts that the group spans
-- @column ranks_per_node: ranks of the group on the host that has the most of them
-- @column sequence: ordinal of the call in its group and step
-- @column bytes: payload, bytes
-- @column ranks_seen: ranks of the call whose rows are in the catalog
-- @column start_ns: when this rank began the call, since the Unix epoch, ns
-- @column duration_ns: duration on this rank, ns
-- @column transfer_ns: shortest duration over the ranks seen, ns
-- @column wait_ns: duration on this rank beyond the transfer; null where no other rank of the group was seen, ns
-- @column is_async: the caller did not wait at once
-- @column exposed_ns: time for which this rank's stream or thread was blocked, ns
WITH calls AS (
    SELECT *, CASE WHEN op IN ('send', 'recv') THEN 'p2p' ELSE op END AS operation
    FROM collectives
    -- The plugin's own hooks and its profiler see the same calls: the hooks know more.
    WHERE source NOT IN ({traces}) OR run_id IN (SELECT run_id FROM runs WHERE source IN ({traces}))
),
seen AS (
    SELECT *, count(DISTINCT rank) OVER call AS ranks_seen, min(duration_ns) OVER call AS transfer_ns
    FROM calls
    -- Calls of an unknown group are matched with nobody.
    WINDOW call AS (
        PARTITION BY run_id, step, operation, group_ranks, CASE WHEN group_ranks IS NULL THEN rank END, sequence
    )
)
SELECT
    run_id, step, rank, operation AS op, role, group_ranks, nodes, ranks_per_node, sequence, bytes, ranks_seen,
    start_ns, duration_ns, transfer_ns,
    CASE WHEN ranks_seen > 1 OR len(group_ranks) = 1 THEN duration_ns - transfer_ns END AS wait_ns,
    is_async, exposed_ns
FROM seen
