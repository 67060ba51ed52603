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
    SELECT run_id, rank, step, stream, start_ns, duration_ns, {kernel_name} AS name FROM kernels
),
numbered AS (
    SELECT run_id, rank, step, stream, start_ns, duration_ns, dense_rank() OVER (ORDER BY name)::INTEGER AS number, name
    FROM named
),
names AS (
    SELECT number, any_value(name) AS name FROM numbered GROUP BY number
),
following AS (
    SELECT run_id, rank, start_ns, start_ns + duration_ns AS end_1, duration_ns AS ns_1, number AS kernel_1,
        lead(number, 1) OVER after AS kernel_2, lead(number, 2) OVER after AS kernel_3,
        lead(number, 3) OVER after AS kernel_4, lead(number, 4) OVER after AS kernel_5,
        lead(duration_ns, 1) OVER after AS ns_2, lead(duration_ns, 2) OVER after AS ns_3,
        lead(duration_ns, 3) OVER after AS ns_4, lead(duration_ns, 4) OVER after AS ns_5,
        lead(start_ns + duration_ns, 1) OVER after AS end_2, lead(start_ns + duration_ns, 2) OVER after AS end_3,
        lead(start_ns + duration_ns, 3) OVER after AS end_4, lead(start_ns + duration_ns, 4) OVER after AS end_5
    FROM numbered
    WINDOW after AS (PARTITION BY run_id, rank, step, stream ORDER BY start_ns)
),
sequences AS (
    SELECT run_id, rank, 2 AS length, kernel_1, kernel_2, NULL::INTEGER AS kernel_3, NULL::INTEGER AS kernel_4, NULL::INTEGER AS kernel_5, count(*) AS occurrences,
        sum(ns_1 + ns_2) AS busy_ns, sum(end_2 - start_ns) AS span_ns
    FROM following WHERE kernel_2 IS NOT NULL GROUP BY ALL HAVING count(*) > 1
    UNION ALL
    SELECT run_id, rank, 3, kernel_1, kernel_2, kernel_3, NULL, NULL, count(*),
        sum(ns_1 + ns_2 + ns_3), sum(end_3 - start_ns)
    FROM following WHERE kernel_3 IS NOT NULL GROUP BY ALL HAVING count(*) > 1
    UNION ALL
    SELECT run_id, rank, 4, kernel_1, kernel_2, kernel_3, kernel_4, NULL, count(*),
        sum(ns_1 + ns_2 + ns_3 + ns_4), sum(end_4 - start_ns)
    FROM following WHERE kernel_4 IS NOT NULL GROUP BY ALL HAVING count(*) > 1
    UNION ALL
    SELECT run_id, rank, 5, kernel_1, kernel_2, kernel_3, kernel_4, kernel_5, count(*),
        sum(ns_1 + ns_2 + ns_3 + ns_4 + ns_5), sum(end_5 - start_ns)
    FROM following WHERE kernel_5 IS NOT NULL GROUP BY ALL HAVING count(*) > 1
)
SELECT run_id, rank, length,
    [n1.name, n2.name, n3.name, n4.name, n5.name][1:length] AS kernels,
    occurrences, busy_ns::BIGINT AS busy_ns, span_ns::BIGINT AS span_ns
FROM sequences
JOIN names n1 ON n1.number = kernel_1
JOIN names n2 ON n2.number = kernel_2
LEFT JOIN names n3 ON n3.number = kernel_3
LEFT JOIN names n4 ON n4.number = kernel_4
LEFT JOIN names n5 ON n5.number = kernel_5
