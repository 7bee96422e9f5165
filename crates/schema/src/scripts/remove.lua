-- Takes series out of one metric hash, or the whole hash with its registration.
--
-- KEYS[1]  state
-- KEYS[2]  sorted set of what was removed
-- KEYS[3]  the metric hash
-- KEYS[4]  the hash of its offsets
-- KEYS[5]  hash of families, where a registration is removed
-- ARGV[1]  a random version, of the offsets from now on
-- ARGV[2]  how many removals are remembered
-- ARGV[3]  for how many seconds they are, after the last one
-- ARGV[4]  how many members say what is removed, then each of them
-- ARGV[…]  the registration's field, or the fields to delete
--
-- Replies with the number of fields that are gone, or with -1 where the key
-- holds no hash: it is somebody else's, and only the registration goes.
--
-- Removals are numbered. A reader that remembers values asks for those after
-- the last one it has seen, before it reads the hashes: so it forgets a series
-- before it sees it gone, and one that is born again begins at 0.
local members = tonumber(ARGV[4])
local whole = #KEYS == 5
local kind = redis.call('TYPE', KEYS[3]).ok
local foreign = kind ~= 'hash' and kind ~= 'none'
if foreign and not whole then
  return { '-1' }
end
-- First, because it is what a full memory refuses.
local number = redis.call('HINCRBY', KEYS[1], 'removals', 1)
for i = 5, 4 + members do
  redis.call('ZADD', KEYS[2], number, ARGV[i])
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[2]))
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('HSET', KEYS[1], 'offsets', ARGV[1])
local gone = 0
if whole then
  redis.call('HDEL', KEYS[5], ARGV[5 + members])
  if foreign then
    return { '-1' }
  end
  gone = redis.call('HLEN', KEYS[3])
  redis.call('UNLINK', KEYS[3], KEYS[4])
else
  for i = 5 + members, #ARGV do
    gone = gone + redis.call('HDEL', KEYS[3], ARGV[i])
    redis.call('HDEL', KEYS[4], ARGV[i])
  end
end
return { tostring(gone) }
