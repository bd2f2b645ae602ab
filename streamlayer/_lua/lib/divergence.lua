-- Where a log parts from the one that a reader has read, below the reader's position: an offset, -1 if that is unknown,
-- nil if it does not. Both say which epochs there were, in order; up to the newest that both know they agree. What
-- follows it, in the log or with the reader, the other does not have: two primaries may go on side by side.
-- crossed: "number:token:start,…"; without starts (as first stored) only the log's own are held against the position.
local function divergence(epochs, crossed, position)
  local places, starts, first = {}, {}, math.huge
  for number, token, start in string.gmatch(epochs, '(%d+):(%x*):(%d+)') do
    if #starts == 0 then first = tonumber(number) end
    starts[#starts + 1] = tonumber(start)
    places[number .. ':' .. token] = #starts
  end
  local shared, parted = 0, math.huge
  for number, token, start in string.gmatch(crossed, '(%d+):(%x*):?(%d*)') do
    local place = places[number .. ':' .. token]
    if place then
      shared, parted = math.max(shared, place), math.huge
    elseif shared > 0 or tonumber(number) >= first then -- an older one may have left the log's list
      parted = math.min(parted, tonumber(start) or math.huge)
    end
  end
  parted = math.min(parted, starts[shared + 1] or math.huge)
  if parted >= position then return nil end
  return shared > 0 and parted or -1
end
