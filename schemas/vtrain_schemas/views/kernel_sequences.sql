-- Sequences of kernels that follow one another on a stream again and again: candidates for fusion or a CUDA graph.
-- Of 2 to 5 kernels, within a step, and found at least twice on a rank. A longer sequence contains shorter ones, and
-- occurrences of one sequence may overlap: do not add their times up.
-- @column run_id: run
-- @column rank: global rank
-- @column length: kernels in the sequence
-- @column kernels: their names in order, without template and call arguments
-- @column occurrences: how often they follow one another
-- @column busy_ns: time of these kernels over all occurrences, ns
-- @column span_ns: from the first kernel's start to the last one's end, gaps included, over all occurrences, ns
WITH named AS (
    SELECT run_id, rank, step, device, stream, start_ns, duration_ns, {kernel_name} AS name FROM kernels
    WHERE stream IS NOT NULL
),
-- Of each kernel, those that follow it.
following AS (
    SELECT run_id, rank, start_ns, name AS name_1, duration_ns AS ns_1,
        lead(name, 1) OVER after AS name_2, lead(name, 2) OVER after AS name_3,
        lead(name, 3) OVER after AS name_4, lead(name, 4) OVER after AS name_5,
        lead(duration_ns, 1) OVER after AS ns_2, lead(duration_ns, 2) OVER after AS ns_3,
        lead(duration_ns, 3) OVER after AS ns_4, lead(duration_ns, 4) OVER after AS ns_5,
        lead(start_ns + duration_ns, 1) OVER after AS end_2, lead(start_ns + duration_ns, 2) OVER after AS end_3,
        lead(start_ns + duration_ns, 3) OVER after AS end_4, lead(start_ns + duration_ns, 4) OVER after AS end_5
    FROM named
    WINDOW after AS (PARTITION BY run_id, rank, step, device, stream ORDER BY start_ns)
),
-- Names are long: they are compared by their hash.
keyed AS (
    SELECT *, hash(name_1) AS key_1, hash(name_2) AS key_2, hash(name_3) AS key_3, hash(name_4) AS key_4,
        hash(name_5) AS key_5
    FROM following
),
sequences AS (
    SELECT run_id, rank, 2 AS length, [any_value(name_1), any_value(name_2)] AS kernels,
        count(*) AS occurrences, sum(ns_1 + ns_2) AS busy_ns, sum(end_2 - start_ns) AS span_ns
    FROM keyed WHERE name_2 IS NOT NULL GROUP BY run_id, rank, key_1, key_2 HAVING count(*) > 1
    UNION ALL
    SELECT run_id, rank, 3, [any_value(name_1), any_value(name_2), any_value(name_3)],
        count(*), sum(ns_1 + ns_2 + ns_3), sum(end_3 - start_ns)
    FROM keyed WHERE name_3 IS NOT NULL GROUP BY run_id, rank, key_1, key_2, key_3 HAVING count(*) > 1
    UNION ALL
    SELECT run_id, rank, 4, [any_value(name_1), any_value(name_2), any_value(name_3), any_value(name_4)],
        count(*), sum(ns_1 + ns_2 + ns_3 + ns_4), sum(end_4 - start_ns)
    FROM keyed WHERE name_4 IS NOT NULL GROUP BY run_id, rank, key_1, key_2, key_3, key_4 HAVING count(*) > 1
    UNION ALL
    SELECT run_id, rank, 5, [any_value(name_1), any_value(name_2), any_value(name_3), any_value(name_4), any_value(name_5)],
        count(*), sum(ns_1 + ns_2 + ns_3 + ns_4 + ns_5), sum(end_5 - start_ns)
    FROM keyed WHERE name_5 IS NOT NULL GROUP BY run_id, rank, key_1, key_2, key_3, key_4, key_5 HAVING count(*) > 1
)
SELECT run_id, rank, length, kernels, occurrences, busy_ns::BIGINT AS busy_ns, span_ns::BIGINT AS span_ns
FROM sequences
