-- Tells whether the families of an instance are registered already: most
-- instances register the same as the one before them.
--
-- Keys:
--   KEYS[1]  state: hash
--   KEYS[2]  note that register.lua left of this registration: string, expires
--
-- Reply, one of:
--   {lease time in ms}
--   {}                   the families have to be registered

--- @include "includes/clock"
--- @include "includes/store_version"

local state_key, note_key = KEYS[1], KEYS[2]

if redis.call('GET', note_key) ~= store_version(state_key) then
  return {}
end
local now, shift, last = read_clock(state_key)
save_clock(state_key, now, shift, last)
return {tostring(now - shift)}
