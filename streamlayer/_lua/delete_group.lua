-- delete_group: free a group that has no members, with its offsets.
-- KEYS: meta members deadlines gone owners offsets
-- ARGV: created
-- returns: deleted
-- errors: FOREIGN LAYOUT NON_EMPTY_GROUP
-- flags: allow-oom
-- slot: one group's
-- cost: O(1); the keys are freed beside the commands
-- `created` says which group is meant: one that was made since is not deleted by a call that comes late.
-- @include lib/reply
-- @include lib/group
local g, refusal = read_group(meta)
if not g then return refusal end
if not g.there or redis.call('HGET', meta, 'created') ~= created then return { tag, 0 } end
local alive = living({ deadlines = deadlines }, g, server_ms())
if alive > 0 then return refuse('NON_EMPTY_GROUP', int(alive)) end
redis.call('UNLINK', meta, members, deadlines, gone, owners, offsets)
return { tag, 1 }
