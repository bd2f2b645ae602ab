-- A consumer group's state. `members` holds for each member a head (numbers and words, see read_head) under its id, and
-- packed under "id:s" its subscription, "id:t" its target, "id:o" what it owns, "id:c" the number of its last commit;
-- "@instance" is the id of a static member. `owners` says "id epoch" of each owned partition: partition p is in a member's
-- "id:o" if and only if `owners` names that member. A free partition has no owner. `gone` remembers ids that were used.
-- @include lib/assignor
local GROUP_LAYOUT = 1
local GONE_MS = 3600000 -- no call is later than this

local function read_group(meta)
  local found = redis.pcall('HMGET', meta, 'min_v', 'epoch', 'version', 'seen', 'grace', 'expires')
  if found.err then return nil, raised(found, 'HMGET', meta) end
  if found[1] and tonumber(found[1]) > GROUP_LAYOUT then return nil, refuse('LAYOUT', found[1]) end
  local g = {
    there = found[1] ~= false, epoch = tonumber(found[2] or 0), version = tonumber(found[3] or 0),
    seen = tonumber(found[4] or 0), grace = tonumber(found[5] or 0), expires = tonumber(found[6] or 0),
  }
  -- What is no number fails here, not half way: scripts do not roll back.
  if not (g.epoch + g.version + g.seen + g.grace + g.expires < NO_NUMBER) then return nil, refuse('FOREIGN', meta) end
  return g
end

-- A key that is somebody else's, if there is one. A group's keys have a placeholder each, so that none is ever absent.
local function foreign_key(k, g)
  if not g.there and redis.call('EXISTS', k.meta) == 1 then return k.meta end
  for _, key in ipairs({ k.members, k.owners, k.offsets }) do
    local kind = redis.call('TYPE', key).ok
    local ours = kind == 'hash' and (g.there or redis.call('HEXISTS', key, '-') == 1)
    if kind ~= 'none' and not ours then return key end
  end
  for _, key in ipairs({ k.deadlines, k.gone }) do
    local kind = redis.call('TYPE', key).ok
    local ours = kind == 'zset' and (g.there or redis.call('ZSCORE', key, '-'))
    if kind ~= 'none' and not ours then return key end
  end
  return nil
end

-- The keys of a new group. What an evicted one left is not taken up, its offsets apart.
local function create_group(k, now)
  redis.call('UNLINK', k.members, k.owners, k.deadlines)
  redis.call('HSET', k.meta, 'v', GROUP_LAYOUT, 'min_v', GROUP_LAYOUT, 'epoch', 0, 'version', 0, 'topics', '',
    'created', int(now))
  for _, key in ipairs({ k.deadlines, k.gone }) do redis.call('ZADD', key, -1, '-') end
  for _, key in ipairs({ k.members, k.owners, k.offsets }) do redis.call('HSET', key, '-', '') end
end

-- The group ends this long after its last call: renewed when more than 1/16 of that is used up.
local function renew_expiry(k, g, now, keep_ms)
  if math.abs(now + keep_ms - g.expires) <= keep_ms / 16 then return end
  g.expires = now + keep_ms
  for _, key in pairs(k) do redis.call('PEXPIREAT', key, int(g.expires)) end
  redis.call('HSET', k.meta, 'expires', int(g.expires))
end

local function read_head(members, id)
  local head = redis.call('HGET', members, id) or ''
  local epoch, call, changed, session, pending, joined, instance, description =
    string.match(head, '^(%d+) (%d+) (%d+) (%d+) (%d) (%d+) (%S+) (.*)$')
  if not epoch then return nil end
  return {
    epoch = tonumber(epoch), call = tonumber(call), changed = tonumber(changed), session_ms = tonumber(session),
    pending = tonumber(pending), joined = tonumber(joined), instance = instance, description = description,
  }
end

local function format_head(head)
  return string.format('%d %d %d %d %d %d %s %s', head.epoch, head.call, head.changed, head.session_ms, head.pending,
    head.joined, head.instance, head.description)
end

-- "orders:12:7:4": topic, partitions, the registry's version that says so, and how many it had when the group began.
-- The counts have the topics' names as their list, as runs have.
local function parse_topics(packed)
  local counts, about, number = {}, { version = {}, first = {} }, 0
  for topic, count, version, first in string.gmatch(packed, '([^:;]+):(%d+):(%d+):(%d+)') do
    number = number + 1
    counts[number], counts[topic] = topic, math.min(tonumber(count), HIGHEST)
    about.version[topic], about.first[topic] = tonumber(version), tonumber(first)
  end
  return counts, about
end

