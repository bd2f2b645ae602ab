-- Where a log begins, and which closed segment holds an offset.
-- @include lib/retention

-- The rank of the last closed segment whose number (place 1) or base (place 2) is not above a value; 0 if there is none.
local function last_rank(segs, place, value)
  local low, high = 1, redis.call('ZCARD', segs) - 1
  while low <= high do
    local middle = math.floor((low + high) / 2)
    local found = { closed_segment(redis.call('ZRANGE', segs, middle, middle)[1]) }
    if found[place] <= value then low = middle + 1 else high = middle - 1 end
  end
  return high
end

-- The rank of a closed segment by its number; nil if there is none such. Numbers are nearly dense: a guess finds it.
local function rank_of(segs, number)
  local oldest = redis.call('ZRANGE', segs, 1, 1)[1]
  if not oldest or number < closed_segment(oldest) then return nil end
  local guess = number - closed_segment(oldest) + 1
  local found = redis.call('ZRANGE', segs, guess, guess)[1]
  if found and closed_segment(found) == number then return guess end
  local rank = last_rank(segs, 1, number)
  return closed_segment(redis.call('ZRANGE', segs, rank, rank)[1]) == number and rank or nil
end

-- Whether a closed segment holds an offset, as a client believes.
local function is_holder(segs, number, offset, open_base)
  local rank = rank_of(segs, number)
  if not rank then return false end
  local two = redis.call('ZRANGE', segs, rank, rank + 1)
  local _, base = closed_segment(two[1])
  local behind = two[2] and select(2, closed_segment(two[2])) or open_base
  return base <= offset and offset < behind
end

-- The closed segment that holds an offset: its number and position, nil if none does.
local function closed_segment_of(segs, offset)
  local rank = last_rank(segs, 2, offset)
  if rank < 1 then return nil end
  local number, _, position = closed_segment(redis.call('ZRANGE', segs, rank, rank)[1])
  return number, position
end

-- The first offset that may be served, by the rule that append and expiry follow: a closed segment lives until
-- close + retention_ms, the open one until its deadline; what was deleted is below `start`. Returns it, the number of
-- the segment it lies in, and that one's position; or nil and the refusal.
local function log_start(segs, p, now)
  -- Whatever came before the open segment's newest record ends no later, even if the clock was set back meanwhile.
  if p.deadline > 0 and p.deadline <= now then return p.next, p.segment, p.segment_position end
  local oldest = p.retention_ms >= 0 and '(' .. int(math.max(0, now - p.retention_ms)) or '0'
  local found = redis.pcall('ZRANGEBYSCORE', segs, oldest, '+inf', 'LIMIT', 0, 1)
  if found.err then return nil, raised(found, 'ZRANGEBYSCORE', segs) end
  local number, base, position = p.segment, p.segment_base, p.segment_position
  if found[1] then
    number, base, position = closed_segment(found[1])
    if p.start >= p.segment_base then
      number, position = p.segment, p.segment_position
    elseif p.start > base then
      number, position = closed_segment_of(segs, p.start)
    end
  end
  return math.max(base, p.start), number, position
end
