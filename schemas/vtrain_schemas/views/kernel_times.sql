-- Device time by kernel: what takes longest.
-- @column run_id: run
-- @column rank: global rank
-- @column device: number of the device in its process; null where the trace does not say it
-- @column kind: kernel kind; other where no rule knows the name
-- @column name: kernel name, without its template and call arguments
-- @column calls: number of kernels
-- @column total_ns: their time, ns
-- @column mean_ns: mean time of one, ns
-- @column share: of the time of all kernels on the device, 0 to 1
WITH named AS (
    SELECT run_id, rank, device, kind, duration_ns, {kernel_name} AS name
    FROM kernels
)
SELECT
    run_id, rank, device, kind, name, count(*) AS calls, sum(duration_ns)::BIGINT AS total_ns, avg(duration_ns) AS mean_ns,
    sum(duration_ns) / nullif(sum(sum(duration_ns)) OVER (PARTITION BY run_id, rank, device), 0) AS share
FROM named
GROUP BY run_id, rank, device, kind, name
