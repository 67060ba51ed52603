-- Who made whom wait in collective communication, in which step, and why: collective_delays added up. For cause network
-- nobody is to blame: rank is null, and the time is what transfers took beyond the usual.
-- @column run_id: run
-- @column step: training step
-- @column role: what the group is for (tp, dp, pp, cp, ep, ...)
-- @column cause: compute (its own work took longer), communication (it was held up in another group), begin (it began
-- the step later), network (the transfer was slow though all were there)
-- @column rank: global rank that arrived last; null for cause network
-- @column waiting_rank: global rank that lost the time
-- @column calls: calls in which it did
-- @column lost_ns: time that it lost, ns
-- @column longest_ns: the most that it lost in one call, ns
SELECT
    run_id, step, role, cause, CASE WHEN cause IS DISTINCT FROM 'network' THEN last_rank END AS rank,
    rank AS waiting_rank, count(*) AS calls, sum(lost_ns)::BIGINT AS lost_ns, max(lost_ns) AS longest_ns
FROM collective_delays
WHERE lost_ns > 0
GROUP BY run_id, step, role, cause, CASE WHEN cause IS DISTINCT FROM 'network' THEN last_rank END, collective_delays.rank
