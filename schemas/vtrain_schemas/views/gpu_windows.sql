-- Where a device's time went, by what ran at each moment of a window: one row per device of a rank. Compute, exposed communication,
-- exposed copies and idle time add up to the window.
-- @column run_id: run
-- @column rank: global rank
-- @column device: number of the device in its process; null where the trace does not say it
-- @column scope: 'capture' for all kernels on the device, 'step' for those that the host launched in one step
-- @column step: training step; null for a capture. Kernels that no step is known to have launched (-1) are in none
-- @column window_ns: from the first kernel's start to the last one's end, ns
-- @column compute_ns: time in which at least one kernel computes, ns
-- @column overlapped_communication_ns: time in which kernels compute and communicate at once, part of compute_ns, ns
-- @column exposed_communication_ns: time in which kernels communicate and none computes, ns
-- @column exposed_memory_ns: time in which there are only copies and fills, ns
-- @column idle_ns: time in which nothing runs on the device, ns
-- @column communication_ns: time in which at least one kernel communicates, ns
-- @column busy_ns: window less idle time, ns
-- @column overlap_fraction: share of the communication time that compute hides, 0 to 1
WITH edges AS (
    SELECT run_id, rank, device, scope, if(scope = 'step', step, NULL) AS step, kind, time_ns, change
    FROM (
        SELECT run_id, rank, device, step, kind, start_ns AS time_ns, 1 AS change FROM kernels
        UNION ALL
        SELECT run_id, rank, device, step, kind, start_ns + duration_ns, -1 FROM kernels
    )
    CROSS JOIN (VALUES ('capture'), ('step')) AS scopes (scope)
    WHERE scope = 'capture' OR step >= 0
),
-- All changes of one moment together: how many of each class run from then on.
moments AS (
    SELECT run_id, rank, device, scope, step, time_ns,
        sum(change) FILTER (kind IS NULL OR kind NOT IN ('communication', 'memory')) AS computing,
        sum(change) FILTER (kind = 'communication') AS communicating,
        sum(change) FILTER (kind = 'memory') AS copying
    FROM edges GROUP BY ALL
),
running AS (
    SELECT run_id, rank, device, scope, step,
        sum(coalesce(computing, 0)) OVER so_far AS computing,
        sum(coalesce(communicating, 0)) OVER so_far AS communicating,
        sum(coalesce(copying, 0)) OVER so_far AS copying,
        lead(time_ns) OVER (PARTITION BY run_id, rank, device, scope, step ORDER BY time_ns) - time_ns AS ns
    FROM moments
    WINDOW so_far AS (PARTITION BY run_id, rank, device, scope, step ORDER BY time_ns)
),
parts AS (
    SELECT run_id, rank, device, scope, step,
        coalesce(sum(ns), 0)::BIGINT AS window_ns,
        coalesce(sum(ns) FILTER (computing > 0), 0)::BIGINT AS compute_ns,
        coalesce(sum(ns) FILTER (computing > 0 AND communicating > 0), 0)::BIGINT AS overlapped_communication_ns,
        coalesce(sum(ns) FILTER (computing <= 0 AND communicating > 0), 0)::BIGINT AS exposed_communication_ns,
        coalesce(sum(ns) FILTER (computing <= 0 AND communicating <= 0 AND copying > 0), 0)::BIGINT AS exposed_memory_ns,
        coalesce(sum(ns) FILTER (computing <= 0 AND communicating <= 0 AND copying <= 0), 0)::BIGINT AS idle_ns
    FROM running GROUP BY ALL
)
SELECT
    *, overlapped_communication_ns + exposed_communication_ns AS communication_ns, window_ns - idle_ns AS busy_ns,
    overlapped_communication_ns / nullif(overlapped_communication_ns + exposed_communication_ns, 0) AS overlap_fraction
FROM parts
