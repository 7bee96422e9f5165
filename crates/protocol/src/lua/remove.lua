-- Removes series from a metric hash, or the whole hash with its registration.
--
-- Keys:
--   KEYS[1]   state: hash
--   KEYS[2]   removals: sorted set, what was removed -> number of the removal
--   KEYS[3]   the metric hash
--   KEYS[4]   the hash of its lost counts
--   KEYS[5]   families: hash; only if the whole metric hash is removed
--
-- Arguments:
--   ARGV[1]   next version of the lost counts, random
--   ARGV[2]   number of removals that are remembered
--   ARGV[3]   seconds for which they are remembered, after the last one
--   ARGV[4]   number of members of KEYS[2]
--   ARGV[5…]  those members, then the fields to delete, or the field of the
--             registration if the whole metric hash is removed
--
-- Reply:
--   The keys of KEYS[3] and KEYS[4] that hold something other than a hash, and so
--   belong to another program. Then nothing is removed but the registration.
--
-- A reader that remembers values has to tell a removal from a loss. So removals
-- are numbered, and a reader asks for those after the last one it has seen. Lost
-- counts that it computed before the removal are refused, because they carry
-- another version; so the series stay removed.

--- @include "includes/series"

local state_key, removals_key, metric_key, lost_key, families_key = unpack(KEYS)
local next_version, remembered_count, remembered_seconds = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local first_member = 5
local first_field = first_member + tonumber(ARGV[4])

local foreign = {}
for _, key in ipairs({metric_key, lost_key}) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'hash' and kind ~= 'none' then
    foreign[#foreign + 1] = key
  end
end
if #foreign > 0 and not families_key then
  return foreign
end

-- From the clock, so that no number is used twice even if Redis lost a removal; and
-- above the last one even if the clock stepped back. A reader that has seen a number
-- would miss another removal of that number.
local time = redis.call('TIME')
local last_number = redis.call('ZRANGE', removals_key, -1, -1, 'WITHSCORES')[2] or 0
local number = math.max(tonumber(time[1]) * 1000000 + tonumber(time[2]), tonumber(last_number) + 1)

-- First, because a Redis whose memory is full refuses this write, and so does a
-- key of the wrong type.
redis.call('HSET', state_key, 'lost_version', next_version)
for i = first_member, first_field - 1 do
  redis.call('ZADD', removals_key, number, ARGV[i])
end
redis.call('ZREMRANGEBYRANK', removals_key, 0, -1 - remembered_count)
redis.call('EXPIRE', removals_key, remembered_seconds)
if families_key then
  redis.call('HDEL', families_key, ARGV[first_field])
  if #foreign == 0 then
    redis.call('HDEL', state_key, series_field(metric_key))
    redis.call('UNLINK', metric_key, lost_key)
  end
else
  local removed = 0
  for i = first_field, #ARGV do
    local deleted = redis.call('HDEL', metric_key, ARGV[i])
    redis.call('HDEL', lost_key, ARGV[i])
    if is_counted_by(ARGV[i]) then
      removed = removed + deleted
    end
  end
  local series = redis.call('HGET', state_key, series_field(metric_key))
  if series then
    redis.call('HSET', state_key, series_field(metric_key), math.max(0, series - removed))
  end
end
return foreign
