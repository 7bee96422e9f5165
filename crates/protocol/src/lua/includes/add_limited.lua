--- @include "attempt"
--- @include "add_increments"
--- @include "series"

-- Series beyond the limit, one for each set of label names. Further ones go to the
-- series without labels, in case that label names come from clients, too.
local MAX_OVERFLOW = 100

-- Returns a label set with every value `other`.
local function overflow_of(labels)
  local unescaped = string.gsub(labels, '\\.', '')
  return (string.gsub(unescaped, '"[^"]*"', '"other"'))
end

-- Adds to a hash that may have `limit` series, and has `count`. From `at` on, ARGV holds
-- the family's field in the hash `limited_key`; the number of gauges, and for each its
-- field, its value if it was set, the lease time of that, and what was added since; the
-- number of other fields, and each with its increment. The fields of one histogram stand
-- together, and its sum is the last of them.
--
-- Increments of a new series beyond the limit go to the series with every label value
-- `other`, so that the family's sum stays exact. A new gauge is dropped. Both are counted
-- in `limited_key`. Below the limit this costs no command: a counter or bucket is new if
-- it equals its increment. Beyond it, a client that invents label values costs a look-up of
-- a thousand of them together. Returns the index of the argument after the last one.
--
-- `count` is kept in another key, so it is too high if the hash was deleted or evicted. The
-- length of the hash bounds it: a series has one field at least.
local function add_limited(state_key, limited_key, key, at, limit, count, lease_time, refused)
  local family = ARGV[at]
  local created, limited, surplus = 0, 0, 0

  local is_checked = false
  local function is_full()
    if count + created >= limit and not is_checked then
      is_checked = true
      local length = redis.pcall('HLEN', key)
      if type(length) == 'number' then
        surplus = math.max(0, count + created - length)
        count = count - surplus
      end
    end
    return count + created >= limit
  end

  -- True if Redis refuses to say. It will refuse the write, too, and that is reported.
  local function exists(field)
    return redis.pcall('HGET', key, field) and true
  end

  local last_gauge = at + 1 + 4 * tonumber(ARGV[at + 1])
  for i = at + 2, last_gauge, 4 do
    local field, value, set_ms, sum = unpack(ARGV, i, i + 3)
    local known = attempt(refused, 'HMGET', key, field, field .. '|set_ms')
    if known and not known[1] and is_full() then
      limited = limited + 1
    elseif known then
      -- A writer's estimate of lease time may be ahead, and no later write must lose to it.
      local time = math.min(tonumber(set_ms) or 0, lease_time)
      if value ~= '' and time >= (tonumber(known[2]) or 0) then
        attempt(refused, 'HSET', key, field, value, field .. '|set_ms', time)
      else
        add_increment(refused, key, field, sum)
      end
      created = created + (known[1] and 0 or 1)
    end
  end

  local last_field = last_gauge + 1 + 2 * tonumber(ARGV[last_gauge + 1])
  local first = last_gauge + 2

  -- By the field that counts a series. Looked up when the limit is reached.
  local known
  local function look_up()
    known = {}
    local fields = {}
    for i = first, last_field - 1, 2 do
      if is_counted_by(ARGV[i]) then
        fields[#fields + 1] = ARGV[i]
      end
    end
    -- In slices, because Lua's stack holds some thousand values.
    for i = 1, #fields, 1000 do
      local last = math.min(i + 999, #fields)
      local values = redis.pcall('HMGET', key, unpack(fields, i, last))
      for j = i, last do
        known[fields[j]] = values.err and true or values[j - i + 1] and true
      end
    end
  end

  -- Sums of what goes to other series, while they are exact in a double.
  local redirected = {}
  local function redirect(field, increment)
    local sum = (redirected[field] or 0) + tonumber(increment)
    if sum < 2 ^ 53 then
      redirected[field] = sum
    else
      add_increment(refused, key, field, increment)
    end
  end

  while first < last_field do
    local last = first
    while not is_counted_by(ARGV[last]) and last + 1 < last_field do
      last = last + 2
    end
    local suffix = string.match(ARGV[last], '|[^|"]*$') or ''
    local labels = string.sub(ARGV[last], 1, -1 - #suffix)
    if not known and is_full() then
      look_up()
    end
    if known and not known[ARGV[last]] then
      limited = limited + 1
      local target = overflow_of(labels)
      if known[target .. suffix] == nil then
        known[target .. suffix] = exists(target .. suffix)
      end
      if not known[target .. suffix] and count + created >= limit + MAX_OVERFLOW then
        target = ''
        if known[suffix] == nil then
          known[suffix] = exists(suffix)
        end
      end
      if not known[target .. suffix] then
        known[target .. suffix] = true
        created = created + 1
      end
      for i = first, last, 2 do
        redirect(target .. string.sub(ARGV[i], #labels + 1), ARGV[i + 1])
      end
    else
      local is_new = not known
      for i = first, last, 2 do
        if i == last and suffix ~= '' then
          is_new = is_new and not exists(ARGV[i])
          add_increment(refused, key, ARGV[i], ARGV[i + 1])
        else
          local increment = tonumber(ARGV[i + 1])
          -- From 2^53 on, a double does not tell a sum from its increment.
          local is_known = increment >= 9007199254740992 and exists(ARGV[i])
          local value = add_increment(refused, key, ARGV[i], ARGV[i + 1])
          is_new = is_new and not is_known and value == increment
        end
      end
      created = created + (is_new and 1 or 0)
    end
    first = last + 2
  end

  for field, sum in pairs(redirected) do
    add_increment(refused, key, field, string.format('%.0f', sum))
  end
  if created ~= surplus then
    attempt(refused, 'HINCRBY', state_key, series_field(key), created - surplus)
  end
  if limited > 0 then
    add_increment(refused, limited_key, family, limited)
  end
  return last_field + 1
end
