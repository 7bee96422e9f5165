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
-- it equals its increment. Returns the index of the argument after the last one.
local function add_limited(state_key, limited_key, key, at, limit, count, lease_time, refused)
  local family = ARGV[at]
  local created, limited = 0, 0

  -- True if Redis refuses to say. It will refuse the write, too, and that is reported.
  local function exists(field)
    return redis.pcall('HGET', key, field) and true
  end

  local last_gauge = at + 1 + 4 * tonumber(ARGV[at + 1])
  for i = at + 2, last_gauge, 4 do
    local field, value, set_ms, sum = unpack(ARGV, i, i + 3)
    local known = attempt(refused, 'HMGET', key, field, field .. '|set_ms')
    if known and not known[1] and count + created >= limit then
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
  while first < last_field do
    local last = first
    while not is_counted_by(ARGV[last]) and last + 1 < last_field do
      last = last + 2
    end
    local suffix = string.match(ARGV[last], '|[^|"]*$') or ''
    local labels = string.sub(ARGV[last], 1, -1 - #suffix)
    local target = labels
    if count + created >= limit and not exists(ARGV[last]) then
      limited = limited + 1
      target = overflow_of(labels)
      if count + created >= limit + MAX_OVERFLOW and not exists(target .. suffix) then
        target = ''
      end
    end
    local is_new = true
    for i = first, last, 2 do
      local field = target .. string.sub(ARGV[i], #labels + 1)
      if i == last and suffix ~= '' then
        is_new = is_new and not exists(field)
        add_increment(refused, key, field, ARGV[i + 1])
      else
        local value = add_increment(refused, key, field, ARGV[i + 1])
        is_new = is_new and value == tonumber(ARGV[i + 1])
      end
    end
    created = created + (is_new and 1 or 0)
    first = last + 2
  end

  if created > 0 then
    attempt(refused, 'HINCRBY', state_key, series_field(key), created)
  end
  if limited > 0 then
    add_increment(refused, limited_key, family, limited)
  end
  return last_field + 1
end
