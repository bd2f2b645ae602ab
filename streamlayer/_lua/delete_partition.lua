-- delete_partition: stop a partition, then free its keys, if it is still the log that is meant.
-- KEYS: meta tail segs producers segment_keys*
-- ARGV: topic_id first:int last:int
-- returns: first_segment last_segment (both -1 when nothing is left)
-- errors: FOREIGN
-- flags: allow-oom
-- slot: one partition's
-- cost: O(segments); memory is freed by the server's background thread
-- @include lib/reply
if not holds(meta, 'hash') then return refuse('FOREIGN', meta) end
local there = redis.call('HMGET', meta, 'id', 'segment')
if there[1] ~= topic_id then return { tag, -1, -1 } end
if not holds(segs, 'zset') then return refuse('FOREIGN', segs) end
redis.call('HSET', meta, 'state', 'deleting')
local newest = tonumber(there[2])
local oldest = newest
local member = redis.call('ZRANGE', segs, 1, 1)[1]
if member then oldest = tonumber(string.match(member, '^%d+')) end
-- The keys to free are the caller's to name: it comes again with this range.
if first > oldest or last < newest then return { tag, oldest, newest } end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
redis.call('UNLINK', meta)
return { tag, -1, -1 }
