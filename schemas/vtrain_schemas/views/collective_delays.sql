-- What each call with a known group lost on each of its ranks, and why. The rank that waited least arrived last: the
-- others waited for it (no clock of another rank is needed for that). How late it was, compared with the median of the
-- others, has three parts, looked for in the time since its last call with the same group, which all its ranks left
-- together, or since the step began. The largest is the cause: compute, its own work took longer; communication, it was
-- itself held up longer in other calls (look at those with its other groups); begin, the rest: it began the step later.
-- Where the transfer was slower than usual, and by more than the longest wait, all were there and the network was slow:
-- cause network. Usual is the median over the run's calls of the same operation, payload and kind of group. Calls outside
-- training steps are left out, and asynchronous ones of which nobody knows the end; of point-to-point ones among these it
-- counts how long each end was blocked.
-- @column run_id: run
-- @column step: training step
-- @column op: operation; both ends of a point-to-point call are "p2p"
-- @column role: what the group is for
-- @column group_ranks: global ranks of the call; sender and receiver for p2p
-- @column sequence: ordinal of the call in its group and step
-- @column bytes: payload, bytes
-- @column rank: global rank that lost time
-- @column last_rank: rank that arrived last, among those seen
-- @column cause: compute, communication, begin or network; null where all came together
-- @column lost_ns: the wait for the last rank, or for cause network what the transfer took beyond the usual, ns
-- @column wait_ns: time that this rank waited for the last one, ns
-- @column transfer_ns: time of the transfer: shortest duration over the ranks seen; null where nobody knows the end, ns
-- @column usual_transfer_ns: median transfer of such calls of the run, ns
-- @column late_work_ns: work of the last rank beyond the median of the others since their last call together, ns
-- @column late_blocked_ns: time in other communication beyond the median of the others, likewise, ns
-- @column late_begin_ns: the rest of how late it was: it began the step later, or left their last call later, ns
WITH begun AS (
    SELECT t.*, s.start_ns AS step_start_ns,
        -- Lists are slow to compare.
        hash(group_ranks) AS group_key, hash(op, group_ranks) AS call_key,
        CASE WHEN op = 'p2p' THEN coalesce(t.duration_ns, exposed_ns) ELSE t.duration_ns END AS held_ns,
        coalesce(sum(exposed_ns) OVER (
            PARTITION BY t.run_id, t.rank, t.step ORDER BY t.start_ns, t.sequence
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 0) AS blocked_before_ns
    FROM collective_transfers t
    JOIN steps s USING (run_id, rank, step)
),
since AS (
    SELECT *,
        coalesce(lag(start_ns + held_ns IGNORE NULLS) OVER earlier, step_start_ns) AS since_ns,
        coalesce(lag(
            CASE WHEN held_ns IS NOT NULL THEN blocked_before_ns + coalesce(exposed_ns, 0) END IGNORE NULLS
        ) OVER earlier, 0) AS blocked_then_ns
    FROM begun
    WHERE len(group_ranks) > 1
    WINDOW earlier AS (PARTITION BY run_id, rank, step, group_key ORDER BY start_ns, sequence)
),
parts AS (
    SELECT *, blocked_before_ns - blocked_then_ns AS blocked_ns,
        start_ns - since_ns - (blocked_before_ns - blocked_then_ns) AS work_ns
    FROM since
    WHERE ranks_seen > 1 AND held_ns IS NOT NULL
),
calls AS (
    -- Of several that came last at the same time, the lowest rank.
    SELECT run_id, step, call_key, sequence, arg_min(rank, [held_ns, rank]) AS last_rank,
        arg_min(work_ns, [held_ns, rank]) AS last_work_ns, arg_min(blocked_ns, [held_ns, rank]) AS last_blocked_ns,
        min(held_ns) AS least_ns, max(held_ns) - min(held_ns) AS longest_wait_ns
    FROM parts
    GROUP BY run_id, step, call_key, sequence
),
others AS (
    SELECT run_id, step, call_key, sequence, any_value(c.last_rank) AS last_rank,
        any_value(last_work_ns) - median(work_ns) FILTER (rank <> last_rank) AS late_work_ns,
        any_value(last_blocked_ns) - median(blocked_ns) FILTER (rank <> last_rank) AS late_blocked_ns,
        median(held_ns) FILTER (rank <> last_rank) - any_value(least_ns) AS late_ns,
        any_value(least_ns) AS least_ns, any_value(longest_wait_ns) AS longest_wait_ns, any_value(op) AS op,
        any_value(role) AS role, len(any_value(group_ranks)) AS group_size, max(nodes) AS nodes, max(bytes) AS bytes,
        any_value(transfer_ns) AS transfer_ns
    FROM parts p JOIN calls c USING (run_id, step, call_key, sequence)
    GROUP BY run_id, step, call_key, sequence
),
usual AS (
    SELECT run_id, op, role, group_size, nodes, bytes, median(transfer_ns) AS usual_transfer_ns
    FROM others
    GROUP BY ALL
),
compared AS (
    SELECT o.*, usual_transfer_ns, o.transfer_ns - usual_transfer_ns AS slow_ns,
        late_ns - late_work_ns - late_blocked_ns AS late_begin_ns
    FROM others o JOIN usual u ON u.run_id = o.run_id AND u.op = o.op AND u.role = o.role
        AND u.group_size = o.group_size AND u.nodes IS NOT DISTINCT FROM o.nodes
        AND u.bytes IS NOT DISTINCT FROM o.bytes
)
SELECT
    run_id, step, p.op, p.role, p.group_ranks, sequence, p.bytes, rank, last_rank,
    CASE WHEN slow_ns > longest_wait_ns THEN 'network'
        WHEN late_ns <= 0 THEN NULL
        WHEN late_work_ns >= greatest(late_blocked_ns, late_begin_ns) THEN 'compute'
        WHEN late_blocked_ns >= late_begin_ns THEN 'communication' ELSE 'begin' END AS cause,
    CASE WHEN slow_ns > longest_wait_ns THEN slow_ns::BIGINT ELSE held_ns - least_ns END AS lost_ns,
    held_ns - least_ns AS wait_ns, p.transfer_ns, usual_transfer_ns::BIGINT AS usual_transfer_ns,
    late_work_ns::BIGINT AS late_work_ns, late_blocked_ns::BIGINT AS late_blocked_ns,
    late_begin_ns::BIGINT AS late_begin_ns
FROM parts p
JOIN compared USING (run_id, step, call_key, sequence)
