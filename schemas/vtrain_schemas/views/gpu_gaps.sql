-- Idle time of a stream by cause, as HTA's idle time breakdown has it: host_wait, the next kernel was launched only
-- after the kernel before it had ended; kernel_wait, it was launched earlier, and the gap is below 30 us, what the device
-- itself needs between two kernels (HTA's consecutive_kernel_delay is 30, and its times are microseconds); other, it was
-- launched earlier and something else held it up, such as an event of another stream, or its launch is not known. A
-- stream's gaps count, also while other streams run: for the device as a whole see gpu_breakdown. Kernels of an unknown
-- stream are left out.
-- @column run_id: run
-- @column rank: global rank
-- @column step: training step of the kernel behind the gap
-- @column device: number of the device in its process; null where the trace does not say it
-- @column stream: CUDA stream
-- @column cause: host_wait, kernel_wait or other
-- @column gaps: number of gaps
-- @column idle_ns: their sum, ns
-- @column longest_ns: the longest of them, ns
-- @column share: of the stream's idle time in the step, 0 to 1
WITH ordered AS (
    SELECT run_id, rank, step, device, stream, launch_ns, start_ns, max(start_ns + duration_ns) OVER (
            PARTITION BY run_id, rank, device, stream ORDER BY start_ns, duration_ns
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS free_ns
    FROM kernels
    WHERE stream IS NOT NULL
),
gaps AS (
    SELECT run_id, rank, step, device, stream, start_ns - free_ns AS ns,
        CASE WHEN launch_ns > free_ns THEN 'host_wait' WHEN start_ns - free_ns < 30000 THEN 'kernel_wait' ELSE 'other' END
            AS cause
    FROM ordered
    WHERE start_ns > free_ns
)
SELECT
    run_id, rank, step, device, stream, cause, count(*) AS gaps, sum(ns)::BIGINT AS idle_ns, max(ns) AS longest_ns,
    sum(ns) / sum(sum(ns)) OVER (PARTITION BY run_id, rank, step, device, stream) AS share
FROM gaps
GROUP BY run_id, rank, step, device, stream, cause
