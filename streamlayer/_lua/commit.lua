-- commit: store offsets, of partitions that the member owns; all of them or none.
-- KEYS: meta members deadlines gone owners offsets
-- ARGV: member epoch:int call:int retention_ms:int commits*
-- returns: time
-- errors: FOREIGN LAYOUT STALE FENCED_MEMBER NOT_OWNER NON_EMPTY_GROUP
-- flags: allow-oom
-- slot: one group's
-- cost: O(offsets), 1,000 at most
-- What follows the named arguments: partition ("orders:3"), offset, topic id, epochs crossed ("-": none), metadata; for
-- each. No member: for who has its partitions assigned by hand, and for administrators; the group must have no members, and
-- the number is a random one, by which `gone` knows a call that comes again. An offset of -1 deletes what is stored.
-- @include lib/reply
-- @include lib/group
local k = { meta = meta, members = members, deadlines = deadlines, gone = gone, owners = owners, offsets = offsets }
local g, refusal = read_group(meta)
if not g then return refusal end
local now = server_ms()
if member == '' then
  if g.there and redis.call('ZSCORE', gone, 'commit ' .. int(call)) then return { tag, now } end
  local alive = g.there and living(k, g, now) or 0
  if alive > 0 then return refuse('NON_EMPTY_GROUP', int(alive)) end
else
  local head = g.there and read_head(members, member)
  if not head then return refuse('FENCED_MEMBER', 'session') end
  local last = tonumber(redis.call('HGET', members, member .. ':c') or 0)
  if call < last then return refuse('STALE', int(last)) end
  if call == last then return { tag, now } end
  if epoch > head.epoch then return refuse('FENCED_MEMBER', 'lost') end
  local names = {}
  for i = commits, #ARGV, 5 do names[#names + 1] = ARGV[i] end
  for i, owner in ipairs(names[1] and redis.call('HMGET', owners, unpack(names)) or {}) do
    local id, since = string.match(owner or '', '^(%S+) (%d+)$')
    if id ~= member or tonumber(since) > epoch then return refuse('NOT_OWNER', names[i]) end
  end
end
local strange = not holds(offsets, 'hash') and offsets or member == '' and foreign_key(k, g)
if strange then return refuse('FOREIGN', strange) end
if not g.there then create_group(k, now) end
if member == '' then
  -- Who is overdue is put out: it shall not go on, and commit, from offsets that were set behind its back.
  for _, id in ipairs(redis.call('ZRANGE', deadlines, 1, -1)) do forget(k, id, now) end
end
for i = commits, #ARGV, 5 do
  if ARGV[i + 1] == '-1' then
    redis.call('HDEL', offsets, ARGV[i])
  else
    local value = ARGV[i + 1] .. ' ' .. ARGV[i + 2] .. ' ' .. ARGV[i + 3] .. ' ' .. int(now) .. ' ' .. ARGV[i + 4]
    redis.call('HSET', offsets, ARGV[i], value)
  end
end
if member ~= '' then
  redis.call('HSET', members, member .. ':c', int(call))
else
  redis.call('ZREMRANGEBYSCORE', gone, 0, int(now - GONE_MS))
  redis.call('ZADD', gone, int(now), 'commit ' .. int(call))
  renew_expiry(k, g, now, retention_ms) -- while there are members, their heartbeats do it
end
return { tag, now }
