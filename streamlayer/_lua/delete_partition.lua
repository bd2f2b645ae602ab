-- delete_partition: stop a partition, then free its keys, if it is still the log that is meant.
-- KEYS: meta tail segs producers segment_keys*
-- ARGV: topic_id first:int last:int
-- returns: first_segment last_segment (to name next; both -1 when nothing is left)
-- errors: FOREIGN
-- flags: allow-oom
-- slot: one partition's
-- cost: O(segments named), 8 at most; memory is freed by the server's background thread
-- @include lib/reply
-- @include lib/retention
if not holds(meta, 'hash') then return refuse('FOREIGN', meta) end
local there = redis.call('HMGET', meta, 'id', 'segment')
if there[1] ~= topic_id then return { tag, -1, -1 } end
if not holds(segs, 'zset') then return refuse('FOREIGN', segs) end
redis.call('HSET', meta, 'state', 'deleting')
local newest = tonumber(there[2])
local member = redis.call('ZRANGE', segs, 1, 1)[1]
local oldest = member and closed_segment(member) or newest
-- The keys to free are the caller's to name: it comes again with this range, until the open segment was among them.
if first > oldest or last < oldest then return { tag, oldest, newest } end
local members = redis.call('ZRANGE', segs, 1, SEGMENTS_AT_ONCE + 1)
local freed, from = last, nil
for _, closed in ipairs(members) do
  local number, _, position = closed_segment(closed)
  from = from or position
  if number > first and number <= last and position - from >= FREED_AT_ONCE then
    freed = number - 1
    break
  end
end
for i = 5, 4 + 3 * (freed - first + 1) do redis.call('UNLINK', KEYS[i]) end
if freed < newest then
  for _, closed in ipairs(members) do
    if closed_segment(closed) <= freed then redis.call('ZREM', segs, closed) end
  end
  return { tag, freed + 1, newest }
end
redis.call('UNLINK', tail, segs, producers, meta)
return { tag, -1, -1 }
