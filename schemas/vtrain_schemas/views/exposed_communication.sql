-- Communication of one role on one rank in one step: how much there was, and how much of it held
-- the rank up.
-- @column run_id: run
-- @column rank: global rank
-- @column step: training step
-- @column role: what the groups are for
-- @column calls: number of calls
-- @column bytes: payload of all calls, bytes
-- @column duration_ns: sum of the durations, waits included, ns
-- @column exposed_ns: time for which the rank was blocked, ns
-- @column wait_ns: time spent waiting for slower peers, of the calls where it is known; null where it is of none, ns
SELECT
    run_id, rank, step, role,
    count(*) AS calls,
    sum(bytes)::BIGINT AS bytes,
    sum(duration_ns)::BIGINT AS duration_ns,
    sum(exposed_ns)::BIGINT AS exposed_ns,
    sum(wait_ns)::BIGINT AS wait_ns
FROM collective_transfers
GROUP BY ALL
