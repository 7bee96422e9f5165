-- Adds increments to hashes. Part of the scripts that do so.

-- ARGV[at…] holds, for each of KEYS[first…], how many fields, then each field
-- and its increment, a decimal integer below 2^62. Raises no error: what could
-- not be added is appended to `refused`, with its amount for who makes up for it by hand.
local function add(first, at, refused)
  for k = first, #KEYS do
    local key = KEYS[k]
    local last_field = at + 2 * tonumber(ARGV[at])
    for i = at + 1, last_field, 2 do
      local field = ARGV[i]
      local by = ARGV[i + 1]
      local value = redis.pcall('HINCRBY', key, field, by)
      if type(value) == 'table' then
        refused[#refused + 1] = key .. ' ' .. field .. ' +' .. by .. ': ' .. value.err
      elseif value >= 4611686018427387904 and string.sub(field, -4) == '|sum' then
        -- Doubles are exact enough to compare with 2^62; what is moved to the
        -- carry is an integer in Redis.
        local carry = redis.pcall('HINCRBY', key, field .. '_carry', 1)
        if type(carry) == 'table' then
          -- Nothing is lost: the sum has it.
          refused[#refused + 1] = key .. ' ' .. field .. '_carry: ' .. carry.err
        else
          redis.call('HINCRBY', key, field, '-4611686018427387904')
        end
      end
    end
    at = last_field + 1
  end
end
