-- check: hold a partition's keys against each other, some fields of one segment at a time.
-- KEYS: meta tail segs log index times
-- ARGV: topic_id segment:int rank:int bytes:int
-- returns: segment rank bytes (to go on with; segment -1 when all was looked at) contradiction?
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED
-- flags: no-writes
-- slot: one partition's
-- cost: O(fields looked at), half a MiB or 64 of them
-- segment, rank, bytes: what the last call answered; -1 0 0 to begin. A segment that is no longer served is passed over.
-- @include lib/reply
-- @include lib/meta
-- @include lib/segment
-- @include lib/log_start
-- @include lib/frames
local BYTES_AT_ONCE, FIELDS_AT_ONCE = 524288, 64

local m, refusal = read_meta(meta, topic_id, 'next', 'segment', 'segment_base', 'segment_bytes', 'segment_position',
  'segment_at', 'tail_base', 'tail_len', 'max_timestamp', 'deadline', 'retention_ms', 'start', 'retention_bytes',
  'trim_at', 'oldest_closed')
if not m then return refusal end
local p = {
  next = tonumber(m[1]), segment = tonumber(m[2]), segment_base = tonumber(m[3]), segment_bytes = tonumber(m[4]),
  segment_position = tonumber(m[5]), segment_at = tonumber(m[6]), tail_base = tonumber(m[7]), tail_len = tonumber(m[8]),
  max_timestamp = tonumber(m[9]), deadline = tonumber(m[10]), retention_ms = tonumber(m[11]), start = tonumber(m[12]),
  retention_bytes = tonumber(m[13]),
}
local keys = { tail = tail, segs = segs, log = log, index = index, times = times }
local strange = foreign(keys)
if strange then return refuse('FOREIGN', strange) end
local now = server_ms()
local start, first = log_start(segs, p, now)
if not start then return first end
if segment < first then return { tag, first, 0, 0 } end
if segment > p.segment then return { tag, -1, 0, 0 } end -- the server came back with less since the last call

local function wrong(what)
  return { tag, -1, 0, 0, 'segment ' .. int(segment) .. ': ' .. what }
end

-- What the segment should hold, by `segs`, or by meta if it is the open one.
local base, behind, expected, highest = p.segment_base, p.tail_base, p.segment_bytes - p.tail_len, p.max_timestamp
if segment == p.segment then
  if p.start > p.next or base > p.tail_base or p.tail_base > p.next then return wrong('offsets are not in order') end
  if redis.call('ZRANGE', segs, 0, 0)[1] ~= '-' then return wrong('segs has lost its placeholder') end
  note_oldest(segs, p)
  if tonumber(m[14]) ~= p.trim_at then return wrong('trim_at is ' .. m[14]) end
  if tonumber(m[15]) ~= p.oldest_closed then return wrong('oldest_closed is ' .. m[15]) end
  if overdue(p, now) or p.next == start then return { tag, -1, 0, 0 } end
  local damage = contradiction(p, keys)
  if damage then return wrong(damage) end
  local records = records_in(redis.call('GET', tail) or '')
  if records ~= p.next - p.tail_base then return wrong('the tail holds ' .. int(records) .. ' records') end
else
  local place = last_rank(segs, 1, segment)
  local two = redis.call('ZRANGE', segs, place, place + 1)
  local number, after, position
  number, base, position = closed_segment(two[1])
  after, behind, expected = p.segment, p.segment_base, p.segment_position
  if two[2] then after, behind, expected = closed_segment(two[2]) end
  expected = expected - position
  if number ~= segment or after ~= segment + 1 then return wrong('segs has a gap') end
  highest = tonumber(string.match(two[1], '%-?%d+$'))
end
local count = redis.call('ZCARD', index)
if redis.call('HLEN', log) ~= count or redis.call('ZCARD', times) ~= count then
  return wrong('log, index and times do not hold the same number of fields')
end

-- Fields follow each other without a gap, hold as many records as their offsets say, and times never fall.
rank = math.max(rank, 1) -- 0 is the placeholder
local before = redis.call('ZRANGE', index, rank - 1, rank - 1, 'WITHSCORES')
local next_base = rank == 1 and base or tonumber(before[2]) + 1
local found = redis.call('ZRANGE', index, rank, rank + FIELDS_AT_ONCE - 1, 'WITHSCORES')
local latest = redis.call('ZRANGE', times, rank - 1, rank + FIELDS_AT_ONCE - 1, 'WITHSCORES')
local looked_at = 0
for i = 1, #found, 2 do
  local field, last = found[i], tonumber(found[i + 1])
  local frames = redis.call('HGET', log, field) or ''
  if tonumber(field) ~= next_base then return wrong('field ' .. field .. ' begins where ' .. int(next_base) .. ' should') end
  if records_in(frames) ~= last - next_base + 1 then return wrong('field ' .. field .. ' does not end at ' .. int(last)) end
  if latest[i + 2] ~= field or tonumber(latest[i + 3]) < tonumber(latest[i + 1]) then
    return wrong('times does not rise with field ' .. field)
  end
  next_base, rank, looked_at = last + 1, rank + 1, looked_at + #frames
  if looked_at >= BYTES_AT_ONCE then break end
end
bytes = bytes + looked_at
if rank < count then return { tag, segment, rank, bytes } end
if next_base ~= behind then return wrong('it ends at ' .. int(next_base) .. ', what follows begins at ' .. int(behind)) end
if bytes ~= expected then return wrong('it holds ' .. int(bytes) .. ' bytes, not ' .. int(expected)) end
if segment == p.segment then return { tag, -1, 0, 0 } end
if tonumber(latest[#latest]) ~= highest then return wrong('its highest timestamp is not what segs says') end
return { tag, segment + 1, 0, 0 }
