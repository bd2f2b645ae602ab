-- Frames as a script can read them: only their headers (26 bytes; see DESIGN.md, "A frame, byte by byte").
local function number_at(bytes, from, to)
  local n = 0
  for i = from, to do n = n * 256 + string.byte(bytes, i) end
  return n
end

-- How many records lie in consecutive frames; -1 if they do not end where the bytes end.
local function records_in(frames)
  local at, records = 1, 0
  while at <= #frames do
    if at + 25 > #frames then return -1 end
    records = records + number_at(frames, at + 16, at + 19)
    at = at + 10 + number_at(frames, at + 6, at + 9)
  end
  return at == #frames + 1 and records or -1
end
