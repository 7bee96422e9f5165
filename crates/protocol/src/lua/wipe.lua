-- Removes all counts, and begins a new epoch.
--
-- Keys:
--   KEYS[1]   state: hash
--   KEYS[2]   removals: sorted set
--   KEYS[3…]  metric hashes and the hashes of their lost counts
--
-- Arguments:
--   ARGV[1]   the new epoch. A call with the epoch that the last wipe began continues
--             that wipe, with further hashes.
--
-- Reply:
--   The keys of KEYS[3…] that hold something other than a hash, and so belong to
--   another program. They are left alone.
--
-- The ids of batches and the leases stay: no batch is counted a second time, and
-- each execution in flight still ends in one status. Readers forget the values of
-- another epoch, so they need no removals.

--- @include "includes/series"

local state_key, removals_key = KEYS[1], KEYS[2]
local FIRST_HASH_KEY = 3
local new_epoch = ARGV[1]

if redis.call('HGET', state_key, 'wiped') ~= new_epoch then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  -- First, because a Redis whose memory is full refuses this write.
  redis.call('HSET', state_key, 'epoch', new_epoch, 'epoch_ms', now, 'wiped', new_epoch)
  redis.call('HDEL', state_key, 'lost_version')
  redis.call('UNLINK', removals_key)
end
local foreign = {}
for k = FIRST_HASH_KEY, #KEYS do
  local kind = redis.call('TYPE', KEYS[k]).ok
  if kind == 'hash' or kind == 'none' then
    redis.call('UNLINK', KEYS[k])
    redis.call('HDEL', state_key, series_field(KEYS[k]))
  else
    foreign[#foreign + 1] = KEYS[k]
  end
end
return foreign
