-- Every kernel, copy and fill whose launch is known: how long the launching call took, how long the device took to begin,
-- and how much was queued. As HTA's CUDA kernel launch statistics and queue length have it: the delay counts from the
-- end of the launching call, and the queue grows with every launch and shrinks when a kernel begins.
-- @column run_id: run
-- @column rank: global rank
-- @column step: training step
-- @column device: number of the device in its process; null where the trace does not say it
-- @column stream: CUDA stream
-- @column correlation: CUPTI correlation id of the launch
-- @column kind: kernel kind
-- @column name: kernel name, without its template and call arguments
-- @column operator: framework operator that launched it
-- @column launch_ns: when the host launched it, since the Unix epoch, ns
-- @column api_ns: time of the launching call on the host; null where not known, ns
-- @column delay_ns: from the end of the launching call to the kernel's start, 0 where it began before; null where the end
-- of the call is not known, ns
-- @column launch_to_start_ns: from the begin of the launching call to the kernel's start, ns
-- @column duration_ns: time of the kernel, ns
-- @column queue_length: kernels of the stream that were launched and had not begun when this one was launched, itself
-- included; null where the stream is not known
WITH moments AS (
    SELECT *, launch_ns AS time_ns, 1 AS change FROM kernels WHERE launch_ns IS NOT NULL
    UNION ALL
    SELECT *, start_ns, -1 FROM kernels WHERE launch_ns IS NOT NULL
),
queued AS (
    SELECT *, sum(change) OVER (
        PARTITION BY run_id, rank, device, stream ORDER BY time_ns, change DESC ROWS UNBOUNDED PRECEDING
    ) AS queue_length
    FROM moments
)
SELECT
    run_id, rank, step, device, stream, correlation, kind, {kernel_name} AS name, operator, launch_ns, launch_duration_ns AS api_ns,
    -- Not greatest alone: it passes over a null.
    CASE WHEN launch_duration_ns IS NOT NULL THEN greatest(0, start_ns - launch_ns - launch_duration_ns) END AS delay_ns,
    start_ns - launch_ns AS launch_to_start_ns,
    duration_ns, CASE WHEN stream IS NOT NULL THEN queue_length::BIGINT END AS queue_length
FROM queued
WHERE change = 1
