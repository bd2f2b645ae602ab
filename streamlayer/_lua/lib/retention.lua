-- What may go: whole closed segments, the oldest first, by time, by size, or because their records were deleted. A
-- member of `segs` is "number:base:position:highest timestamp", its score the time of closing; the position is how many
-- bytes were appended before the segment, so that what two segments are apart is one subtraction.
-- A server frees a key of up to 64 fields at once, whatever command asks: Redis 7.0 took 1.2 ms for 8 segments of
-- 64 x 64 KB, 18 ms for 64.
local SEGMENTS_AT_ONCE = 8
local FREED_AT_ONCE = 16777216 -- bytes, more only if one segment has more

local function closed_segment(member)
  local number, base, position = string.match(member, '^(%d+):(%d+):(%d+):')
  return tonumber(number), tonumber(base), tonumber(position)
end

-- When the oldest closed segment may go: `trim_at`, the open segment's bytes from which on the rest holds
-- retention_bytes (-1: never), and `oldest_closed`, the time of its closing (0: there is none).
local function note_oldest(segs, p)
  p.trim_at, p.oldest_closed = -1, 0
  local two = redis.call('ZRANGE', segs, 1, 2, 'WITHSCORES')
  if not two[1] then return end
  p.oldest_closed = tonumber(two[2])
  if p.retention_bytes < 0 then return end
  local behind = p.segment_position
  if two[3] then behind = select(3, closed_segment(two[3])) end
  p.trim_at = math.max(0, p.retention_bytes - p.segment_position + behind)
end

-- A closed segment's keys expire 1/64 later than it is served: whoever appends frees it before, beside the commands;
-- Redis 7 frees what expires between them, 0.3 us a field.
local function key_expiry(closed, retention_ms)
  return closed + retention_ms + math.floor(retention_ms / 64)
end

-- The numbers of the oldest and of the newest segment that may go now, a bounded number of them; nil if none may.
-- `coming`: bytes about to be appended. They count as if they were there: else they would come on top of what is held.
local function superfluous(segs, p, now, coming)
  local found = redis.call('ZRANGE', segs, 1, SEGMENTS_AT_ONCE + 1, 'WITHSCORES')
  local total = p.segment_position + p.segment_bytes + coming
  local first, last, from
  for i = 1, math.min(#found, 2 * SEGMENTS_AT_ONCE), 2 do
    local number, _, position = closed_segment(found[i])
    local behind_base, behind = p.segment_base, p.segment_position
    if found[i + 2] then behind_base, behind = select(2, closed_segment(found[i + 2])) end
    local overdue = p.retention_ms >= 0 and tonumber(found[i + 1]) + p.retention_ms <= now
    local too_many = p.retention_bytes >= 0 and total - behind >= p.retention_bytes
    if not (overdue or too_many or behind_base <= p.start) then break end
    from = from or position
    if first and behind - from > FREED_AT_ONCE then break end
    first, last = first or number, number
  end
  return first, last
end
