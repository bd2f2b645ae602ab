-- trim: free whole closed segments that retention, or a deletion of records, no longer keeps; the oldest first.
-- KEYS: meta segs segment_keys*
-- ARGV: topic_id first:int last:int coming:int
-- returns: log_start first_segment last_segment (to name next; both -1 when nothing may go)
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED
-- flags: allow-oom
-- slot: one partition's
-- cost: O(segments named), 8 at most; memory is freed by the server's background thread
-- @include lib/reply
-- @include lib/meta
-- @include lib/log_start
local m, refusal = read_meta(meta, topic_id, 'next', 'segment', 'segment_base', 'segment_bytes', 'segment_position',
  'deadline', 'retention_ms', 'retention_bytes', 'start')
if not m then return refusal end
local now = server_ms()
local p = {
  next = tonumber(m[1]), segment = tonumber(m[2]), segment_base = tonumber(m[3]), segment_bytes = tonumber(m[4]),
  segment_position = tonumber(m[5]), deadline = tonumber(m[6]), retention_ms = tonumber(m[7]),
  retention_bytes = tonumber(m[8]), start = tonumber(m[9]),
}
if not holds(segs, 'zset') then return refuse('FOREIGN', segs) end
local oldest, newest = superfluous(segs, p, now, coming)
if oldest and first <= oldest then
  -- What is before the oldest has no member any more: its keys, if the caller names them, are long gone.
  local kept = math.min(last, newest)
  for number = first, kept do
    for place = 1, 3 do redis.call('UNLINK', KEYS[2 + 3 * (number - first) + place]) end
  end
  for _, member in ipairs(redis.call('ZRANGE', segs, 1, SEGMENTS_AT_ONCE)) do
    if closed_segment(member) <= kept then redis.call('ZREM', segs, member) end
  end
  note_oldest(segs, p)
  redis.call('HSET', meta, 'trim_at', int(p.trim_at), 'oldest_closed', int(p.oldest_closed))
  oldest, newest = superfluous(segs, p, now, coming)
end
local start, refused = log_start(segs, p, now)
if not start then return refused end
return { tag, start, oldest or -1, newest or -1 }
