-- list_segments: the closed segments behind one; what a client that seeks remembers of a log.
-- KEYS: meta segs
-- ARGV: topic_id after:int
-- returns: epochs open_segment open_base (member closed)*
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED
-- flags: no-writes
-- slot: one partition's
-- cost: O(segments), 1,000 at most
-- A closed segment never changes; only the end of the log's history may, which its epochs tell.
-- @include lib/reply
-- @include lib/meta
-- @include lib/log_start
local SEGMENTS_LISTED = 1000

local m, refusal = read_meta(meta, topic_id, 'epochs', 'segment', 'segment_base')
if not m then return refusal end
if not holds(segs, 'zset') then return refuse('FOREIGN', segs) end
local reply = { tag, m[1], tonumber(m[2]), tonumber(m[3]) }
local from = last_rank(segs, 1, after) + 1
local found = redis.call('ZRANGE', segs, from, from + SEGMENTS_LISTED - 1, 'WITHSCORES')
for i = 1, #found, 2 do
  reply[#reply + 1], reply[#reply + 2] = found[i], tonumber(found[i + 1])
end
return reply
