--- @include "attempt"

-- 2^62. A sum that reaches it is reduced by it, and its carry grows by 1.
local CARRY = 4611686018427387904

-- Adds increments to the hashes KEYS[first_key…]. For each hash, ARGV holds from
-- `at` on: the number of fields, then each field and its increment, a decimal
-- integer below 2^62.
--
-- Raises no error, because a script does not roll back: an increment that Redis
-- refuses is appended to `refused` as "key field +increment: error", so that it
-- can be made up for by hand.
local function add_increments(first_key, at, refused)
  for k = first_key, #KEYS do
    local key = KEYS[k]
    local last_field = at + 2 * tonumber(ARGV[at])
    for i = at + 1, last_field, 2 do
      local field, increment = ARGV[i], ARGV[i + 1]
      local value = redis.pcall('HINCRBY', key, field, increment)
      if type(value) == 'table' then
        refused[#refused + 1] = key .. ' ' .. field .. ' +' .. increment .. ': ' .. value.err
      elseif value >= CARRY and string.sub(field, -4) == '|sum' then
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
    end
    at = last_field + 1
  end
end
