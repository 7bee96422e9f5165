-- Registers families and bears series at 0.
--
-- KEYS[1]  hash of families
-- KEYS[2…] metric hashes in which series are borne
-- ARGV[1]  how many families, then each one's field and registration
-- ARGV[…]  for each metric hash: how many fields, then each field
--
-- Replies with the registration that stands for each family: the first one.
local reply = {}
local at = 1
local last = at + 2 * tonumber(ARGV[at])
for i = at + 1, last, 2 do
  redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
  reply[#reply + 1] = redis.call('HGET', KEYS[1], ARGV[i])
end
at = last + 1
for k = 2, #KEYS do
  last = at + tonumber(ARGV[at])
  for i = at + 1, last do
    -- A key of the wrong type is reported by the batch that adds to it.
    redis.pcall('HSETNX', KEYS[k], ARGV[i], 0)
  end
  at = last + 1
end
return reply
