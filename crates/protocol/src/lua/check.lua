-- Tries every command that a component needs, on keys that serve nothing else. So a
-- missing right is known before it loses a count.
--
-- Keys:
--   KEYS[1]  hash
--   KEYS[2]  sorted set
--   KEYS[3]  string
--
-- Reply:
--   {eviction policy, '' if unknown, "key command: error" of each that failed…}

--- @include "includes/attempt"
--- @include "includes/eviction"

local hash_key, set_key, text_key = unpack(KEYS)

local reply = {eviction_policy()}
for _, command in ipairs({
  {'HSET', hash_key, 'f', 1},
  {'HSETNX', hash_key, 'f', 1},
  {'HINCRBY', hash_key, 'f', 1},
  {'HGET', hash_key, 'f'},
  {'HMGET', hash_key, 'f'},
  {'HLEN', hash_key},
  {'ZADD', set_key, 1, 'm'},
  {'ZSCORE', set_key, 'm'},
  {'ZCARD', set_key},
  {'ZREM', set_key, 'm'},
  {'SET', text_key, 1, 'EX', 60},
  {'GET', text_key},
  {'UNLINK', hash_key},
}) do
  attempt(reply, unpack(command))
end
return reply
