-- check_rights: which commands that scripts run this user may not; else a script would stop half way, and nothing rolls back.
-- KEYS: sample
-- ARGV: commands*
-- returns: missing*
-- errors: -
-- flags: no-writes
-- slot: the sample's
-- cost: O(commands), some 10 us
-- A command is a call of it, its words parted by blanks, K for the key.
local missing = { tag }
for i = commands, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[i], '%S+') do
    words[#words + 1] = word == 'K' and sample or word
  end
  if not redis.acl_check_cmd(unpack(words)) then missing[#missing + 1] = words[1] end
end
return missing
