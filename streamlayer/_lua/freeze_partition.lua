-- freeze_partition: take no keyed batch until the partition has the next layout (grow_partition).
-- KEYS: meta
-- ARGV: topic_id generation:int partitions:int
-- returns: generation
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED
-- flags: allow-oom
-- slot: one partition's
-- cost: O(1)
-- generation, partitions: of the next layout. A call that comes late, after that layout is there, changes nothing.
-- @include lib/reply
-- @include lib/meta
local m, refusal = read_meta(meta, topic_id, 'generation')
if not m then return refusal end
if tonumber(m[1]) < generation then redis.call('HSET', meta, 'growing', int(partitions)) end
return { tag, tonumber(m[1]) }
