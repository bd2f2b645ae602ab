-- Sets of partitions as runs: "orders:0-3,5;users:1", topics sorted. As a table: topic -> { { from, to }, ... }, the runs
-- sorted and apart, and the topics' names as its list, so that they need not be sorted again. What thousands of
-- partitions cost is what their runs cost. Runs are never changed in place: tables may share them. No partition has a
-- higher number: what says so was spoiled, and nobody may count through it while the server waits.
local HIGHEST = 99999

local function parse_runs(packed)
  local runs, count = {}, 0
  for topic, list in string.gmatch(packed, '([^:;]+):([^;]+)') do
    local found, only = {}, tonumber(list)
    if only and only <= HIGHEST then
      found[1] = { only, only }
    else
      for from, to in string.gmatch(list, '(%d+)%-?(%d*)') do
        from, to = math.min(tonumber(from), HIGHEST), tonumber(to)
        found[#found + 1] = { from, math.min(to or from, HIGHEST) }
      end
    end
    count = count + 1
    runs[count], runs[topic] = topic, found
  end
  return runs
end

-- The names that a map has as its list: sorted, which they nearly always are already.
local function sorted_names(map)
  for i = 2, #map do
    if map[i] < map[i - 1] then
      table.sort(map)
      break
    end
  end
  return map
end

local function format_runs(runs)
  local parts = {}
  for _, topic in ipairs(sorted_names(runs)) do
    local list = {}
    for i, run in ipairs(runs[topic]) do list[i] = run[1] == run[2] and run[1] or run[1] .. '-' .. run[2] end
    if list[1] then parts[#parts + 1] = topic .. ':' .. (list[2] and table.concat(list, ',') or list[1]) end
  end
  return table.concat(parts, ';')
end

-- What is left of a topic's runs without others.
local function cut_runs(runs, cuts)
  local left, at = {}, 1
  for _, run in ipairs(runs) do
    local from = run[1]
    while cuts[at] and cuts[at][2] < from do at = at + 1 end
    local cut = at
    while cuts[cut] and cuts[cut][1] <= run[2] do
      if cuts[cut][1] > from then left[#left + 1] = { from, cuts[cut][1] - 1 } end
      from = math.max(from, cuts[cut][2] + 1)
      cut = cut + 1
    end
    if from <= run[2] then left[#left + 1] = { from, run[2] } end
  end
  return left
end

-- What is in one and not in the other; nil instead of an empty table.
local function subtract(some, others)
  local rest, count = {}, 0
  for _, topic in ipairs(some) do
    local left = others[topic] and cut_runs(some[topic], others[topic]) or some[topic]
    if left[1] then
      count = count + 1
      rest[count], rest[topic] = topic, left
    end
  end
  return count > 0 and rest or nil
end

-- A topic's runs sorted, and those that touch joined.
local function join(runs)
  if not runs[2] then return runs end
  table.sort(runs, function(a, b) return a[1] < b[1] end)
  local joined = {}
  for _, run in ipairs(runs) do
    local last = joined[#joined]
    if last and run[1] <= last[2] + 1 then
      last[2] = math.max(last[2], run[2])
    else
      joined[#joined + 1] = { run[1], run[2] }
    end
  end
  return joined
end

-- Call `visit` with the names of partitions ("orders:3"), a list of 1,000 at most at a time, until it returns true.
local function in_chunks(runs, visit)
  local names, count = {}, 0
  for _, topic in ipairs(sorted_names(runs)) do
    for _, run in ipairs(runs[topic]) do
      for number = run[1], run[2] do
        count = count + 1
        names[count] = topic .. ':' .. number
        if count == 1000 then
          if visit(names) then return end
          names, count = {}, 0
        end
      end
    end
  end
  if count > 0 then visit(names) end
end
