-- Memory over time, where the profile has it (torch.profiler with profile_memory): one row per allocation or release.
-- The row of a rank's and device's peak: WHERE allocated_bytes = peak_bytes.
-- @column run_id: run
-- @column rank: global rank
-- @column step: training step
-- @column at_ns: since the step began; since the first sample outside steps, ns
-- @column device_type: cpu or gpu
-- @column device: number of the GPU within the process; null for the host's memory
-- @column bytes: size of the allocation; negative where it was released, bytes
-- @column allocated_bytes: in use afterwards, all tensors together, bytes
-- @column reserved_bytes: held by the allocator afterwards, in use or not; null for the host's memory, bytes
-- @column unused_bytes: reserved and not in use: cache, and what fragmentation keeps from use, bytes
-- @column peak_bytes: most in use within the step on this rank and device, bytes
-- @column operator: framework operator that was running
-- @column span: innermost span that was open: module, phase or range
SELECT
    m.run_id, m.rank, m.step,
    m.time_ns - coalesce(s.start_ns, min(m.time_ns) OVER (PARTITION BY m.run_id, m.rank, m.step)) AS at_ns,
    device_type, device, bytes, allocated_bytes, reserved_bytes, reserved_bytes - allocated_bytes AS unused_bytes,
    max(allocated_bytes) OVER (PARTITION BY m.run_id, m.rank, m.step, device_type, device) AS peak_bytes,
    operator, name AS span
FROM memory m
LEFT JOIN steps s ON s.run_id = m.run_id AND s.rank = m.rank AND s.step = m.step
LEFT JOIN spans p ON p.run_id = m.run_id AND p.rank = m.rank AND p.span_id = m.span_id
