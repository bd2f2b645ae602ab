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
local strange = foreign_key(k, g)
if strange then return refuse('FOREIGN', strange) end
local ids, strangers, named = {}, {}, {}
for i = leaving, #ARGV do
  local id = ARGV[i]
  local head = read_head(members, id)
  if not head and call < 0 then
    id = redis.call('HGET', members, '@' .. id) or id
    head = read_head(members, id)
  end
  if head and call >= 0 and call <= head.call then return refuse('STALE', int(head.call)) end
  local list = head and ids or strangers
  if not named[id] then list[#list + 1], named[id] = id, true end
end
local now = server_ms()
if ids[1] then remove_members(k, g, ids, now, channel) end
-- A member that leaves before its first call has come: that call, if it still comes, shall not make it one.
if call >= 0 then
  for _, id in ipairs(strangers) do redis.call('ZADD', gone, 'NX', int(now), id) end
end
return { tag, #ids }
