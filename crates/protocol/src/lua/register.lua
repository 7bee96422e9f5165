-- Registers families, and initialises series to 0.
--
-- Keys:
--   KEYS[1]   families: hash, field -> registration
--   KEYS[2]   state: hash
--   KEYS[3]   note for is_registered.lua: string, expires
--   KEYS[4…]  each family's metric hash
--
-- Arguments:
--   ARGV[1]   random epoch, for a store that has none
--   ARGV[2]   seconds for which the note holds
--   ARGV[3…]  for each family: its field, its registration, the number of series to
--             initialise, and each one's field in the metric hash
--
-- Reply:
--   {lease time in ms, eviction policy, '' if unknown, registration in force…}
--   The first registration of a family stays in force. Series are initialised only
--   where that is the caller's own, because the hash may be another one otherwise.

--- @include "includes/clock"
--- @include "includes/epoch"
--- @include "includes/eviction"
--- @include "includes/store_version"

local families_key, state_key, note_key = KEYS[1], KEYS[2], KEYS[3]
local FIRST_METRIC_KEY = 4
local new_epoch, note_seconds = ARGV[1], ARGV[2]
local at = 3

local now, shift, last = read_clock(state_key)
save_clock(state_key, now, shift, last)
begin_epoch(state_key, new_epoch, now)
local reply = {tostring(now - shift), eviction_policy()}
local all_in_force = true
for k = FIRST_METRIC_KEY, #KEYS do
  local field, registration = ARGV[at], ARGV[at + 1]
  local last_series = at + 2 + tonumber(ARGV[at + 2])
  redis.call('HSETNX', families_key, field, registration)
  local in_force = redis.call('HGET', families_key, field)
  reply[#reply + 1] = in_force
  if in_force == registration then
    for i = at + 3, last_series do
      -- A key of the wrong type is reported by the batch that adds to it.
      redis.pcall('HSETNX', KEYS[k], ARGV[i], 0)
    end
  else
    all_in_force = false
  end
  at = last_series + 1
end
if all_in_force then
  redis.call('SET', note_key, store_version(state_key), 'EX', note_seconds)
end
return reply
