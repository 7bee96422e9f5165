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
-- ARGV[4]  how many leases are settled, then their members, then their ids
-- ARGV[…]  for each metric hash: how many fields, then each field and its
--          increment, a decimal integer below 2^62
--
-- Replies with 'applied', lease time, and one text for each increment that could
-- not be applied; with 'duplicate'; or with 'late' and the ids of leases that ran
-- out before: those executions are counted as crashed already. Then nothing has
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
local now, shift, _, flushed = clock(KEYS[2], 'flushed_ms')
local time = now - shift
redis.call('ZCARD', KEYS[3])
local any_closed = redis.call('ZCARD', KEYS[4]) > 0
local remembered_ms = tonumber(ARGV[3]) * 1000
local leases = tonumber(ARGV[4])
local members, ids = 5, 5 + leases
if any_closed then
  local late = {'late'}
  for i = ids, ids + leases - 1 do
    if redis.call('ZSCORE', KEYS[4], ARGV[i]) then
      late[#late + 1] = ARGV[i]
    end
  end
  if #late > 1 then
    return late
  end
end

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
local landed = 0
-- In slices: Lua's stack holds some thousands.
for i = members, ids - 1, 1000 do
  landed = landed + redis.call('ZREM', KEYS[3], unpack(ARGV, i, math.min(i + 999, ids - 1)))
end
if landed < leases then
  -- One never landed, but still may: then it counts nothing. To find out
  -- which costs more than to close the others with it, which does no harm.
  for i = ids, ids + leases - 1 do
    redis.call('ZADD', KEYS[4], time + remembered_ms, ARGV[i])
  end
end
local reply = {'applied', tostring(time)}
add(5, ids + leases, reply)

-- Not with every batch: it costs as much as half a dozen increments.
if is_old(now, flushed) then
  redis.call('HSET', KEYS[2], 'last_ms', now, 'shift_ms', shift, 'flushed_ms', now)
  local allowed = {}
  for k = 5, #KEYS do
    allowed[KEYS[k]] = true
  end
  -- Any page: the leases on the first may all be others'.
  local pages = math.ceil(redis.call('ZCOUNT', KEYS[3], '-inf', time) / PAGE)
  local skip = pages > 1 and PAGE * (now % pages) or 0
  local _, _, refused = expire(KEYS[3], KEYS[4], time, remembered_ms, allowed, skip)
  for _, text in ipairs(refused) do
    reply[#reply + 1] = text
  end
end
return reply
