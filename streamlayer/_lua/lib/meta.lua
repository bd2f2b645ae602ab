-- Read fields of a partition's meta, after the checks that come before anything else: layout, topic id, damage.
-- Returns the values in the order asked for, or nil and the refusal.
-- @include lib/any_meta
local function read_meta(key, id, ...)
  local found, refusal = read_any_meta(key, id, ...)
  if not found then return nil, refusal end
  if found[3] then return nil, refuse('DAMAGED', found[3]) end
  return { select(5, unpack(found, 1, select('#', ...) + 4)) }
end
