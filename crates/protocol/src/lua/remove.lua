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
-- Replies with the keys that hold no hash and so are somebody else's: then
-- nothing is removed but the registration.
--
-- A reader that remembers values must tell what is gone from what Redis lost.
-- So removals are numbered, and it asks for those after the last one that it has
-- heard of. What it read before this and adds to the offsets after is refused,
-- because they have another version; nothing is born again of that.
local members = tonumber(ARGV[4])
local whole = #KEYS == 5
local foreign = {}
for k = 3, 4 do
  local kind = redis.call('TYPE', KEYS[k]).ok
  if kind ~= 'hash' and kind ~= 'none' then
    foreign[#foreign + 1] = KEYS[k]
  end
end
if #foreign > 0 and not whole then
  return foreign
end
-- A number that was given before is not given again, even if Redis lost it with
-- the removal: who has heard of it would not hear of this one. And the clock may
-- step back.
local time = redis.call('TIME')
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2] or 0
local number = math.max(tonumber(time[1]) * 1000000 + tonumber(time[2]), tonumber(last) + 1)
-- First, because it is what a full memory refuses, and a key of another type.
redis.call('HSET', KEYS[1], 'lost_version', ARGV[1])
for i = 5, 4 + members do
  redis.call('ZADD', KEYS[2], number, ARGV[i])
end
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[2]))
redis.call('EXPIRE', KEYS[2], ARGV[3])
if whole then
  redis.call('HDEL', KEYS[5], ARGV[5 + members])
  if #foreign == 0 then
    redis.call('UNLINK', KEYS[3], KEYS[4])
  end
else
  for i = 5 + members, #ARGV do
    redis.call('HDEL', KEYS[3], ARGV[i])
    redis.call('HDEL', KEYS[4], ARGV[i])
  end
end
return foreign
