-- Which members are overdue. If the group heard nothing for more than two heartbeat intervals, the server itself was
-- away (paused, restarted, its clock was set): then nobody goes for one session. A lone member's silence is its own.
-- @include lib/group
local DROPPED_AT_ONCE = 100
local LONGEST_SESSION_MS = 1800000

-- The ids to drop, the caller's never; g.grace is the time until which nobody goes.
local function overdue_members(k, g, member, now, session_ms, interval_ms)
  local silent = g.seen > 0 and (now - g.seen > 2 * interval_ms or now < g.seen)
  if silent and redis.call('ZCARD', k.deadlines) > 2 then g.grace = now + session_ms end
  if g.grace > now + LONGEST_SESSION_MS then g.grace = 0 end -- given before the clock was set back
  if now < g.grace then return {} end
  local found = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', k.deadlines, 0, int(now), 'LIMIT', 0, DROPPED_AT_ONCE)) do
    if id ~= member then found[#found + 1] = id end
  end
  -- A deadline further away than two sessions was given before the clock was set back.
  local latest = redis.call('ZREVRANGE', k.deadlines, 0, 0, 'WITHSCORES')
  if latest[2] and tonumber(latest[2]) > now + 2 * session_ms and latest[1] ~= member then
    local other = read_head(k.members, latest[1])
    if other and tonumber(latest[2]) > now + 2 * other.session_ms then found[#found + 1] = latest[1] end
  end
  return found
end
