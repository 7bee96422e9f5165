-- Applies one batch of increments, once, and settles the leases of the
-- executions that it counts.
--
-- KEYS[1]  hash of applied ids: writer -> its last applied sequence number
-- KEYS[2]  state
-- KEYS[3]  sorted set of open leases
-- KEYS[4]  sorted set of closed leases' ids
-- KEYS[5…] the metric hashes that the batch adds to, or its leases may
-- ARGV[1]  writer
-- ARGV[2]  sequence number, counted upwards by the writer
-- ARGV[3]  seconds for which ids must be remembered
-- ARGV[4]  how many leases are settled, then each one's id and member
-- ARGV[…]  for each metric hash: how many fields, then each field and its
--          increment, a decimal integer below 2^62
--
-- Replies with 'applied' or 'duplicate', then one text for each increment that
-- could not be applied; or with 'late' and the ids of leases that ran out
-- before: those executions are counted as crashed already. Then nothing has
-- been applied, and the batch is to be sent again without them.
--
-- A script does not roll back. So everything is checked first, and the id is
-- recorded by the first write: a server that refuses writes (READONLY, OOM,
-- MISCONF) refuses this one, and nothing has happened. From then on no error is
-- raised.
local applied = redis.call('HGET', KEYS[1], ARGV[1])
if applied and tonumber(applied) >= tonumber(ARGV[2]) then
  return {'duplicate'}
end
-- These raise an error if a key is of the wrong type, while nothing is written.
local now, shift = clock(KEYS[2])
redis.call('ZCARD', KEYS[3])
redis.call('ZCARD', KEYS[4])
local remembered_ms = tonumber(ARGV[3]) * 1000
local first, last_lease = 5, 4 + 2 * tonumber(ARGV[4])
local late = {'late'}
for i = first, last_lease, 2 do
  if redis.call('ZSCORE', KEYS[4], ARGV[i]) then
    late[#late + 1] = ARGV[i]
  end
end
if #late > 1 then
  return late
end

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
for i = first, last_lease, 2 do
  if redis.call('ZREM', KEYS[3], ARGV[i + 1]) == 0 then
    -- It never landed, but still may: it is closed before it opens.
    redis.call('ZADD', KEYS[4], now + remembered_ms, ARGV[i])
  end
end

local reply = {'applied'}
local allowed = {}
local at = last_lease + 1
for k = 5, #KEYS do
  local key = KEYS[k]
  allowed[key] = true
  local last_field = at + 2 * tonumber(ARGV[at])
  for i = at + 1, last_field, 2 do
    local field = ARGV[i]
    local value = redis.pcall('HINCRBY', key, field, ARGV[i + 1])
    if type(value) == 'table' then
      reply[#reply + 1] = key .. ' ' .. field .. ': ' .. value.err
    elseif value >= 4611686018427387904 and string.sub(field, -4) == '|sum' then
      -- Doubles are exact enough to compare with 2^62; what is moved to the
      -- carry is an integer in Redis.
      local carry = redis.pcall('HINCRBY', key, field .. '_carry', 1)
      if type(carry) == 'table' then
        reply[#reply + 1] = key .. ' ' .. field .. '_carry: ' .. carry.err
      else
        redis.call('HINCRBY', key, field, '-4611686018427387904')
      end
    end
  end
  at = last_field + 1
end

redis.call('HSET', KEYS[2], 'last_ms', now, 'shift_ms', shift, 'flushed_ms', now)
local _, refused = expire(KEYS[3], KEYS[4], now, shift, remembered_ms, allowed)
for _, text in ipairs(refused) do
  reply[#reply + 1] = text
end
return reply
