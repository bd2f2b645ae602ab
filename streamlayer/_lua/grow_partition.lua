-- grow_partition: give a partition the next layout, and take keyed batches again. Every partition is frozen before.
-- KEYS: meta
-- ARGV: topic_id generation:int partitions:int
-- returns: generation
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED
-- flags: allow-oom
-- slot: one partition's
-- cost: O(1)
-- @include lib/reply
-- @include lib/meta
local m, refusal = read_meta(meta, topic_id, 'generation')
if not m then return refusal end
if tonumber(m[1]) >= generation then return { tag, tonumber(m[1]) } end
redis.call('HSET', meta, 'generation', int(generation), 'partitions', int(partitions))
redis.call('HDEL', meta, 'growing')
return { tag, generation }
