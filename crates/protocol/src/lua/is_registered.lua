-- Tells whether what an instance would register stands already: most register
-- what the one before them did.
--
-- KEYS[1]  state
-- KEYS[2]  register.lua's note of it
--
-- Replies with lease time, or with nothing if it has to be registered.
if redis.call('GET', KEYS[2]) ~= contents(KEYS[1]) then
  return {}
end
local now, shift, last = clock(KEYS[1])
keep_clock(KEYS[1], now, shift, last)
return {tostring(now - shift)}
