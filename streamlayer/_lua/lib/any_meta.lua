-- Read fields of a partition's meta, whether it is damaged or not, after the other checks: layout, topic id.
-- Returns min_v, id, damaged, state and the values in the order asked for; or nil and the refusal.
local LAYOUT_VERSION = 1

local function read_any_meta(key, id, ...)
  local found = redis.pcall('HMGET', key, 'min_v', 'id', 'damaged', 'state', ...)
  if found.err then return nil, raised(found, 'HMGET', key) end
  if not found[2] then return nil, refuse('UNKNOWN_TOPIC', key) end
  if tonumber(found[1]) > LAYOUT_VERSION then return nil, refuse('LAYOUT', found[1]) end
  if found[4] == 'deleting' then return nil, refuse('UNKNOWN_TOPIC', key) end
  if id ~= '' and found[2] ~= id then return nil, refuse('TOPIC_REPLACED', found[2]) end
  return found
end
