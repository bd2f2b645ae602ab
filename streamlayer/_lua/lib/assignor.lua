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
      class = { topics = {}, members = {} }
      for topic in string.gmatch(member.subscription, '[^;]+') do class.topics[topic] = true end
      by_text[member.subscription], classes[#classes + 1] = class, class
    end
    class.members[#class.members + 1] = i
  end
  local sets, by_key = {}, {}
  for _, topic in ipairs(sorted_names(counts)) do
    local key, indexes = '', {}
    for c, class in ipairs(classes) do
      if class.topics[topic] then
        key = key .. int(c) .. ','
        for _, i in ipairs(class.members) do indexes[#indexes + 1] = i end
      end
    end
    if indexes[1] then
      if not by_key[key] then
        table.sort(indexes)
        by_key[key] = { topics = {}, members = indexes }
        sets[#sets + 1] = by_key[key]
      end
      local topics = by_key[key].topics
      topics[#topics + 1] = topic
    end
  end
  return sets
end

-- What each member of a set holds of its topics, as lists of { topic, from, to }, how many that are, and what nobody holds.
local function holdings(set, members, counts)
  local held, sizes, pool, total = {}, {}, {}, 0
  for _, i in ipairs(set.members) do held[i], sizes[i] = {}, 0 end
  for _, topic in ipairs(set.topics) do
    local taken = {}
    for _, i in ipairs(set.members) do
      for _, run in ipairs(members[i].target[topic] or {}) do
        local to = math.min(run[2], counts[topic] - 1)
        if run[1] <= to then
          held[i][#held[i] + 1], taken[#taken + 1] = { topic, run[1], to }, { run[1], to }
          sizes[i] = sizes[i] + to - run[1] + 1
        end
      end
    end
    local all = counts[topic] > 0 and { [topic] = { { 0, counts[topic] - 1 } } } or {}
    local free = subtract(all, { [topic] = join(taken) })
    for _, run in ipairs(free and free[topic] or {}) do pool[#pool + 1] = { topic, run[1], run[2] } end
    total = total + counts[topic]
  end
  return held, sizes, pool, total
end

-- members: { subscription = "orders;users", target = runs }, ...; counts: topic -> partitions. Returns runs, by index.
local function assign(members, counts)
  local targets, loads = {}, {}
  for i in ipairs(members) do targets[i], loads[i] = {}, 0 end
  for _, set in ipairs(topic_sets(members, counts)) do
    local held, sizes, pool, total = holdings(set, members, counts)
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
      for _, run in ipairs(held[i]) do
        local runs = targets[i][run[1]] or {}
        runs[#runs + 1] = { run[2], run[3] }
        targets[i][run[1]] = runs
      end
    end
  end
  for _, runs in ipairs(targets) do
    for topic in pairs(runs) do runs[topic] = join(runs[topic]) end
  end
  return targets
end
