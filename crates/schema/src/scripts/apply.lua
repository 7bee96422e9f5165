-- Applies one batch of increments, once.
--
-- KEYS[1]  hash of applied ids: writer -> its last applied sequence number
-- KEYS[2…] the metric hashes that the batch adds to
-- ARGV[1]  writer
-- ARGV[2]  sequence number, counted upwards by the writer
-- ARGV[3]  seconds for which the id must be remembered
-- ARGV[4…] for each metric hash: how many fields, then each field and its
--          increment, a decimal integer below 2^62
--
-- Replies with 'applied' or 'duplicate', then one text for each increment that
-- could not be applied.
--
-- A script does not roll back. So the id is recorded by the first write: a
-- server that refuses writes (READONLY, OOM, MISCONF) refuses this one, and
-- nothing has happened. From then on no error is raised.
local applied = redis.call('HGET', KEYS[1], ARGV[1])
if applied and tonumber(applied) >= tonumber(ARGV[2]) then
  return {'duplicate'}
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])

local reply = {'applied'}
local at = 4
for k = 2, #KEYS do
  local key = KEYS[k]
  local last = at + 2 * tonumber(ARGV[at])
  for i = at + 1, last, 2 do
    local field = ARGV[i]
    local value = redis.pcall('HINCRBY', key, field, ARGV[i + 1])
    if type(value) == 'table' then
      reply[#reply + 1] = key .. ' ' .. field .. ': ' .. value.err
    elseif value >= 4611686018427387904 and string.sub(field, -4) == '|sum' then
      -- Doubles are exact enough to compare with 2^62; what is moved to the
      -- carry is an integer in Redis.
      redis.call('HINCRBY', key, field, '-4611686018427387904')
      redis.pcall('HINCRBY', key, field .. '_carry', 1)
    end
  end
  at = last + 1
end
return reply
