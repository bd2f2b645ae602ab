-- What a partition remembers of one producer: "epoch,next,used;sequence,count,crc,base,time;…": the sequence it must
-- send next, when it was last used (ms), and its last 5 batches, the newest first.

-- 'append', or 'duplicate' with the stored base offset and time, or an error word with its detail.
local function judge_sequence(entry, epoch, sequence, count, crc)
  if not entry then
    -- Forgotten, or lost with the end of the log: a later one of a pipeline must not overtake the first.
    if sequence == 0 then return 'append' end
    return 'GAP', '0'
  end
  local held, next = string.match(entry, '^(%d+),(%d+),')
  held, next = tonumber(held), tonumber(next)
  if epoch < held then return 'FENCED_PRODUCER', int(held) end
  if epoch > held then
    if sequence == 0 then return 'append' end
    return 'GAP', '0'
  end
  if sequence == next then return 'append' end
  if sequence > next then return 'GAP', int(next) end
  for s, n, c, base, time in string.gmatch(entry, ';(%d+),(%d+),(%x+),(%d+),(%d+)') do
    if tonumber(s) == sequence then
      if tonumber(n) == count and c == crc then return 'duplicate', tonumber(base), tonumber(time) end
      return 'SEQUENCE_REUSED', s
    end
  end
  return 'STALE', int(next)
end

local function touch_producer(entry, now)
  return (string.gsub(entry, '^(%d+,%d+,)%d+', '%1' .. int(now)))
end

-- One pattern takes the last four batches: with the new one they are five.
local LAST_FOUR = '^;[^;]*;[^;]*;[^;]*;[^;]*'

local function remember_batch(entry, epoch, sequence, count, crc, base, now)
  local kept = ''
  if entry and tonumber(string.match(entry, '^%d+')) == epoch then
    local batches = string.sub(entry, string.find(entry, ';', 1, true) or #entry + 1)
    kept = string.match(batches, LAST_FOUR) or batches
  end
  return string.format('%d,%d,%d;%d,%d,%s,%d,%d%s', epoch, sequence + count, now, sequence, count, crc, base, now, kept)
end

-- Called when an unknown producer comes: look at a few others and forget those idle for a day.
local PRODUCER_IDLE_MS = 86400000

local function forget_idle_producers(key, cursor, now)
  local scanned = redis.call('HSCAN', key, cursor, 'COUNT', 10)
  for i = 1, #scanned[2], 2 do
    local used = string.match(scanned[2][i + 1], '^%d+,%d+,(%d+)')
    if used and tonumber(used) + PRODUCER_IDLE_MS < now then redis.call('HDEL', key, scanned[2][i]) end
  end
  return scanned[1]
end
