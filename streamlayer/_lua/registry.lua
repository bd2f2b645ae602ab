-- registry: change one topic's entry if it is still what the caller saw (compare and set), and tell who listens.
-- KEYS: topics
-- ARGV: topic expected entry channel
-- returns: changed entry version
-- errors: FOREIGN
-- flags: allow-oom
-- slot: the registry's
-- cost: O(1)
-- An empty text stands for "no entry". The field ":version" counts the changes: no topic can have that name.
-- @include lib/reply
if not holds(topics, 'hash') then return refuse('FOREIGN', topics) end
local current = redis.call('HGET', topics, topic) or ''
if current ~= expected then
  return { tag, 0, current, tonumber(redis.call('HGET', topics, ':version') or 0) }
end
if entry == '' then
  redis.call('HDEL', topics, topic)
else
  redis.call('HSET', topics, topic, entry)
end
local version = redis.call('HINCRBY', topics, ':version', 1)
redis.pcall('PUBLISH', channel, topic) -- the change is made, even if an ACL forbids the channel
return { tag, 1, entry, version }
