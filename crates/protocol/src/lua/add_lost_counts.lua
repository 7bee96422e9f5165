-- Adds to offsets: what Redis lost of what was served, so that it stays served.
-- For readers.
--
-- KEYS[1]  state
-- KEYS[2…] hashes of offsets
-- ARGV[1]  the epoch of the store that was read
-- ARGV[2]  the version of the offsets that were read with it, '' if none
-- ARGV[3]  a random text, their next version
-- ARGV[…]  for each hash of offsets: how many fields, then each field and its
--          increment, a decimal integer below 2^62
--
-- Replies with 'added', then one text for each increment that could not be
-- added; or with 'overtaken' if another reader added meanwhile. Then nothing
-- has been added, and what is lost is to be found out anew: of two readers that
-- see the same loss, one makes up for it.
local read = redis.call('HMGET', KEYS[1], 'epoch', 'lost_version')
if read[1] ~= ARGV[1] or (read[2] or '') ~= ARGV[2] then
  return {'overtaken'}
end
redis.call('HSET', KEYS[1], 'lost_version', ARGV[3])
local reply = {'added'}
add(2, 4, reply)
return reply
