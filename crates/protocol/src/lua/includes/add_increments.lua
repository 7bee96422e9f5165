--- @include "attempt"

-- 2^62. A sum that reaches it is reduced by it, and its carry grows by 1.
local CARRY = 4611686018427387904

-- Adds an increment, a decimal integer below 2^62. Returns the new value.
--
-- Raises no error, because a script does not roll back: an increment that Redis
-- refuses is appended to `refused` as "key field +increment: error", so that it
-- can be made up for by hand. The result is nil then.
local function add_increment(refused, key, field, increment)
  local value = redis.pcall('HINCRBY', key, field, increment)
  if type(value) == 'table' then
    refused[#refused + 1] = key .. ' ' .. field .. ' +' .. increment .. ': ' .. value.err
    return nil
  end
  if value >= CARRY and string.sub(field, -4) == '|sum' then
    -- `value` is a double, which is exact enough for this comparison. The
    -- sum itself stays an integer in Redis.
    local carry = redis.pcall('HINCRBY', key, field .. '_carry', 1)
    if type(carry) == 'table' then
      -- Nothing is lost: the sum keeps all of it.
      refused[#refused + 1] = key .. ' ' .. field .. '_carry: ' .. carry.err
    else
      attempt(refused, 'HINCRBY', key, field, '-4611686018427387904')
    end
  end
  return value
end

-- Adds increments to the hashes KEYS[first_key…last_key]. For each hash, ARGV holds
-- from `at` on: the number of fields, then each field and its increment. Returns the
-- index of the argument after them.
local function add_increments(first_key, last_key, at, refused)
  for k = first_key, last_key do
    local last_field = at + 2 * tonumber(ARGV[at])
    for i = at + 1, last_field, 2 do
      add_increment(refused, KEYS[k], ARGV[i], ARGV[i + 1])
    end
    at = last_field + 1
  end
  return at
end
