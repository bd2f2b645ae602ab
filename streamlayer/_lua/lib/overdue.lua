-- Which members are overdue. If the group heard nothing for more than two heartbeat intervals, the server itself was
-- away (paused, restarted, its clock was set): then nobody goes for one session. A lone member's silence is its own.
-- @include lib/group
local DROPPED_AT_ONCE = 100

-- The clock was set back: what was given until a later time than now + a session is cut to that. id -> deadline.
local function cut_deadlines(k, now)
  local cut = {}
  local found = redis.call('ZRANGE', k.deadlines, 1, -1, 'WITHSCORES')
  for i = 1, #found, 2 do
    local head = read_head(k.members, found[i])
    local latest = now + (head and head.session_ms or 0)
    if tonumber(found[i + 1]) > latest then cut[found[i]] = latest end
  end
  return cut
end

-- The ids to drop, the caller's never, and deadlines to cut; g.grace is the time until which nobody goes.
local function overdue_members(k, g, member, now, session_ms, interval_ms)
  if now < g.seen then
    g.grace = math.min(g.grace, now + session_ms)
    return {}, cut_deadlines(k, now)
  end
  local silent = g.seen > 0 and now - g.seen > 2 * interval_ms
  if silent and redis.call('ZCARD', k.deadlines) > 2 then g.grace = now + session_ms end
  if now < g.grace then return {}, {} end
  local found = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', k.deadlines, 0, int(now), 'LIMIT', 0, DROPPED_AT_ONCE)) do
    if id ~= member then found[#found + 1] = id end
  end
  return found, {}
end
