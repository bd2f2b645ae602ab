-- describe_group: a group's members with what they own and shall own, and the offsets it has stored.
-- KEYS: meta members deadlines gone owners offsets
-- ARGV: with_offsets:int
-- returns: there epoch offsets (member head deadline subscription owned target)*
-- errors: FOREIGN LAYOUT
-- flags: no-writes
-- slot: one group's
-- cost: O(members + offsets)
-- @include lib/reply
-- @include lib/group
local g, refusal = read_group(meta)
if not g then return refusal end
if not g.there then return { tag, 0, 0, {} } end
local reply = { tag, 1, g.epoch, with_offsets == 1 and redis.call('HGETALL', offsets) or {} }
local found = redis.call('ZRANGE', deadlines, 1, -1, 'WITHSCORES')
for i = 1, #found, 2 do
  local id = found[i]
  local row = redis.call('HMGET', members, id, id .. ':s', id .. ':o', id .. ':t')
  for _, value in ipairs({ id, row[1] or '', found[i + 1], row[2] or '', row[3] or '', row[4] or '' }) do
    reply[#reply + 1] = value
  end
end
return reply
