-- Settles leases that have run out: counts what each says, once. Part of the
-- scripts that do so.

-- How many leases a call looks at, so that no script takes long.
local PAGE = 100

local function read_lease(member, allowed)
  local lease = cjson.decode(member)
  assert(type(lease.id) == 'string')
  local known = true
  for i, cell in pairs(lease.count) do
    assert(type(i) == 'number' and type(cell[1]) == 'string' and type(cell[2]) == 'string')
    known = known and allowed[cell[1]]
  end
  return lease, known
end

-- `time` is lease time. Passes over the first `skip` that ran out. A lease with
-- a key that is not `allowed` is left to those who know the key: a script may
-- touch no other. So that such do not stand in front of the others for ever, it
-- is for the caller to turn the page. Gives how many were settled, how many the
-- next page is to pass over (nothing if this was the last one), and what was
-- refused.
local function expire(leases, closed, time, remembered_ms, allowed, skip)
  -- Read first: a key of the wrong type raises an error while nothing is written.
  redis.call('ZCARD', closed)
  local due = redis.call('ZRANGEBYSCORE', leases, '-inf', time, 'LIMIT', skip, PAGE)
  local settled, left, refused = 0, skip, {}
  for _, member in ipairs(due) do
    local sound, lease, known = pcall(read_lease, member, allowed)
    if not sound then
      redis.call('ZREM', leases, member)
      refused[#refused + 1] = leases .. ' ' .. member .. ': not a lease'
    elseif redis.call('ZSCORE', closed, lease.id) then
      -- It landed after it was closed: it is counted already.
      redis.call('ZREM', leases, member)
    elseif known then
      -- In this order: a Redis whose memory is full refuses a script's first
      -- write alone, and this one never.
      redis.call('ZREM', leases, member)
      redis.call('ZADD', closed, time + remembered_ms, lease.id)
      settled = settled + 1
      for _, cell in ipairs(lease.count) do
        local value = redis.pcall('HINCRBY', cell[1], cell[2], 1)
        if type(value) == 'table' then
          refused[#refused + 1] = cell[1] .. ' ' .. cell[2] .. ' +1: ' .. value.err
        end
      end
    else
      left = left + 1
    end
  end
  -- Last: what is forgotten now may be what one of these was closed by.
  redis.call('ZREMRANGEBYSCORE', closed, '-inf', time)
  return settled, #due == PAGE and left, refused
end
