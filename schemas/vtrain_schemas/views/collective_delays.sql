-- What each call with a known group lost on each of its ranks, and why. The rank that waited least arrived last: the
-- others waited for it (no clock of another rank is needed for that). It was late for one of two reasons, looked for in
-- the time since its last call with the same group, which all its ranks left together (or since the step began): its
-- own work took longer than the median of the others' (cause compute), or it was itself held up longer in other
-- communication (cause communication: look at the calls with its other groups). Where the transfer was slower than
-- usual, and by more than the longest wait, all were there and the network was slow (cause network). Usual is the
-- median over the run's calls of the same operation, payload and kind of group. Calls outside training steps are left
-- out, and asynchronous ones of which nobody knows the end; of point-to-point ones among these it counts how long each
-- end was blocked.
-- @column run_id: run
-- @column step: training step
-- @column op: operation; both ends of a point-to-point call are "p2p"
-- @column role: what the group is for
-- @column group_ranks: global ranks of the call; sender and receiver for p2p
-- @column sequence: ordinal of the call in its group and step
-- @column bytes: payload, bytes
-- @column rank: global rank that lost time
-- @column last_rank: rank that arrived last, among those seen
-- @column cause: compute, communication or network; null where none of them explains it, as where the ranks did not begin
-- the step together
-- @column lost_ns: the wait for the last rank, or for cause network what the transfer took beyond the usual, ns
-- @column wait_ns: time that this rank waited for the last one, ns
-- @column transfer_ns: time of the transfer: shortest duration over the ranks seen; null where nobody knows the end, ns
-- @column usual_transfer_ns: median transfer of such calls of the run, ns
-- @column late_work_ns: work of the last rank beyond the median of the others since their last call together, ns
-- @column late_blocked_ns: time in other communication beyond the median of the others, likewise, ns
WITH begun AS (
    SELECT t.*, s.start_ns AS step_start_ns,
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
    WINDOW earlier AS (PARTITION BY run_id, rank, step, group_ranks ORDER BY start_ns, sequence)
),
parts AS (
    SELECT *, blocked_before_ns - blocked_then_ns AS blocked_ns,
        start_ns - since_ns - (blocked_before_ns - blocked_then_ns) AS work_ns
    FROM since
    WHERE ranks_seen > 1 AND held_ns IS NOT NULL
),
arrived AS (
    SELECT * REPLACE (held_ns - min(held_ns) OVER call AS wait_ns),
        arg_min(rank, held_ns) OVER call AS last_rank, max(held_ns) OVER call - min(held_ns) OVER call AS longest_wait_ns
    FROM parts
    WINDOW call AS (PARTITION BY run_id, step, op, group_ranks, sequence)
),
compared AS (
    SELECT *,
        max(work_ns) FILTER (rank = last_rank) OVER call - median(work_ns) FILTER (rank <> last_rank) OVER call
            AS late_work_ns,
        max(blocked_ns) FILTER (rank = last_rank) OVER call - median(blocked_ns) FILTER (rank <> last_rank) OVER call
            AS late_blocked_ns,
        median(transfer_ns) OVER (PARTITION BY run_id, op, role, len(group_ranks), nodes, bytes) AS usual_transfer_ns
    FROM arrived
    WINDOW call AS (PARTITION BY run_id, step, op, group_ranks, sequence)
)
SELECT
    run_id, step, op, role, group_ranks, sequence, bytes, rank, last_rank,
    CASE WHEN transfer_ns - usual_transfer_ns > longest_wait_ns THEN 'network'
        WHEN late_work_ns > 0 AND late_work_ns >= late_blocked_ns THEN 'compute'
        WHEN late_blocked_ns > 0 THEN 'communication' END AS cause,
    CASE WHEN transfer_ns - usual_transfer_ns > longest_wait_ns THEN (transfer_ns - usual_transfer_ns)::BIGINT
        ELSE wait_ns END AS lost_ns,
    wait_ns, transfer_ns, usual_transfer_ns::BIGINT AS usual_transfer_ns, late_work_ns::BIGINT AS late_work_ns,
    late_blocked_ns::BIGINT AS late_blocked_ns
FROM compared
