-- append: add one batch to a partition, once for each (producer, epoch, sequence).
-- KEYS: meta tail segs producers log index times
-- ARGV: topic_id partition:int generation partitions key_hash segment:int producer producer_epoch:int sequence:int crc count:int min_timestamp:int max_timestamp:int acks frame channel
-- returns: base_offset append_time open_segment epochs generation min_insync_replicas flush
-- errors: FOREIGN UNKNOWN_TOPIC TOPIC_REPLACED LAYOUT DAMAGED FENCED_PRODUCER SEQUENCE_REUSED STALE GAP GROWING STALE_GENERATION WRONG_PARTITION NOT_ENOUGH_REPLICAS TOO_LARGE BAD_TIMESTAMP SEGMENT TRIM
-- flags: -
-- slot: one partition's
-- cost: O(frame), some 20 commands at most; 15-35 us
-- @include lib/reply
-- @include lib/meta
-- @include lib/epoch
-- @include lib/producer
-- @include lib/segment
local HOUR_MS = 3600000

local m, refusal = read_meta(meta, topic_id, 'next', 'generation', 'partitions', 'segment', 'segment_base',
  'segment_bytes', 'segment_at', 'tail_base', 'tail_len', 'max_timestamp', 'deadline', 'epochs', 'armed',
  'retention_ms', 'segment_limit', 'max_message_bytes', 'timestamp_type', 'growing', 'scan', 'retention_bytes',
  'segment_position', 'trim_at', 'oldest_closed', 'start', 'min_insync_replicas', 'flush')
if not m then return refusal end
local now = server_ms()
local keys = { tail = tail, segs = segs, log = log, index = index, times = times }
local p = {
  next = tonumber(m[1]), segment = tonumber(m[4]), segment_base = tonumber(m[5]), segment_bytes = tonumber(m[6]),
  segment_at = tonumber(m[7]), tail_base = tonumber(m[8]), tail_len = tonumber(m[9]), max_timestamp = tonumber(m[10]),
  deadline = tonumber(m[11]), retention_ms = tonumber(m[14]), retention_bytes = tonumber(m[20]),
  segment_position = tonumber(m[21]), trim_at = tonumber(m[22]), oldest_closed = tonumber(m[23]),
  start = tonumber(m[24]),
}
local epochs, armed = m[12], m[13]
local insync, flush = tonumber(m[25] or 1), tonumber(m[26] or 0)

-- What is no number fails here, not half way: scripts do not roll back.
if not (p.next + p.segment + p.segment_base + p.segment_bytes + p.segment_at + p.tail_base + p.tail_len + p.max_timestamp
  + p.deadline + p.retention_ms + p.retention_bytes + p.segment_position + p.trim_at + p.oldest_closed + p.start
  + insync + flush + m[15] + m[16] < NO_NUMBER) then
  return refuse('DAMAGED', 'a number of meta is none')
end

-- A batch that was taken before is answered again, whatever has changed since.
local entry = false
if producer ~= '' then
  entry = redis.pcall('HGET', producers, producer)
  if type(entry) == 'table' then return raised(entry, 'HGET', producers) end
  local verdict, detail, time = judge_sequence(entry, producer_epoch, sequence, count, crc)
  if verdict == 'duplicate' then
    redis.call('HSET', producers, producer, touch_producer(entry, now))
    return { tag, detail, time, p.segment, epochs, tonumber(m[2]), insync, flush }
  end
  if verdict ~= 'append' then return refuse(verdict, detail) end
end

if key_hash ~= '' then
  if m[18] then return refuse('GROWING', m[18]) end
  -- A server that lost a growth gives its generation again: the count tells them apart.
  local other = generation ~= m[2] or (partitions ~= '' and partitions ~= m[3])
  if other then return refuse('STALE_GENERATION', m[2]) end
  if key_hash % tonumber(m[3]) ~= partition then return refuse('WRONG_PARTITION', m[3]) end
end
if acks == 'all' and insync > 1 then
  local replicas = online_replicas()
  if replicas and replicas < insync - 1 then
    return refuse('NOT_ENOUGH_REPLICAS', int(replicas) .. ' ' .. int(insync - 1))
  end
end
if #frame > tonumber(m[16]) then return refuse('TOO_LARGE', m[16]) end
if m[17] == '1' then
  max_timestamp = now
