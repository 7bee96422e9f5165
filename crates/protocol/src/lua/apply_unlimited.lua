-- This is the script of writers that have no hash with a limit of series: without
-- includes/add_limited it is half as long. All others take apply.lua.
--
-- Applies a batch of increments once, and releases the leases of the executions
-- that it counts.
--
-- Keys:
--   KEYS[1]   applied batches: hash, writer -> sequence number of its last batch
--   KEYS[2]   the same; the two take turns
--   KEYS[3]   state: hash
--   KEYS[4]   open leases: sorted set, lease -> lease time of its expiry
--   KEYS[5]   closed leases: sorted set, lease id -> lease time of its deletion; '!' and
--             an id if settle.lua removed the lease without counting it
--   KEYS[6…]  the metric hashes that the batch adds to: first those without a limit of
--             series, then, if there are others, the hash in which series beyond the
--             limit are counted, and the others
--
-- Arguments:
--   ARGV[1]   writer
--   ARGV[2]   sequence number of the batch
--   ARGV[3]   lease time in ms when the batch was frozen
--   ARGV[4]   milliseconds for which ids of batches and leases are remembered
--   ARGV[5]   number of leases
--   ARGV[6]   number of metric hashes without a limit
--   ARGV[7]   number of series that each of the others may have
--   ARGV[8…]  the leases' members of KEYS[4], then their ids, then the lease times at
--             which they expire, then for each metric hash without a limit: the number of
--             its fields, then each field and its increment; then for each of the others
--             what includes/add_limited.lua says
--
-- Reply, one of:
--   {'applied', lease time in ms, refused write…}
--   {'duplicate'}              the batch was applied before, and nothing changed
--   {'too old', lease time in ms}
--                              nothing was applied now. It may have been applied before,
--                              because its id may be forgotten.
--   {'late', lease id…}        these leases have expired and their executions are
--                              counted as crashed. Nothing was applied: the writer
--                              sends the batch again without those executions.
--
-- A script does not roll back. So it checks everything first, and its first write
-- records the batch: a server that refuses writes (READONLY, OOM, MISCONF) refuses
-- that one, and nothing has happened. After it no error is raised.

--- @include "includes/clock"
--- @include "includes/attempt"
--- @include "includes/add_increments"

local state_key, open_leases_key, closed_leases_key = KEYS[3], KEYS[4], KEYS[5]
local FIRST_METRIC_KEY = 6
local writer, sequence, frozen = ARGV[1], ARGV[2], tonumber(ARGV[3])
local remembered_ms = tonumber(ARGV[4])
local lease_count = tonumber(ARGV[5])
local last_unlimited = FIRST_METRIC_KEY - 1 + tonumber(ARGV[6])
-- Of no hash if there is no such key.
local limited_key, first_limited = KEYS[last_unlimited + 1], last_unlimited + 2
local max_series = tonumber(ARGV[7])
local first_member = 8
local first_id = first_member + lease_count
local first_due = first_id + lease_count
local first_increment = first_due + lease_count

local state_fields = {'flushed_ms'}
for k = first_limited, #KEYS do
  state_fields[#state_fields + 1] = 'series:' .. KEYS[k]
end
local now, shift, _, state = read_clock(state_key, unpack(state_fields))
local flushed = state[1]
local lease_time = now - shift

-- Ids are forgotten by lease time, which does not jump as Redis's clock may. So they
-- have no EXPIRE: two hashes take turns, and the first batch of a turn empties its hash.
local turn = math.floor(lease_time / remembered_ms)
local applied_key, previous_key = KEYS[1 + turn % 2], KEYS[2 - turn % 2]
local applied = redis.call('HMGET', applied_key, writer, 'turn')
local last_sequence = applied[1] or 0
local previous_sequence = redis.call('HGET', previous_key, writer) or 0
if math.max(last_sequence, previous_sequence) >= tonumber(sequence) then
  return {'duplicate'}
end

-- Whatever the writer's estimate was: all copies have the same, so all that get past
-- this line arrive within `remembered_ms`, and the second one is a duplicate.
if math.abs(lease_time - frozen) > remembered_ms / 2 then
  return {'too old', tostring(lease_time)}
end

-- These also raise an error for a key of the wrong type, before any write.
redis.call('ZCARD', open_leases_key)
local has_closed = redis.call('ZCARD', closed_leases_key) > 0
local late, notes = {'late'}, {}
for i = 0, lease_count - 1 do
  local id = ARGV[first_id + i]
  local is_forgotten = lease_time - ARGV[first_due + i] >= remembered_ms
  if has_closed and redis.call('ZSCORE', closed_leases_key, id) then
    late[#late + 1] = id
  elseif is_forgotten and not redis.call('ZSCORE', open_leases_key, ARGV[first_member + i]) then
    local note = '!' .. id
    if redis.call('ZSCORE', closed_leases_key, note) then
      notes[#notes + 1] = note
    else
      -- It may have been settled so long ago that its id is deleted.
      late[#late + 1] = id
    end
  end
end
if #late > 1 then
  return late
end

local reply = {'applied', tostring(lease_time)}
if tonumber(applied[2]) == turn then
  redis.call('HSET', applied_key, writer, sequence)
else
  redis.call('HSET', applied_key, writer, sequence, 'turn', turn)
  if applied[2] then
    attempt(reply, 'UNLINK', applied_key)
    attempt(reply, 'HSET', applied_key, writer, sequence, 'turn', turn)
  end
end

local released = 0
-- In slices, because Lua's stack holds some thousand values.
for i = first_member, first_id - 1, 1000 do
  local last = math.min(i + 999, first_id - 1)
  released = released + (attempt(reply, 'ZREM', open_leases_key, unpack(ARGV, i, last)) or 0)
end
if released < lease_count then
  -- A lease that has not arrived yet must count nothing when it does. Closing all
  -- of them is cheaper than finding out which, and does no harm.
  for i = 0, lease_count - 1 do
    local remembered_until = math.max(lease_time, ARGV[first_due + i]) + remembered_ms
    attempt(reply, 'ZADD', closed_leases_key, remembered_until, ARGV[first_id + i])
  end
end

for _, note in ipairs(notes) do
  attempt(reply, 'ZREM', closed_leases_key, note)
end

local at = add_increments(FIRST_METRIC_KEY, last_unlimited, first_increment, reply)
for k = first_limited, #KEYS do
  local series = state[k - first_limited + 2] or 0
  -- Defined in apply.lua.
  at = add_limited(state_key, limited_key, KEYS[k], at, max_series, series, lease_time, reply)
end
if is_due(now, flushed) then
  attempt(reply, 'HSET', state_key, 'last_ms', now, 'shift_ms', shift, 'flushed_ms', now)
end
return reply
