-- delete_records: raise the log start, so that what is before it is no longer served. It never falls.
-- KEYS: meta tail segs log index times
-- ARGV: topic_id before:int segment:int
-- returns: log_start
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED OUT_OF_RANGE SEGMENT
-- flags: allow-oom
-- slot: one partition's
-- cost: O(log(closed segments)); `trim` frees the segments that are now before the start
-- before: the first offset to keep; -1 for none. Then the open segment is freed here, and the next one begins.
-- @include lib/reply
-- @include lib/meta
-- @include lib/segment
-- @include lib/log_start
local m, refusal = read_meta(meta, topic_id, 'next', 'segment', 'segment_base', 'segment_bytes', 'segment_position',
  'segment_at', 'tail_base', 'tail_len', 'max_timestamp', 'deadline', 'retention_ms', 'retention_bytes', 'start')
if not m then return refusal end
local now = server_ms()
local p = {
  next = tonumber(m[1]), segment = tonumber(m[2]), segment_base = tonumber(m[3]), segment_bytes = tonumber(m[4]),
  segment_position = tonumber(m[5]), segment_at = tonumber(m[6]), tail_base = tonumber(m[7]), tail_len = tonumber(m[8]),
  max_timestamp = tonumber(m[9]), deadline = tonumber(m[10]), retention_ms = tonumber(m[11]),
  retention_bytes = tonumber(m[12]), start = tonumber(m[13]),
}
local keys = { tail = tail, segs = segs, log = log, index = index, times = times }
local start, refused = log_start(segs, p, now)
if not start then return refused end
if before == -1 then before = p.next end
if before > p.next then return refuse('OUT_OF_RANGE', int(start) .. ' ' .. int(p.next)) end
if before <= start then return { tag, start } end
if before == p.next and p.segment_at ~= 0 then
  if segment ~= p.segment then return refuse('SEGMENT', int(p.segment)) end
  local strange = foreign(keys)
  if strange then return refuse('FOREIGN', strange) end
  drop_segment(p, keys)
  save_all(meta, p)
end
redis.call('HSET', meta, 'start', int(before))
return { tag, before }
