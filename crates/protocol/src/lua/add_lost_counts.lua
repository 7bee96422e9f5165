-- Adds to the lost counts of metric hashes: counts that readers served and that
-- Redis then lost. Called by readers, which serve the sum of both.
--
-- Keys:
--   KEYS[1]   state: hash
--   KEYS[2…]  hashes of lost counts
--
-- Arguments:
--   ARGV[1]   the epoch of the store that was read
--   ARGV[2]   the version of the lost counts that were read, '' if none
--   ARGV[3]   their next version, random
--   ARGV[4…]  for each hash: the number of its fields, then each field and its
--             increment
--
-- Reply, one of:
--   {'added', refused increment…}
--   {'overtaken'}   the epoch or the version has changed since the reader read
--                   them, and nothing was added. It reads again: of two readers
--                   that see the same loss, only one makes up for it.

--- @include "includes/add_increments"

local state_key = KEYS[1]
local FIRST_LOST_KEY = 2
local epoch, version, next_version = ARGV[1], ARGV[2], ARGV[3]
local FIRST_INCREMENT = 4

local state = redis.call('HMGET', state_key, 'epoch', 'lost_version')
if state[1] ~= epoch or (state[2] or '') ~= version then
  return {'overtaken'}
end
redis.call('HSET', state_key, 'lost_version', next_version)
local reply = {'added'}
add_increments(FIRST_LOST_KEY, #KEYS, FIRST_INCREMENT, reply)
return reply
