-- Sets of partitions as runs: "orders:0-3,5;users:1", topics sorted. As a table: topic -> { { from, to }, ... }, the runs
-- sorted and apart. What thousands of partitions cost is what their runs cost.
local function parse_runs(packed)
  local runs = {}
  for topic, list in string.gmatch(packed, '([^:;]+):([^;]+)') do
    local found = {}
    for from, to in string.gmatch(list, '(%d+)%-?(%d*)') do
      found[#found + 1] = { tonumber(from), tonumber(to) or tonumber(from) }
    end
    runs[topic] = found
  end
  return runs
end

local function sorted_names(map)
  local names = {}
  for name in pairs(map) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function format_runs(runs)
  local parts = {}
  for _, topic in ipairs(sorted_names(runs)) do
    local list = {}
    for _, run in ipairs(runs[topic]) do
      list[#list + 1] = run[1] == run[2] and int(run[1]) or int(run[1]) .. '-' .. int(run[2])
    end
    if list[1] then parts[#parts + 1] = topic .. ':' .. table.concat(list, ',') end
  end
  return table.concat(parts, ';')
end

-- What is in one and not in the other; nil instead of an empty table.
local function subtract(some, others)
  local rest = {}
  for topic, runs in pairs(some) do
    local cuts, left = others[topic] or {}, {}
    local at = 1
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
    if left[1] then rest[topic] = left end
  end
  return next(rest) and rest
end

-- Sort a topic's runs and join those that touch.
local function join(runs)
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
  local names = {}
  for _, topic in ipairs(sorted_names(runs)) do
    for _, run in ipairs(runs[topic]) do
      for number = run[1], run[2] do
        names[#names + 1] = topic .. ':' .. int(number)
        if #names == 1000 then
          if visit(names) then return end
          names = {}
        end
      end
    end
  end
  if names[1] then visit(names) end
end
