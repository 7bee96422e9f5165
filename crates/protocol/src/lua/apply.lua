-- Applies a batch of increments once, and releases the leases of the executions
-- that it counts.
--
-- Keys:
--   KEYS[1]   applied batches: hash, writer -> sequence number of its last batch
--   KEYS[2]   state: hash
--   KEYS[3]   open leases: sorted set, lease -> lease time of its expiry
--   KEYS[4]   closed leases: sorted set, lease id -> lease time of its deletion
--   KEYS[5…]  the metric hashes that the batch adds to
--
-- Arguments:
--   ARGV[1]   writer
--   ARGV[2]   sequence number of the batch
--   ARGV[3]   seconds for which ids of batches and leases are remembered
--   ARGV[4]   number of leases
--   ARGV[5…]  the leases' members of KEYS[3], then their ids, then for each metric
--             hash: the number of its fields, then each field and its increment
--
-- Reply, one of:
--   {'applied', lease time in ms, refused increment…}
--   {'duplicate'}         the batch was applied before, and nothing changed
--   {'late', lease id…}   these leases have expired and their executions are
--                         counted as crashed. Nothing was applied: the writer
--                         sends the batch again without those executions.
--
-- A script does not roll back. So it checks everything first, and its first write
-- records the batch: a server that refuses writes (READONLY, OOM, MISCONF) refuses
-- that one, and nothing has happened. After it no error is raised.

--- @include "includes/clock"
--- @include "includes/add_increments"

local applied_key, state_key, open_leases_key, closed_leases_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local FIRST_METRIC_KEY = 5
local writer, sequence, remembered_seconds = ARGV[1], ARGV[2], ARGV[3]
local lease_count = tonumber(ARGV[4])
local first_member = 5
local first_id = first_member + lease_count
local first_increment = first_id + lease_count

local last_sequence = redis.call('HGET', applied_key, writer)
if last_sequence and tonumber(last_sequence) >= tonumber(sequence) then
  return {'duplicate'}
end

-- These also raise an error for a key of the wrong type, before any write.
local now, shift, _, flushed = read_clock(state_key, 'flushed_ms')
local lease_time = now - shift
redis.call('ZCARD', open_leases_key)
if redis.call('ZCARD', closed_leases_key) > 0 then
  local late = {'late'}
  for i = first_id, first_increment - 1 do
    if redis.call('ZSCORE', closed_leases_key, ARGV[i]) then
      late[#late + 1] = ARGV[i]
    end
  end
  if #late > 1 then
    return late
  end
end

redis.call('HSET', applied_key, writer, sequence)
redis.call('EXPIRE', applied_key, remembered_seconds)

local released = 0
-- In slices, because Lua's stack holds some thousand values.
for i = first_member, first_id - 1, 1000 do
  released = released
    + redis.call('ZREM', open_leases_key, unpack(ARGV, i, math.min(i + 999, first_id - 1)))
end
if released < lease_count then
  -- A lease that has not arrived yet must count nothing when it does. Closing all
  -- of them is cheaper than finding out which, and does no harm.
  local remembered_until = lease_time + tonumber(remembered_seconds) * 1000
  for i = first_id, first_increment - 1 do
    redis.call('ZADD', closed_leases_key, remembered_until, ARGV[i])
  end
end

local reply = {'applied', tostring(lease_time)}
add_increments(FIRST_METRIC_KEY, first_increment, reply)
if is_due(now, flushed) then
  redis.call('HSET', state_key, 'last_ms', now, 'shift_ms', shift, 'flushed_ms', now)
end
return reply
