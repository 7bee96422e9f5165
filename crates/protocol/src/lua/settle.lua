-- Settles leases that have run out. For readers; writers do the same with their
-- batches.
--
-- KEYS[1]  state
-- KEYS[2]  sorted set of open leases
-- KEYS[3]  sorted set of closed leases' ids
-- KEYS[4…] metric hashes that leases may count in
-- ARGV[1]  milliseconds for which a closed lease is remembered
-- ARGV[2]  a random epoch, for a store that has none
-- ARGV[3]  how many leases that ran out are passed over
--
-- Replies with the store's epoch, the number of leases settled, lease time, how
-- many the next call is to pass over ('' if all that ran out have been looked
-- at), and one text for each count that could not be applied.
local now, shift, last = clock(KEYS[1])
local time = now - shift
local allowed = {}
for k = 4, #KEYS do
  allowed[KEYS[k]] = true
end
local settled, left, refused =
  expire(KEYS[2], KEYS[3], time, tonumber(ARGV[1]), allowed, tonumber(ARGV[3]))
keep_clock(KEYS[1], now, shift, last)
-- Not before the others: what they read may be of the wrong type, and nothing
-- is written then. Nobody sees a store in between.
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[2])
local reply = {
  redis.call('HGET', KEYS[1], 'epoch'),
  tostring(settled),
  tostring(time),
  left and tostring(left) or '',
}
for _, text in ipairs(refused) do
  reply[#reply + 1] = text
end
return reply
