-- leave: members leave a group, or are put out of it; what they owned is free at once.
-- KEYS: meta members deadlines gone owners offsets
-- ARGV: call:int channel leaving*
-- returns: removed
-- errors: FOREIGN LAYOUT STALE
-- flags: allow-oom
-- slot: one group's
-- cost: O(members + runs of partitions)
-- A member's own call names itself and its call number; an administrator's has the number -1, and may name instance ids.
-- @include lib/reply
-- @include lib/group
local k = { meta = meta, members = members, deadlines = deadlines, gone = gone, owners = owners, offsets = offsets }
local g, refusal = read_group(meta)
if not g then return refusal end
if not g.there then return { tag, 0 } end
local ids = {}
for i = leaving, #ARGV do
  local id = ARGV[i]
  local head = read_head(members, id)
  if not head and call < 0 then
    id = redis.call('HGET', members, '@' .. id)
    head = id and read_head(members, id)
  end
  if head and call >= 0 and call <= head.call then return refuse('STALE', int(head.call)) end
  if head then ids[#ids + 1] = id end
end
if ids[1] then remove_members(k, g, ids, server_ms(), channel) end
return { tag, #ids }
