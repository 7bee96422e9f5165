-- Settles leases that have expired: counts what each lease says, once. Called by
-- readers, which know the keys of all registered families.
--
-- Keys:
--   KEYS[1]   state: hash
--   KEYS[2]   open leases: sorted set, lease -> lease time of its expiry
--   KEYS[3]   closed leases: sorted set, lease id -> lease time of its deletion
--   KEYS[4…]  the metric hashes that leases may count in
--
-- Arguments:
--   ARGV[1]   milliseconds for which the id of a closed lease is remembered
--   ARGV[2]   random epoch, for a store that has none
--   ARGV[3]   number of expired leases to skip
--
-- Reply:
--   {epoch, number of leases settled, lease time in ms, skip, refused count…}
--   `skip` is ARGV[3] of the call that continues this one, or '' if all expired
--   leases have been looked at.
--
-- A script may only touch keys that it was given. So a lease that counts in any
-- other key stays open, and the next call skips it to reach the leases after it.

--- @include "includes/clock"

local state_key, open_leases_key, closed_leases_key = KEYS[1], KEYS[2], KEYS[3]
local FIRST_METRIC_KEY = 4
local remembered_ms, new_epoch, skip = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
-- Leases that one call looks at, so that Redis is not blocked for long.
local PAGE_SIZE = 100

local is_metric_key = {}
for k = FIRST_METRIC_KEY, #KEYS do
  is_metric_key[KEYS[k]] = true
end

-- Returns the lease, and whether it counts in given keys only. Raises an error
-- if the member is not a lease.
local function decode_lease(member)
  local lease = cjson.decode(member)
  assert(type(lease.id) == 'string')
  local countable = true
  for i, cell in pairs(lease.count) do
    assert(type(i) == 'number' and type(cell[1]) == 'string' and type(cell[2]) == 'string')
    countable = countable and is_metric_key[cell[1]]
  end
  return lease, countable
end

local now, shift, last = read_clock(state_key)
local lease_time = now - shift
-- Raises an error for a key of the wrong type, before any write.
redis.call('ZCARD', closed_leases_key)
local expired = redis.call('ZRANGEBYSCORE', open_leases_key, '-inf', lease_time, 'LIMIT', skip, PAGE_SIZE)
local settled, refused = 0, {}
for _, member in ipairs(expired) do
  local is_lease, lease, countable = pcall(decode_lease, member)
  if not is_lease then
    redis.call('ZREM', open_leases_key, member)
    refused[#refused + 1] = open_leases_key .. ' ' .. member .. ': not a lease'
  elseif redis.call('ZSCORE', closed_leases_key, lease.id) then
    -- It arrived after its execution was counted.
    redis.call('ZREM', open_leases_key, member)
  elseif countable then
    -- ZREM first: if the memory of Redis is full, it refuses a script whose first
    -- write may take memory. ZREM takes none, and later writes are accepted.
    redis.call('ZREM', open_leases_key, member)
    redis.call('ZADD', closed_leases_key, lease_time + remembered_ms, lease.id)
    settled = settled + 1
    for _, cell in ipairs(lease.count) do
      local value = redis.pcall('HINCRBY', cell[1], cell[2], 1)
      if type(value) == 'table' then
        refused[#refused + 1] = cell[1] .. ' ' .. cell[2] .. ' +1: ' .. value.err
      end
    end
  else
    skip = skip + 1
  end
end
-- After the loop, which still needs the old ids.
redis.call('ZREMRANGEBYSCORE', closed_leases_key, '-inf', lease_time)

save_clock(state_key, now, shift, last)
redis.call('HSETNX', state_key, 'epoch', new_epoch)
local reply = {
  redis.call('HGET', state_key, 'epoch'),
  tostring(settled),
  tostring(lease_time),
  #expired == PAGE_SIZE and tostring(skip) or '',
}
for _, text in ipairs(refused) do
  reply[#reply + 1] = text
end
return reply
