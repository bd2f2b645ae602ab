-- Who shall have which partition: balanced to within one a member for each topic set (topics with the same subscribers),
-- and sticky: the fewest partitions move. No redis.call: members and counts in, targets out.
-- @include lib/runs

-- Take a number of partitions off the end of a list of { topic, from, to } and put them at the end of another.
local function move(source, sink, wanted)
  while wanted > 0 do
    local last = source[#source]
    local size = last[3] - last[2] + 1
    if size <= wanted then
      sink[#sink + 1], source[#source] = last, nil
      wanted = wanted - size
    else
      sink[#sink + 1] = { last[1], last[3] - wanted + 1, last[3] }
      last[3] = last[3] - wanted
      wanted = 0
    end
  end
end

-- Topics by who subscribes to them: { topics = sorted names, members = indexes }, in the order of the first topic.
local function topic_sets(members, counts)
  local classes, by_text = {}, {}
  for i, member in ipairs(members) do
    local class = by_text[member.subscription]
    if not class then
      class = {}
      by_text[member.subscription], classes[#classes + 1] = class, class
    end
    class[#class + 1] = i
  end
  local keys = {} -- topic -> the numbers of the classes that subscribe to it
  for c, class in ipairs(classes) do
    for topic in string.gmatch(members[class[1]].subscription, '[^;]+') do
      keys[topic] = (keys[topic] or '') .. c .. ','
    end
  end
  local sets, by_key = {}, {}
  for _, topic in ipairs(sorted_names(counts)) do
    local key = keys[topic]
    if key and not by_key[key] then
      local indexes = {}
      for c in string.gmatch(key, '%d+') do
        for _, i in ipairs(classes[tonumber(c)]) do indexes[#indexes + 1] = i end
      end
      table.sort(indexes)
      by_key[key] = { topics = {}, members = indexes }
      sets[#sets + 1] = by_key[key]
    end
    if key then table.insert(by_key[key].topics, topic) end
  end
  return sets
end

-- topic -> the indexes of the members that have some of it.
local function holders_of(members)
  local holders = {}
  for i, member in ipairs(members) do
    for _, topic in ipairs(member.target) do
      holders[topic] = holders[topic] or {}
      table.insert(holders[topic], i)
    end
  end
  return holders
end

-- What each member of a set holds of its topics, as lists of { topic, from, to }, how many that are, and what nobody holds.
local function holdings(set, members, counts, holders)
  local held, sizes, pool, total = {}, {}, {}, 0
  for _, i in ipairs(set.members) do held[i], sizes[i] = {}, 0 end
  for _, topic in ipairs(set.topics) do
    local taken, free, last = {}, 0, counts[topic] - 1
    for _, i in ipairs(holders[topic] or {}) do
      for _, run in ipairs(sizes[i] and members[i].target[topic] or {}) do
        local to = math.min(run[2], last)
        if run[1] <= to then
          held[i][#held[i] + 1] = { topic, run[1], to }
          sizes[i] = sizes[i] + to - run[1] + 1
          if to - run[1] == last then free = counts[topic] else taken[#taken + 1] = { run[1], to } end
        end
      end
    end
    for _, run in ipairs(join(taken)) do
      if run[1] > free then pool[#pool + 1] = { topic, free, run[1] - 1 } end
      free = run[2] + 1
    end
    if free <= last then pool[#pool + 1] = { topic, free, last } end
    total = total + counts[topic]
  end
  return held, sizes, pool, total
end

-- The lists of { topic, from, to } that a member has, added to its runs.
local function add_to(runs, list)
  for _, part in ipairs(list) do
    local topic = part[1]
    if not runs[topic] then runs[#runs + 1], runs[topic] = topic, {} end
    table.insert(runs[topic], { part[2], part[3] })
  end
end

-- members: { subscription = "orders;users", target = runs }, ...; counts: topic -> partitions. Returns runs, by index.
local function assign(members, counts)
  local targets, loads, holders = {}, {}, holders_of(members)
  for i in ipairs(members) do targets[i], loads[i] = {}, 0 end
  for _, set in ipairs(topic_sets(members, counts)) do
    local held, sizes, pool, total = holdings(set, members, counts, holders)
    -- The odd ones go to those who have most (nothing moves), then to those with the least from other sets.
    local order = {}
    for place, i in ipairs(set.members) do order[place] = i end
    table.sort(order, function(a, b)
      if sizes[a] ~= sizes[b] then return sizes[a] > sizes[b] end
      if loads[a] ~= loads[b] then return loads[a] < loads[b] end
      return a < b
    end)
    local each, odd = math.floor(total / #order), total % #order
    local quota = {}
    for place, i in ipairs(order) do
      quota[i] = each + (place <= odd and 1 or 0)
      loads[i] = loads[i] + quota[i]
      if sizes[i] > quota[i] then move(held[i], pool, sizes[i] - quota[i]) end
    end
    for _, i in ipairs(order) do
      if sizes[i] < quota[i] then move(pool, held[i], quota[i] - sizes[i]) end
      add_to(targets[i], held[i])
    end
  end
  for _, runs in ipairs(targets) do
    for _, topic in ipairs(runs) do runs[topic] = join(runs[topic]) end
  end
  return targets
end
