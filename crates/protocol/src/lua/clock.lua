-- Redis's own clock, and how far leases are extended by the times in which
-- Redis stood still. Part of every script that tells lease time, or judges
-- leases by it.
--
-- A lease whose time ran while nothing could be written must not expire for
-- that: its result may be on its way. So what passes between two scripts
-- beyond STILL_MS extends every open lease. It is kept as one shift, by which
-- lease time is behind the clock: leases are taken and judged by lease time. A
-- clock that steps back counts as standing.
local STILL_MS = 5000
-- How old what is kept may be, so that it is not written by every call.
local KEPT_MS = 100

-- Gives the time, the shift, when the clock was kept last, and the number in a
-- further field of the state if one is asked for.
local function clock(state, ...)
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local kept = redis.call('HMGET', state, 'last_ms', 'shift_ms', ...)
  local last, shift = tonumber(kept[1]), tonumber(kept[2]) or 0
  if last and now < last then
    -- Only for the step: waiting until the clock has caught up could be for ever.
    shift = shift + now - last
  elseif last and now - last > STILL_MS then
    shift = shift + now - last - STILL_MS
  end
  return now, shift, last, tonumber(kept[3])
end

local function is_old(now, kept)
  return not kept or now < kept or now - kept >= KEPT_MS
end

local function keep_clock(state, now, shift, last)
  if is_old(now, last) then
    redis.call('HSET', state, 'last_ms', now, 'shift_ms', shift)
  end
end
