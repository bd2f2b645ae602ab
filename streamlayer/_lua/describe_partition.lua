-- describe_partition: what one partition holds.
-- KEYS: meta segs
-- ARGV: topic_id
-- returns: log_start next bytes segments generation partitions
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED
-- flags: no-writes
-- slot: one partition's
-- cost: O(closed segments)
-- @include lib/reply
-- @include lib/meta
-- @include lib/log_start
local m, refusal = read_meta(meta, topic_id, 'next', 'segment', 'segment_base', 'segment_bytes', 'deadline',
  'retention_ms', 'start', 'generation', 'partitions')
if not m then return refusal end
local p = {
  next = tonumber(m[1]), segment = tonumber(m[2]), segment_base = tonumber(m[3]), deadline = tonumber(m[5]),
  retention_ms = tonumber(m[6]), start = tonumber(m[7]),
}
local start, first = log_start(segs, p, server_ms())
if not start then return refuse('FOREIGN', segs) end
local bytes, segments = tonumber(m[4]), 1
if start == p.next then bytes = 0 end
for _, member in ipairs(redis.call('ZRANGE', segs, 1, -1)) do
  local number, size = string.match(member, '^(%d+):%d+:(%d+):')
  if tonumber(number) >= first then bytes, segments = bytes + tonumber(size), segments + 1 end
end
return { tag, start, p.next, bytes, segments, tonumber(m[8]), tonumber(m[9]) }
