-- Registers families and bears series at 0.
--
-- KEYS[1]  hash of families
-- KEYS[2]  state
-- KEYS[3]  the note that all of it stands as it is given, for known.lua
-- KEYS[4…] each family's hash
-- ARGV[1]  a random epoch, for a store that has none
-- ARGV[2]  for how many seconds the note holds
-- ARGV[…]  for each family: its field, its registration, how many series are
--          borne in its hash, and each one's field
--
-- Replies with lease time, and the registration that stands for each family: the
-- first one. Series are borne only where that is the caller's own: the hash may
-- be another one otherwise.
local now, shift, last = clock(KEYS[2])
keep_clock(KEYS[2], now, shift, last)
redis.call('HSETNX', KEYS[2], 'epoch', ARGV[1])
local reply = {tostring(now - shift)}
local all_own = true
local at = 3
for k = 4, #KEYS do
  local field, registration, final = ARGV[at], ARGV[at + 1], at + 2 + tonumber(ARGV[at + 2])
  redis.call('HSETNX', KEYS[1], field, registration)
  local standing = redis.call('HGET', KEYS[1], field)
  reply[#reply + 1] = standing
  if standing == registration then
    for i = at + 3, final do
      -- A key of the wrong type is reported by the batch that adds to it.
      redis.pcall('HSETNX', KEYS[k], ARGV[i], 0)
    end
  else
    all_own = false
  end
  at = final + 1
end
if all_own then
  redis.call('SET', KEYS[3], contents(KEYS[2]), 'EX', ARGV[2])
end
return reply
