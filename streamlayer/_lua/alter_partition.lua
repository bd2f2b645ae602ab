-- alter_partition: give a partition newer settings, and each segment's keys the expiry that follows from them.
-- KEYS: meta tail segs segment_keys*
-- ARGV: topic_id config_version:int first:int last:int retention_ms:int retention_bytes:int segment_limit:int max_message_bytes:int min_insync_replicas:int flush:int
-- returns: first_segment last_segment (to name next; both -1 when all is done)
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED
-- flags: allow-oom
-- slot: one partition's
-- cost: O(segments named), 8 at most
-- The caller names segments from the first on, 8 at a time, the open one last. Readers trust that the keys of whatever
-- the rule serves are there: so a longer retention holds when the last call has been made, a shorter one from the first.
-- @include lib/reply
-- @include lib/meta
-- @include lib/segment
-- @include lib/log_start
local m, refusal = read_meta(meta, topic_id, 'config_version', 'next', 'segment', 'segment_base', 'segment_bytes',
  'segment_position', 'segment_at', 'tail_base', 'tail_len', 'max_timestamp', 'deadline', 'retention_ms', 'start',
  'altering')
if not m then return refusal end
local now = server_ms()
local version, old_retention = tonumber(m[1]), tonumber(m[12])
local p = {
  next = tonumber(m[2]), segment = tonumber(m[3]), segment_base = tonumber(m[4]), segment_bytes = tonumber(m[5]),
  segment_position = tonumber(m[6]), segment_at = tonumber(m[7]), tail_base = tonumber(m[8]), tail_len = tonumber(m[9]),
  max_timestamp = tonumber(m[10]), deadline = tonumber(m[11]), retention_ms = old_retention, start = tonumber(m[13]),
}
-- `altering`: the newest version whose calls have begun; an older one's late call must not undo what they did.
if math.max(version, tonumber(m[14] or 0)) > config_version then return { tag, -1, -1 } end
if not holds(tail, 'string') then return refuse('FOREIGN', tail) end
local start, refused = log_start(segs, p, now)
if not start then return refused end
p.retention_ms, p.retention_bytes = retention_ms, retention_bytes

local function save()
  -- What is overdue stays so under a longer retention: the log start never falls.
  p.start = start
  if old_retention ~= retention_ms and p.segment_at ~= 0 and not overdue(p, now) then
    -- The deadline tells, but for its slack, when the newest record came.
    local newest = p.deadline > 0 and math.min(now, math.max(p.segment_at, p.deadline - old_retention)) or now
    p.deadline = retention_ms >= 0 and newest + retention_ms or 0
  end
  note_oldest(segs, p)
  redis.call('HSET', meta, 'config_version', int(config_version), 'retention_ms', int(retention_ms), 'retention_bytes',
    int(retention_bytes), 'segment_limit', int(segment_limit), 'max_message_bytes', int(max_message_bytes),
    'min_insync_replicas', int(min_insync_replicas), 'flush', int(flush), 'start', int(p.start), 'deadline',
    int(p.deadline), 'trim_at', int(p.trim_at), 'oldest_closed', int(p.oldest_closed))
  version = config_version
end

local function expire(key, at)
  if retention_ms < 0 then redis.call('PERSIST', key) else redis.call('PEXPIREAT', key, int(at)) end
end

local function named(number, place)
  return KEYS[3 + 3 * (number - first) + place]
end

local longer = old_retention >= 0 and (retention_ms < 0 or retention_ms > old_retention)
if version < config_version then
  redis.call('HSET', meta, 'altering', int(config_version))
  if not longer then save() end
end

local rank = math.max(1, last_rank(segs, 1, first - 1) + 1)
local found = redis.call('ZRANGE', segs, rank, rank + SEGMENTS_AT_ONCE, 'WITHSCORES')
for i = 1, #found, 2 do
  local number, expires = closed_segment(found[i]), key_expiry(tonumber(found[i + 1]), retention_ms)
  if number > last then return { tag, number, p.segment } end
  -- One that is overdue is for `trim`: an expiry in the past would free it here, while the server waits.
  if retention_ms < 0 or expires > now then
    for place = 1, 3 do expire(named(number, place), expires) end
  end
end
if last < p.segment then return { tag, p.segment, p.segment } end

if version < config_version then save() end
if p.segment_at ~= 0 and overdue(p, now) then
  local log, index, times = named(p.segment, 1), named(p.segment, 2), named(p.segment, 3)
  drop_segment(p, { tail = tail, segs = segs, log = log, index = index, times = times })
  save_all(meta, p)
elseif p.segment_at ~= 0 then
  expire(tail, p.deadline)
  for place = 1, 3 do expire(named(p.segment, place), p.deadline) end
end
return { tag, -1, -1 }
