-- Takes leases: says, before executions begin, what is to be counted if
-- nothing is heard of them again.
--
-- KEYS[1]  state
-- KEYS[2]  sorted set of open leases
-- KEYS[3]  sorted set of closed leases' ids
-- ARGV[…]  for each lease: its id, its milliseconds, its member
--
-- Replies with the ids that were closed before they came: a call that was
-- given up may be executed after its execution has been counted.
local now, shift, last = clock(KEYS[1])
local closed = {}
for i = 1, #ARGV, 3 do
  if redis.call('ZSCORE', KEYS[3], ARGV[i]) then
    closed[#closed + 1] = ARGV[i]
  else
    redis.call('ZADD', KEYS[2], now + tonumber(ARGV[i + 1]) - shift, ARGV[i + 2])
  end
end
-- Last: a key of the wrong type raises an error while nothing is written.
keep_clock(KEYS[1], now, shift, last)
return closed
