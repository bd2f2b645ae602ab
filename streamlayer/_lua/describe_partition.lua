-- describe_partition: what one partition holds.
-- KEYS: meta segs
-- ARGV: topic_id
-- returns: log_start next bytes segments generation partitions
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED
-- flags: no-writes
-- slot: one partition's
-- cost: O(log(closed segments))
-- @include lib/reply
-- @include lib/meta
-- @include lib/log_start
local m, refusal = read_meta(meta, topic_id, 'next', 'segment', 'segment_base', 'segment_bytes', 'deadline',
  'retention_ms', 'start', 'segment_position', 'generation', 'partitions')
if not m then return refusal end
local p = {
  next = tonumber(m[1]), segment = tonumber(m[2]), segment_base = tonumber(m[3]), deadline = tonumber(m[5]),
  retention_ms = tonumber(m[6]), start = tonumber(m[7]), segment_position = tonumber(m[8]),
}
local start, first, position = log_start(segs, p, server_ms())
if not start then return first end
local bytes = start == p.next and 0 or p.segment_position + tonumber(m[4]) - position
return { tag, start, p.next, bytes, p.segment - first + 1, tonumber(m[9]), tonumber(m[10]) }
