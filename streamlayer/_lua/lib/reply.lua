-- How every script answers: its tag and values, or a word with a detail. A script's time is the server's, read once.
local function refuse(word, detail)
  return redis.error_reply(word .. ' ' .. detail)
end

-- What a command raised in redis.pcall: the key is somebody else's, or the server's own words (a right is missing; not
-- all servers say which).
local function raised(found, command, key)
  local words = tostring(found.err)
  if string.find(words, 'WRONGTYPE', 1, true) then return refuse('FOREIGN', key) end
  return redis.error_reply(words .. ' (' .. command .. ')')
end

local NO_NUMBER = 2 ^ 60 -- more than any sum of offsets, sizes and times: `inf`, and what else a text may be taken for

local function int(number)
  return string.format('%d', number)
end

local function server_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function holds(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == kind or found == 'none'
end
