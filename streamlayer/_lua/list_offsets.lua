-- list_offsets: where a log begins and ends, and the field with the first record at or after a time.
-- KEYS: meta tail segs log index times
-- ARGV: topic_id timestamp:int segment:int after:int oldest:int passed passed_closed:int
-- returns: log_start next (base last bytes)?
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED SEGMENT
-- flags: no-writes
-- slot: one partition's
-- cost: O(field), where the caller knows the segments; O(500 closed segments) else; timestamp -1: the two offsets only.
-- SEGMENT says where to go on: what is before that segment holds no such record, and the caller passes it as `after` too.
-- Who knows it from segments listed before names the oldest of these and the last one passed over (its member, and when it
-- was closed): if that one is still there and the log begins no earlier, then all that was listed is as it was.
-- @include lib/reply
-- @include lib/meta
-- @include lib/log_start
local SEGMENTS_LOOKED_AT = 500

local m, refusal = read_meta(meta, topic_id, 'next', 'segment', 'segment_base', 'tail_base', 'tail_len', 'deadline',
  'retention_ms', 'start', 'max_timestamp', 'segment_position')
if not m then return refusal end
local now = server_ms()
local p = {
  next = tonumber(m[1]), segment = tonumber(m[2]), segment_base = tonumber(m[3]), tail_base = tonumber(m[4]),
  deadline = tonumber(m[6]), retention_ms = tonumber(m[7]), start = tonumber(m[8]),
  segment_position = tonumber(m[10]),
}
local start, first = log_start(segs, p, now)
if not start then return first end
local reply = { tag, start, p.next }
if timestamp < 0 or start == p.next then return reply end

-- Each segment knows its own highest timestamp: the first that reaches the time holds the record.
local holder
local listed = first >= oldest and tonumber(redis.call('ZSCORE', segs, passed) or -1) == passed_closed
if passed ~= '' and not listed then after = 0 end
local from = math.max(first, after)
local looked, chunk = 0, 2
local rank = from < p.segment and (rank_of(segs, from) or math.max(1, last_rank(segs, 1, from)))
while rank and not holder and chunk > 0 and from < p.segment do
  local found = redis.call('ZRANGE', segs, rank + looked, rank + looked + chunk - 1)
  for _, member in ipairs(found) do
    local number = closed_segment(member)
    local max_timestamp = tonumber(string.match(member, '%-?%d+$'))
    if number >= from and max_timestamp >= timestamp then
      holder = number
      break
    end
    from = math.max(from, number + 1)
  end
  if #found < chunk then break end
  looked = looked + chunk
  chunk = math.min(2 * chunk, SEGMENTS_LOOKED_AT - looked)
end
if not holder and looked == SEGMENTS_LOOKED_AT and from < p.segment then return refuse('SEGMENT', int(from)) end
if not holder then
  if tonumber(m[9]) < timestamp then return reply end
  holder = p.segment
end
if holder ~= segment then return refuse('SEGMENT', int(holder)) end

for key, kind in pairs({ [log] = 'hash', [index] = 'zset', [times] = 'zset', [tail] = 'string' }) do
  if not holds(key, kind) then return refuse('FOREIGN', key) end
end
local field = redis.call('ZRANGEBYSCORE', times, int(timestamp), '+inf', 'LIMIT', 0, 1)[1]
if field then
  local last, bytes = redis.call('ZSCORE', index, field), redis.call('HGET', log, field)
  if not last or not bytes then return refuse('DAMAGED', 'field ' .. field .. ' is gone') end
  reply[4], reply[5], reply[6] = tonumber(field), tonumber(last), bytes
else
  reply[4], reply[5], reply[6] = p.tail_base, p.next - 1, redis.call('GET', tail) or ''
  if #reply[6] ~= tonumber(m[5]) then return refuse('DAMAGED', 'the tail is not as long as meta says') end
end
return reply
