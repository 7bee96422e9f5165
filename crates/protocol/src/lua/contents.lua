-- Names what the store holds, as far as somebody may have taken it out: another
-- text after it was wiped, and after series or families were removed. Part of the
-- scripts that note, or are told, that registrations stand.
local function contents(state)
  local named = redis.call('HMGET', state, 'epoch', 'lost_version')
  return (named[1] or '') .. '/' .. (named[2] or '')
end
