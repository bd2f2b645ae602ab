-- What may go: whole closed segments, the oldest first, by time, by size, or because their records were deleted. A
-- member of `segs` is "number:base:position:highest timestamp", its score the time of closing; the position is how many
-- bytes were appended before the segment, so that what two segments are apart is one subtraction.
local SEGMENTS_AT_ONCE = 64

local function closed_segment(member)
  local number, base, position = string.match(member, '^(%d+):(%d+):(%d+):')
  return tonumber(number), tonumber(base), tonumber(position)
end

-- The open segment's bytes from which on the oldest closed one is not needed to hold retention_bytes; -1: never.
local function trim_threshold(segs, p)
  if p.retention_bytes < 0 then return -1 end
  local two = redis.call('ZRANGE', segs, 1, 2)
  if not two[1] then return -1 end
  local behind = p.segment_position
  if two[2] then behind = select(3, closed_segment(two[2])) end
  return math.max(0, p.retention_bytes - p.segment_position + behind)
end

-- The numbers of the oldest and of the newest segment that may go now, a bounded number of them; nil if none may.
local function superfluous(segs, p, now)
  local found = redis.call('ZRANGE', segs, 1, SEGMENTS_AT_ONCE + 1, 'WITHSCORES')
  local first, last
  for i = 1, math.min(#found, 2 * SEGMENTS_AT_ONCE), 2 do
    local number = closed_segment(found[i])
    local behind_base, behind = p.segment_base, p.segment_position
    if found[i + 2] then behind_base, behind = select(2, closed_segment(found[i + 2])) end
    local overdue = p.retention_ms >= 0 and tonumber(found[i + 1]) + p.retention_ms <= now
    local too_many = p.retention_bytes >= 0 and p.segment_position + p.segment_bytes - behind >= p.retention_bytes
    if not (overdue or too_many or behind_base <= p.start) then break end
    first, last = first or number, number
  end
  return first, last
end
