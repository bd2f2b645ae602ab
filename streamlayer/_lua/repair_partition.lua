-- repair_partition: have a damaged partition go on without what it holds. No offset that it may have given comes again.
-- KEYS: meta tail segs log index times
-- ARGV: topic_id damage last_end:int segment:int
-- returns: log_start
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT SEGMENT
-- flags: allow-oom
-- slot: one partition's
-- cost: O(log(fields)); `trim` frees the segments that were closed
-- damage, last_end: what `meta` says of it (empty if nobody has marked it yet), and its `next`. Where either is another by
-- now, nothing is done: it was repaired already, or somebody appends to it.
-- @include lib/reply
-- @include lib/any_meta
-- @include lib/epoch
-- @include lib/segment
local m, refusal = read_any_meta(meta, topic_id, 'next', 'segment', 'segment_base', 'segment_bytes', 'segment_position',
  'tail_base', 'retention_bytes', 'start', 'epochs')
if not m then return refusal end
local keys = { tail = tail, segs = segs, log = log, index = index, times = times }
if (m[3] or '') ~= damage or tonumber(m[5]) ~= last_end then return { tag, tonumber(m[12]) } end
local p = {
  next = tonumber(m[5]), segment = tonumber(m[6]), segment_base = tonumber(m[7]), segment_bytes = tonumber(m[8]),
  segment_position = tonumber(m[9]), tail_base = tonumber(m[10]), retention_bytes = tonumber(m[11]),
}
if segment ~= p.segment then return refuse('SEGMENT', int(p.segment)) end
local strange = foreign(keys)
if strange then return refuse('FOREIGN', strange) end
-- What is torn may have been written in part: whichever says the most of how far the log went is believed.
local last = redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')[2]
p.next = math.max(p.next, p.tail_base, p.segment_base, tonumber(last or -1) + 1)
-- A roll that was torn may have made keys of the next segment: its number is passed over.
p.segment = p.segment + 1
redis.call('ZADD', segs, -1, '-')
drop_segment(p, keys)
save_all(meta, p)
redis.call('HSET', meta, 'epochs', add_epoch(m[13], server_token(), p.next))
redis.call('HDEL', meta, 'damaged')
return { tag, p.next }