else
  local oldest = p.retention_ms >= 0 and now - p.retention_ms or 0
  if min_timestamp < oldest or max_timestamp > now + HOUR_MS then
    return refuse('BAD_TIMESTAMP', int(oldest) .. ' ' .. int(now + HOUR_MS))
  end
end
if segment ~= p.segment then return refuse('SEGMENT', int(p.segment)) end

-- Most appends only make the tail longer; what else they touch is checked when they do.
local size = #frame
local limit = tonumber(m[15])
local old = aged(p, now)
local fits = size <= SHORT_FRAME and p.tail_len + size <= TAIL_LIMIT
local short = p.segment_at ~= 0 and fits and p.segment_bytes + size < limit and not old
local tail_bytes = redis.pcall('STRLEN', tail)
if type(tail_bytes) == 'table' then return raised(tail_bytes, 'STRLEN', tail) end

-- A segment past its time ends here; the client comes again, naming the keys of the next one.
if overdue(p, now) then
  local strange = foreign(keys)
  if strange then return refuse('FOREIGN', strange) end
  drop_segment(p, keys)
  save_all(meta, p)
  return refuse('SEGMENT', int(p.segment))
end

local token = server_token()
local _, known = last_epoch(epochs)
local reborn = token ~= '' and token ~= known
if reborn or not short or tail_bytes ~= p.tail_len then
  local strange = foreign(keys)
  if strange then return refuse('FOREIGN', strange) end
end
if reborn or tail_bytes ~= p.tail_len then
  local damage = contradiction(p, keys)
  if damage then
    redis.call('HSET', meta, 'damaged', damage)
    return refuse('DAMAGED', damage)
  end
  epochs = add_epoch(epochs, token, p.next)
  redis.call('HSET', meta, 'epochs', epochs)
end

-- The same for one that is old but whole: its tail is sealed, so it was checked first.
if old then
  close_segment(p, keys, now)
  save_all(meta, p)
  return refuse('SEGMENT', int(p.segment))
end

-- Whole old segments go before more comes: a bounded number of them, named by the caller to `trim`. By size when the
-- rest with this batch holds retention_bytes; by time; and, when a segment begins, what was deleted. Without idempotence
-- the batches behind a refused one are not refused for it: a small one would overtake, so its size must not decide.
local coming = producer ~= '' and size or 0
local by_size = p.trim_at >= 0 and p.segment_bytes + coming >= p.trim_at
local by_time = p.retention_ms >= 0 and p.oldest_closed > 0 and p.oldest_closed + p.retention_ms <= now
if by_size or by_time or p.segment_at == 0 then
  if not holds(segs, 'zset') then return refuse('FOREIGN', segs) end
  local first, last = superfluous(segs, p, now, coming)
  if first then return refuse('TRIM', int(first) .. ' ' .. int(last)) end
end

-- From here on nothing is refused.
-- A server hashes each Lua string whole: a second one of a large frame would cost as much as all the rest. So a large
-- frame's append time stays zero, unless it is the time of its records.
local stamped = frame
if size <= SHORT_FRAME or m[17] == '1' then stamped = six_bytes(now) .. string.sub(frame, 7) end
local base = p.next
if p.segment_at == 0 then open_segment(p, keys, now) end
if not fits then seal_tail(p, keys) end
p.max_timestamp = math.max(p.max_timestamp, max_timestamp)
p.next = base + count
p.segment_bytes = p.segment_bytes + size
if size <= SHORT_FRAME then
  redis.call('APPEND', tail, stamped)
  p.tail_len = p.tail_len + size
else
  add_field(keys, base, p.next - 1, p.max_timestamp, stamped)
  p.tail_base = p.next
end
renew_deadline(p, keys, now)
if p.segment_bytes >= limit then close_segment(p, keys, now) end
if short then save_tail(meta, p) else save_all(meta, p) end
if producer ~= '' then
  redis.call('HSET', producers, producer,
    remember_batch(entry, producer_epoch, sequence, count, crc, base, now))
  if not entry then redis.call('HSET', meta, 'scan', forget_idle_producers(producers, tonumber(m[19]) or 0, now)) end
end
if armed then
  redis.call('HDEL', meta, 'armed')
  redis.pcall('PUBLISH', channel, int(partition)) -- the batch is in the log, even if an ACL forbids the channel
end
return { tag, base, now, p.segment, epochs, tonumber(m[2]), insync, flush }
