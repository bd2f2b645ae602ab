-- Where a partition's frames lie: a tail string (the newest, small ones) and segments, each a hash of fields found
-- through two sorted sets. `p` is the partition's state as the calling script read it and will write it back.
-- @include lib/retention
-- An allocator rounds a field up to its next size, a quarter more at worst: many short frames in one fill it best, and
-- 16 KiB is such a size. A larger frame becomes a field at once: through the tail it would go to the disk twice.
local TAIL_LIMIT, SHORT_FRAME = 16368, 4080
local SEGMENT_AGE_LIMIT_MS = 86400000

local function six_bytes(n)
  local high, low = math.floor(n / 16777216), n % 16777216
  return string.char(math.floor(high / 65536) % 256, math.floor(high / 256) % 256, high % 256,
    math.floor(low / 65536), math.floor(low / 256) % 256, low % 256)
end

local function field_name(offset)
  return string.format('%016d', offset)
end

local function overdue(p, now)
  return p.deadline > 0 and p.deadline <= now
end

local function aged(p, now)
  if p.segment_at == 0 or p.retention_ms < 0 then return false end
  return p.segment_at + math.min(p.retention_ms / 8, SEGMENT_AGE_LIMIT_MS) <= now
end

local function save_tail(meta, p)
  redis.call('HSET', meta, 'next', int(p.next), 'segment_bytes', int(p.segment_bytes), 'tail_len', int(p.tail_len),
    'max_timestamp', int(p.max_timestamp), 'deadline', int(p.deadline))
end

local function save_all(meta, p)
  save_tail(meta, p)
  redis.call('HSET', meta, 'segment', p.segment, 'segment_base', p.segment_base, 'segment_at', p.segment_at,
    'tail_base', p.tail_base, 'segment_position', int(p.segment_position), 'trim_at', int(p.trim_at),
    'oldest_closed', int(p.oldest_closed), 'start', int(p.start))
end

-- The first of the keys that is somebody else's; nil if none is.
local function foreign(keys)
  for name, kind in pairs({ tail = 'string', segs = 'zset', log = 'hash', index = 'zset', times = 'zset' }) do
    if not holds(keys[name], kind) then return keys[name] end
  end
  return nil
end

-- One field of the open segment: its frames, the last offset they hold, the segment's highest timestamp so far.
local function add_field(keys, base, last, max_timestamp, frames)
  local field = field_name(base)
  redis.call('HSET', keys.log, field, frames)
  redis.call('ZADD', keys.index, int(last), field)
  redis.call('ZADD', keys.times, int(max_timestamp), field)
end

local function seal_tail(p, keys)
  if p.tail_len == 0 then return end
  add_field(keys, p.tail_base, p.next - 1, p.max_timestamp, redis.call('GET', keys.tail))
  redis.call('SET', keys.tail, '', 'KEEPTTL')
  p.tail_base, p.tail_len = p.next, 0
end

-- The first append of a segment makes its keys, so that from here on each declared key exists.
local function open_segment(p, keys, now)
  redis.call('HSET', keys.log, '-', '')
  redis.call('ZADD', keys.index, -1, '-')
  redis.call('ZADD', keys.times, -1, '-')
  p.segment_at = now
end

local function next_segment(p, keys)
  redis.call('SET', keys.tail, '')
  p.segment_position = p.segment_position + p.segment_bytes
  p.segment, p.segment_base, p.segment_bytes, p.segment_at = p.segment + 1, p.next, 0, 0
  p.tail_base, p.tail_len, p.deadline, p.max_timestamp = p.next, 0, 0, -1
  note_oldest(keys.segs, p)
end

-- All that the log holds goes. The keys are freed here: nobody names them again, and their expiry may be another
-- while settings change.
local function drop_segment(p, keys)
  redis.call('UNLINK', keys.log, keys.index, keys.times)
  p.start = p.next
  next_segment(p, keys)
end

local function close_segment(p, keys, now)
  seal_tail(p, keys)
  -- The set's order is the order of the segments: closing times never go back, and equal ones sort by padded number.
  local newest = redis.call('ZRANGE', keys.segs, -1, -1, 'WITHSCORES')
  -- A segment that was idle before it is closed ends when its newest record does, not retention_ms from now.
  local closed = p.deadline > 0 and math.min(now, p.deadline - p.retention_ms) or now
  closed = math.max(closed, tonumber(newest[2] or 0))
  local member = string.format('%016d:%d:%d:%d', p.segment, p.segment_base, p.segment_position, p.max_timestamp)
  redis.call('ZADD', keys.segs, int(closed), member)
  if p.retention_ms >= 0 then
    for _, name in ipairs({ 'log', 'index', 'times' }) do
      redis.call('PEXPIREAT', keys[name], int(key_expiry(closed, p.retention_ms)))
    end
  end
  next_segment(p, keys)
end

-- The open segment's keys end retention_ms after its newest record, at most 1/64 later: renewed when that is used up.
local function renew_deadline(p, keys, now)
  if p.retention_ms < 0 or now + p.retention_ms <= p.deadline then return end
  p.deadline = now + p.retention_ms + math.floor(p.retention_ms / 64)
  for _, name in ipairs({ 'tail', 'log', 'index', 'times' }) do
    redis.call('PEXPIREAT', keys[name], int(p.deadline))
  end
end

-- Nil if the keys agree with meta, else what does not.
local function contradiction(p, keys)
  if redis.call('STRLEN', keys.tail) ~= p.tail_len then return 'the tail is not as long as meta says' end
  if p.segment_at == 0 then return nil end
  local newest = redis.call('ZREVRANGE', keys.index, 0, 0, 'WITHSCORES')
  local field, last = newest[1], tonumber(newest[2] or -2)
  if last == -2 then return 'the index of segment ' .. int(p.segment) .. ' is gone' end
  if last == -1 then last = p.segment_base - 1 end
  if last + 1 ~= p.tail_base then return 'the index ends at ' .. int(last) .. ', the tail begins at ' .. int(p.tail_base) end
  if redis.call('HEXISTS', keys.log, field) == 0 then return 'field ' .. field .. ' is gone' end
  return nil
end
