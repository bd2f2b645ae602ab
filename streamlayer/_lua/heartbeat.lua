-- heartbeat: a member joins or stays, who is overdue is dropped, and partitions move: the whole group protocol.
-- KEYS: meta members deadlines gone owners offsets
-- ARGV: member call:int applied:int session_ms:int interval_ms:int retention_ms:int instance description version:int subscription topics released channel
-- returns: epoch changed pending earliest_ms version time owned revoke topics
-- errors: FOREIGN LAYOUT STALE FENCED_MEMBER
-- flags: allow-oom
-- slot: one group's
-- cost: O(1) while nothing changes, 20-30 us; else O(members + runs of partitions + partitions granted, 1,000 at most)
-- @include lib/reply
-- @include lib/group
-- @include lib/overdue
-- @include lib/reconcile
local k = { meta = meta, members = members, deadlines = deadlines, gone = gone, owners = owners, offsets = offsets }
local g, refusal = read_group(meta)
if not g then return refusal end
local now = server_ms()
local head = g.there and read_head(members, member) or nil
if head and call < head.call then return refuse('STALE', int(head.call)) end
if not head and (call > 1 or (g.there and redis.call('ZSCORE', gone, member))) then
  local taken = instance ~= '' and redis.call('HGET', members, '@' .. instance)
  return refuse('FENCED_MEMBER', taken and 'instance' or 'session')
end
-- The member knows of a change that this server has lost: the two may believe different things.
if head and applied > head.changed then
  remove_members(k, g, { member }, now, channel)
  return refuse('FENCED_MEMBER', 'lost')
end

local function answer(owned, revoke)
  local earliest = -1
  local two = redis.call('ZRANGE', deadlines, 1, 2, 'WITHSCORES')
  for i = 1, #two, 2 do
    if two[i] ~= member and earliest < 0 then
      earliest = math.max(0, math.max(tonumber(two[i + 1]), g.grace) - now)
    end
  end
  if not owned and applied ~= head.changed then owned = redis.call('HGET', members, member .. ':o') end
  local about = owned and redis.call('HGET', meta, 'topics') or false
  return { tag, head.epoch, head.changed, head.pending, earliest, g.version, now, owned or false, revoke or false, about }
end

-- The same call once more: nothing is done, the answer is how things stand.
if head and call == head.call then
  local found = redis.call('HMGET', members, member .. ':o', member .. ':t')
  local revoke = subtract(parse_runs(found[1] or ''), parse_runs(found[2] or ''))
  return answer(found[1] or '', revoke and format_runs(revoke))
end

local without, cut = {}, {}
local changed = false
if g.there then
  local dropped
  dropped, cut = overdue_members(k, g, member, now, session_ms, interval_ms)
  for _, id in ipairs(dropped) do without[id], changed = true, true end
end

local function renew()
  for id, deadline in pairs(cut) do
    if not without[id] then redis.call('ZADD', deadlines, int(deadline), id) end
  end
  redis.call('ZADD', deadlines, int(now + session_ms), member)
  redis.call('HSET', meta, 'seen', int(now), 'grace', int(g.grace))
  renew_expiry(k, g, now, retention_ms + session_ms)
end

local steady = head and head.epoch == g.epoch and head.pending == 0 and not changed
if steady and subscription == '' and topics == '' and released == '' then
  head.call, head.session_ms = call, session_ms
  redis.call('HSET', members, member, format_head(head))
  renew()
  return answer()
end

local strange = foreign_key(k, g)
if strange then return refuse('FOREIGN', strange) end
if not g.there then create_group(k, now) end
-- A static member takes the place of the one that had its instance id, which is fenced at once.
local from = member
if not head then
  head = { epoch = 0, changed = 0, pending = 1, joined = now, instance = '-', description = description ~= '' and description or '-' }
  if instance ~= '' then
    head.instance = instance
    from = redis.call('HGET', members, '@' .. instance) or member
  end
  if from == member then changed = true else without[from] = true end
end
local stored = redis.call('HMGET', members, from .. ':s', from .. ':t', member .. ':o')
local target, owned = stored[2] or '', stored[3] or ''
local said = subscription ~= '' or topics ~= ''
if subscription == '' then subscription = stored[1] or '' end
if subscription ~= stored[1] then changed = true end

-- How many partitions there are is told by whoever has the newest registry.
local known_topics = redis.call('HGET', meta, 'topics') or ''
local counts, about = parse_topics(known_topics)
local told = false
for topic, count, first in string.gmatch(topics, '([^:;]+):(%d+):(%d+)') do
  local at = about.version[topic] or -1
  if version >= at then
    if not counts[topic] then counts[#counts + 1], about.first[topic] = topic, tonumber(first) end
    if counts[topic] ~= tonumber(count) then changed = true end
    if count == '0' then about.first[topic] = 0 end -- if it comes again, it is read from its first record
    told = told or version > at or changed
    counts[topic], about.version[topic] = tonumber(count), version
  end
end
g.version = math.max(g.version, version)

local targets = {}
if changed then
  local known, kept = { [member] = { subscription = subscription, target = target } }, nil
  targets, kept = retarget(k, member_ids(deadlines, without, member), known, counts)
  g.epoch = g.epoch + 1
  target = targets[member] or target
  counts, told = kept, told or #kept < #counts
end
if told then known_topics = format_topics(counts, about) end
local revoke, granted, freed
local before = owned
owned, revoke, granted, freed = reconcile(k, g, member, head, owned, target, released, without)

-- From here on nothing is refused.
for id in pairs(without) do forget(k, id, now) end
if freed then in_chunks(freed, function(names) redis.call('HDEL', owners, unpack(names)) end) end
store_targets(k, targets)
store_grants(k, member, granted, g.epoch)
-- What was said and taken counts too: if the server loses it, nobody would say it again.
if owned ~= before or freed or said then head.changed = call end
head.call, head.session_ms = call, session_ms
redis.call('HSET', members, member, format_head(head), member .. ':s', subscription, member .. ':t', target, member .. ':o', owned)
if head.instance ~= '-' then redis.call('HSET', members, '@' .. head.instance, member) end
redis.call('HSET', meta, 'epoch', int(g.epoch), 'version', int(g.version), 'topics', known_topics)
renew()
if changed then
  tell(channel, 'epoch ' .. int(g.epoch))
elseif freed or from ~= member then
  tell(channel, 'free')
end
return answer(owned, revoke)
