-- fetch: read a partition from a position, as whole fields, up to about max_bytes (one field at least).
-- KEYS: meta tail segs log index
-- ARGV: topic_id position:int max_bytes:int segment:int tail_base:int tail_have:int crossed arm:int
-- returns: next log_start open_segment generation epochs tail_base (base last bytes)*
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED OUT_OF_RANGE TRUNCATED SEGMENT
-- flags: allow-oom
-- slot: one partition's
-- cost: O(bytes returned), 8-15 us at the tip
-- @include lib/reply
-- @include lib/meta
-- @include lib/divergence
-- @include lib/log_start
local m, refusal = read_meta(meta, topic_id, 'next', 'generation', 'segment', 'segment_base', 'segment_at',
  'tail_base', 'tail_len', 'deadline', 'epochs', 'armed', 'retention_ms', 'start', 'segment_position')
if not m then return refusal end
local now = server_ms()
local p = {
  next = tonumber(m[1]), segment = tonumber(m[3]), segment_base = tonumber(m[4]), tail_base = tonumber(m[6]),
  tail_len = tonumber(m[7]), deadline = tonumber(m[8]), retention_ms = tonumber(m[11]), start = tonumber(m[12]),
  segment_position = tonumber(m[13]),
}
local epochs = m[9]

-- Loss is told: what the reader has read, and what is here up to its position, must be the same.
if crossed ~= '' then
  local diverged = divergence(epochs, crossed, position)
  if diverged then return refuse('TRUNCATED', int(diverged) .. ' ' .. int(p.next)) end
  if position > p.next then return refuse('TRUNCATED', int(p.next) .. ' ' .. int(p.next)) end
end

local start, start_segment = log_start(segs, p, now)
if not start then return start_segment end
if position < start or position > p.next then
  return refuse('OUT_OF_RANGE', int(start) .. ' ' .. int(p.next))
end

local reply = { tag, p.next, start, p.segment, m[2], epochs, p.tail_base }
local size = 0
local function add(base, last, bytes)
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = base, last, bytes
  size = size + #bytes
end

local from = position
if position < p.tail_base then
  local holder = p.segment
  if position < p.segment_base then
    holder = segment
    if not is_holder(segs, segment, position, p.segment_base) then
      holder = closed_segment_of(segs, position) or start_segment
    end
  end
  if holder ~= segment then return refuse('SEGMENT', int(holder)) end
  if not holds(log, 'hash') then return refuse('FOREIGN', log) end
  if not holds(index, 'zset') then return refuse('FOREIGN', index) end
  repeat
    local wanted = math.min(64, math.max(1, math.ceil((max_bytes - size) / 65536)))
    local found = redis.call('ZRANGEBYSCORE', index, int(from), '+inf', 'WITHSCORES', 'LIMIT', 0, wanted)
    for i = 1, #found, 2 do
      local bytes = redis.call('HGET', log, found[i])
      if size > 0 and (not bytes or size + #bytes > max_bytes) then return reply end
      if not bytes then return refuse('DAMAGED', 'field ' .. found[i] .. ' is gone') end
      from = tonumber(found[i + 1]) + 1
      add(tonumber(found[i]), from - 1, bytes)
    end
  until #found < 2 * wanted or size >= max_bytes
  if size == 0 then return refuse('DAMAGED', 'no field of segment ' .. int(holder) .. ' holds ' .. int(position)) end
elseif position < p.next then
  if not holds(tail, 'string') then return refuse('FOREIGN', tail) end
  local base, have = p.tail_base, 0
  if tail_base == p.tail_base and tail_have <= p.tail_len then base, have = position, tail_have end
  local bytes = redis.call('GETRANGE', tail, have, -1)
  if #bytes ~= p.tail_len - have then
    -- The next append would find it, but there may be none: who mends goes by this mark.
    local damage = 'the tail is not as long as meta says'
    redis.pcall('HSET', meta, 'damaged', damage) -- not where nothing may be written
    return refuse('DAMAGED', damage)
  end
  from = p.next
  add(base, from - 1, bytes)
end
-- The reader has all there is: the next append must wake it.
if from == p.next and arm == 1 and not m[10] then redis.call('HSET', meta, 'armed', '1') end
return reply
