-- Begins a new epoch: takes everything counted out of the store.
--
-- KEYS[1]  state
-- KEYS[2]  sorted set of what was removed
-- KEYS[3…] metric hashes and the hashes of their offsets
-- ARGV[1]  the new epoch
--
-- Replies with the keys that hold no hash and so are somebody else's.
--
-- The ids of batches and the leases stay: a batch that was counted before is
-- not counted again, and what is in flight still ends in one status. Readers
-- forget what they remember of another epoch, so removals need not be kept.

-- First, because it is what a full memory refuses.
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
redis.call('HDEL', KEYS[1], 'lost_version')
redis.call('UNLINK', KEYS[2])
local foreign = {}
for k = 3, #KEYS do
  local kind = redis.call('TYPE', KEYS[k]).ok
  if kind == 'hash' then
    redis.call('UNLINK', KEYS[k])
  elseif kind ~= 'none' then
    foreign[#foreign + 1] = KEYS[k]
  end
end
return foreign
