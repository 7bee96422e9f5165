-- Redis's clock, and lease time: the clock less `shift_ms`.
--
-- A lease must not expire because nobody could write: the result of its
-- execution may be on its way. So the time between two scripts counts for
-- MAX_GAP_MS at most. The rest is added to `shift_ms`, which extends every open
-- lease. If the clock steps back, lease time does not.
local MAX_GAP_MS = 5000
-- The clock is written at most every SAVE_INTERVAL_MS: a write costs as much as
-- half a dozen increments.
local SAVE_INTERVAL_MS = 100

-- Returns the time, the shift, the time at which the clock was last saved, and the
-- numbers in those further fields of the state that are named.
local function read_clock(state_key, ...)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local saved = redis.call('HMGET', state_key, 'last_ms', 'shift_ms', ...)
  local last, shift = tonumber(saved[1]), tonumber(saved[2]) or 0
  if last and now < last then
    -- By the step back only. Lease time does not wait for the clock to reach `last`
    -- again.
    shift = shift + now - last
  elseif last and now - last > MAX_GAP_MS then
    shift = shift + now - last - MAX_GAP_MS
  end
  local further = {}
  for i = 1, select('#', ...) do
    further[i] = tonumber(saved[2 + i])
  end
  return now, shift, last, further
end

local function is_due(now, last)
  return not last or now < last or now - last >= SAVE_INTERVAL_MS
end

local function save_clock(state_key, now, shift, last)
  if is_due(now, last) then
    redis.call('HSET', state_key, 'last_ms', now, 'shift_ms', shift)
  end
end
