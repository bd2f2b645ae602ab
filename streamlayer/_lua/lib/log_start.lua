-- The first offset that may be served, by the rule that append and expiry follow: a closed segment lives until
-- close + retention_ms, the open one until its deadline. Returns it, and the number of the segment it lies in; nil if
-- segs is somebody else's.
local function log_start(segs, p, now)
  local oldest = p.retention_ms >= 0 and '(' .. int(now - p.retention_ms) or '0'
  local found = redis.pcall('ZRANGEBYSCORE', segs, oldest, '+inf', 'LIMIT', 0, 1)
  if found.err then return nil end
  local first = found[1]
  local number, base = p.segment, p.segment_base
  if first then
    number, base = string.match(first, '^(%d+):(%d+):')
  elseif p.deadline > 0 and p.deadline <= now then
    base = p.next
  end
  return math.max(tonumber(base), p.start), tonumber(number)
end

-- The closed segment that holds an offset: the last one whose base is not above it.
local function closed_segment_of(segs, offset)
  local low, high, number = 1, redis.call('ZCARD', segs) - 1, nil
  while low <= high do
    local middle = math.floor((low + high) / 2)
    local n, base = string.match(redis.call('ZRANGE', segs, middle, middle)[1], '^(%d+):(%d+):')
    if tonumber(base) <= offset then
      number, low = tonumber(n), middle + 1
    else
      high = middle - 1
    end
  end
  return number
end
