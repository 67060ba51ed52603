-- Launches of one step on one device of a rank: what the host spent on them, and how far ahead of the device it was.
-- @column run_id: run
-- @column rank: global rank
-- @column step: training step
-- @column device: number of the device in its process; null where the trace does not say it
-- @column launches: kernels, copies and fills whose launch is known
-- @column api_ns: time of the launching calls, ns
-- @column median_api_ns: median time of one, ns
-- @column median_delay_ns: median time from the end of a launching call to the kernel's start, ns
-- @column p90_delay_ns: its last decile, ns
-- @column mean_queue_length: kernels of the stream that were launched and had not begun, mean over the launches
-- @column longest_queue: the most
-- @column short_kernels: kernels that took less time than their launching call: the host decides how fast they go
SELECT
    run_id, rank, step, device, count(*) AS launches, sum(api_ns)::BIGINT AS api_ns, median(api_ns) AS median_api_ns,
    median(delay_ns) AS median_delay_ns, quantile_cont(delay_ns, 0.9) AS p90_delay_ns,
    avg(queue_length) AS mean_queue_length, max(queue_length) AS longest_queue,
    CASE WHEN count(api_ns) > 0 THEN count(*) FILTER (duration_ns < api_ns) END AS short_kernels
FROM launches
GROUP BY run_id, rank, step, device