local function format_topics(counts, about)
  local parts = {}
  for i, topic in ipairs(sorted_names(counts)) do
    parts[i] = string.format('%s:%d:%d:%d', topic, counts[topic], about.version[topic], about.first[topic])
  end
  return table.concat(parts, ';')
end

-- All ids, sorted, without some and with one.
local function member_ids(deadlines, without, with)
  local ids = {}
  for _, id in ipairs(redis.call('ZRANGE', deadlines, 0, -1)) do
    if id ~= '-' and id ~= with and not without[id] then ids[#ids + 1] = id end
  end
  if with then ids[#ids + 1] = with end
  table.sort(ids)
  return ids
end

-- Those topics that somebody subscribes to.
local function wanted_of(list, counts)
  local wanted, seen, kept = {}, {}, {}
  for _, member in ipairs(list) do
    if not seen[member.subscription] then
      seen[member.subscription] = true
      for topic in string.gmatch(member.subscription, '[^;]+') do wanted[topic] = true end
    end
  end
  for _, topic in ipairs(counts) do
    if wanted[topic] then kept[#kept + 1], kept[topic] = topic, counts[topic] end
  end
  return kept
end

-- The new targets: id -> packed, where they are not as they were; and the counts of topics that are still wanted.
-- `known` says what is not stored yet: id -> { subscription, target }.
local function retarget(k, ids, known, counts)
  local list, before = {}, {}
  for from = 1, #ids, 500 do
    local fields = {}
    for i = from, math.min(from + 499, #ids) do
      fields[#fields + 1], fields[#fields + 2] = ids[i] .. ':s', ids[i] .. ':t'
    end
    local found = redis.call('HMGET', k.members, unpack(fields))
    for i = 1, #found, 2 do
      local at = #list + 1
      local own = known[ids[at]] or {}
      before[at] = own.target or found[i + 1] or ''
      list[at] = { subscription = own.subscription or found[i] or '', target = parse_runs(before[at]) }
    end
  end
  local kept, targets = wanted_of(list, counts), {}
  for i, runs in ipairs(assign(list, kept)) do
    local target = format_runs(runs)
    if target ~= before[i] then targets[ids[i]] = target end
  end
  return targets, kept
end

local function store_targets(k, targets)
  local fields = {}
  for id, target in pairs(targets) do
    fields[#fields + 1], fields[#fields + 2] = id .. ':t', target
    if #fields == 1000 then
      redis.call('HSET', k.members, unpack(fields))
      fields = {}
    end
  end
  if fields[1] then redis.call('HSET', k.members, unpack(fields)) end
end

-- How many count as alive: all of them while nobody is dropped.
local function living(k, g, now)
  if now < g.grace then return redis.call('ZCARD', k.deadlines) - 1 end
  return redis.call('ZCOUNT', k.deadlines, '(' .. int(now), '+inf')
end

-- A member is no more: its partitions are free, its id is never taken again.
local function forget(k, id, now)
  local head, owned = read_head(k.members, id), redis.call('HGET', k.members, id .. ':o')
  in_chunks(parse_runs(owned or ''), function(names) redis.call('HDEL', k.owners, unpack(names)) end)
  if head and head.instance ~= '-' and redis.call('HGET', k.members, '@' .. head.instance) == id then
    redis.call('HDEL', k.members, '@' .. head.instance)
  end
  redis.call('HDEL', k.members, id, id .. ':s', id .. ':t', id .. ':o', id .. ':c')
  redis.call('ZREM', k.deadlines, id)
  redis.call('ZREMRANGEBYSCORE', k.gone, 0, int(now - GONE_MS))
  redis.call('ZADD', k.gone, int(now), id)
end

-- What was said is heard by whom it concerns: a new epoch by all, free partitions by those who wait for some.
local function tell(channel, text)
  redis.pcall('PUBLISH', channel, text) -- members come by themselves at their next interval
end

-- Members leave, by their own will or not, and the others get what they had.
local function remove_members(k, g, ids, now, channel)
  local without = {}
  for _, id in ipairs(ids) do without[id] = true end
  local counts, about = parse_topics(redis.call('HGET', k.meta, 'topics') or '')
  local targets, kept = retarget(k, member_ids(k.deadlines, without), {}, counts)
  for _, id in ipairs(ids) do forget(k, id, now) end
  store_targets(k, targets)
  redis.call('HSET', k.meta, 'epoch', int(g.epoch + 1))
  if #kept < #counts then redis.call('HSET', k.meta, 'topics', format_topics(kept, about)) end
  tell(channel, 'epoch ' .. int(g.epoch + 1))
end
