-- create_partition: make an empty partition, or say which log is there already. Never touches one that exists.
-- KEYS: meta tail segs producers log index times
-- ARGV: topic_id partitions:int generation:int retention_ms:int retention_bytes:int segment_limit:int max_message_bytes:int timestamp_type:int min_insync_replicas:int flush:int config_version:int
-- returns: topic_id partitions generation
-- errors: FOREIGN UNKNOWN_TOPIC
-- flags: -
-- slot: one partition's
-- cost: O(1)
-- @include lib/reply
-- @include lib/epoch
if not holds(meta, 'hash') then return refuse('FOREIGN', meta) end
local there = redis.call('HMGET', meta, 'id', 'partitions', 'generation', 'state')
if there[4] == 'deleting' then return refuse('UNKNOWN_TOPIC', meta) end
if there[1] then return { tag, there[1], tonumber(there[2]), tonumber(there[3]) } end
for _, key in ipairs({ tail, segs, producers, log, index, times }) do
  if redis.call('EXISTS', key) == 1 then return refuse('FOREIGN', key) end
end
redis.call('SET', tail, '')
redis.call('ZADD', segs, -1, '-')
redis.call('HSET', producers, '-', '')
redis.call('HSET', log, '-', '')
redis.call('ZADD', index, -1, '-')
redis.call('ZADD', times, -1, '-')
redis.call('HSET', meta, 'v', '1', 'min_v', '1', 'id', topic_id, 'generation', int(generation), 'partitions',
  int(partitions), 'epochs', '1:' .. server_token() .. ':0', 'start', '0', 'next', '0', 'segment', '0',
  'segment_base', '0', 'segment_position', '0', 'segment_bytes', '0', 'segment_at', '0', 'tail_base', '0', 'tail_len',
  '0', 'trim_at', '-1', 'oldest_closed', '0', 'max_timestamp', '-1', 'deadline', '0', 'retention_ms',
  int(retention_ms), 'retention_bytes', int(retention_bytes), 'segment_limit', int(segment_limit),
  'max_message_bytes', int(max_message_bytes), 'timestamp_type', int(timestamp_type), 'min_insync_replicas',
  int(min_insync_replicas), 'flush', int(flush), 'config_version', int(config_version))
return { tag, topic_id, partitions, generation }
