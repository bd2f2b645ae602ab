-- Log epochs: "number:token:start,…", the newest last, 8 at most. The token names one life of the server: it changes
-- with every start and every promotion (master_replid; run_id survives a demotion). Empty where INFO is not allowed.
local EPOCHS_KEPT = 8

local function server_token()
  local info = redis.pcall('INFO', 'replication')
  if type(info) ~= 'string' then return '' end
  return string.sub(string.match(info, 'master_replid:(%x+)') or '', 1, 16)
end

-- How many replicas hear every write; nil where INFO is not allowed.
local function online_replicas()
  local info = redis.pcall('INFO', 'replication')
  if type(info) ~= 'string' then return nil end
  return select(2, string.gsub(info, 'state=online', ''))
end

local function last_epoch(epochs)
  return string.match(epochs, '(%d+):(%x*):(%d+)$')
end

local function add_epoch(epochs, token, start)
  local number = last_epoch(epochs)
  local _, commas = string.gsub(epochs, ',', '')
  if commas + 1 >= EPOCHS_KEPT then epochs = string.match(epochs, ',(.*)$') end
  return epochs .. ',' .. int(number + 1) .. ':' .. token .. ':' .. int(start)
end
