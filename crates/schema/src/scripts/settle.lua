-- Settles leases that have run out. For readers; writers do the same with every
-- batch.
--
-- KEYS[1]  state
-- KEYS[2]  sorted set of open leases
-- KEYS[3]  sorted set of closed leases' ids
-- KEYS[4…] metric hashes that leases may count in
-- ARGV[1]  milliseconds for which a closed lease is remembered
-- ARGV[2]  a random epoch, for a store that has none
--
-- Replies with the store's epoch, the number of leases settled, the time that
-- scores of open leases are compared with, and one text for each count that could not be applied.
local now, shift, last = clock(KEYS[1])
local allowed = {}
for k = 4, #KEYS do
  allowed[KEYS[k]] = true
end
local settled, refused = expire(KEYS[2], KEYS[3], now, shift, tonumber(ARGV[1]), allowed)
keep_clock(KEYS[1], now, shift, last)
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[2])
local reply = {redis.call('HGET', KEYS[1], 'epoch'), tostring(settled), tostring(now - shift)}
for _, text in ipairs(refused) do
  reply[#reply + 1] = text
end
return reply
