-- One member's step towards its target: what it has let go is free; then what it must give up; and only when that is
-- done it has the group's epoch, and gets what is free of the rest. Reads only; the caller writes what this returns.
-- @include lib/group
local GRANTED_AT_ONCE = 1000

-- Partitions of `missing` that nobody owns, by name, and whether it waits for more (1: for others, 2: for its next call).
local function grant(k, member, missing, without)
  local names, pending = {}, 0
  in_chunks(missing, function(part)
    for i, owner in ipairs(redis.call('HMGET', k.owners, unpack(part))) do
      local id = owner and string.match(owner, '^%S+')
      if id and id ~= member and not without[id] then
        pending = math.max(pending, 1)
      elseif #names < GRANTED_AT_ONCE then
        names[#names + 1] = part[i]
      else
        pending = 2
        return true
      end
    end
    return false
  end)
  return names, pending
end

-- released, owned, target: packed. without: members that are no more. Returns what the member owns now (packed), what it
-- must give up (packed, or nil), the names of what was granted, and what was freed (runs, or nil).
local function reconcile(k, g, member, head, owned, target, released, without)
  local before = parse_runs(owned)
  local held = released ~= '' and (subtract(before, parse_runs(released)) or {}) or before
  local freed = released ~= '' and subtract(before, held) or nil
  local revoke = subtract(held, parse_runs(target))
  if revoke then
    head.pending = 1
    return format_runs(held), format_runs(revoke), {}, freed
  end
  local names
  head.epoch = g.epoch
  names, head.pending = grant(k, member, subtract(parse_runs(target), held) or {}, without)
  local grown = {}
  for _, name in ipairs(names) do
    local topic, number = string.match(name, '^(.*):(%d+)$')
    if not grown[topic] then
      if not held[topic] then held[#held + 1] = topic end
      grown[topic] = { unpack(held[topic] or {}) }
    end
    table.insert(grown[topic], { tonumber(number), tonumber(number) })
  end
  for topic, runs in pairs(grown) do held[topic] = join(runs) end
  return format_runs(held), nil, names, freed
end

local function store_grants(k, member, names, epoch)
  local fields = {}
  for _, name in ipairs(names) do
    fields[#fields + 1], fields[#fields + 2] = name, member .. ' ' .. int(epoch)
  end
  if fields[1] then redis.call('HSET', k.owners, unpack(fields)) end
end
