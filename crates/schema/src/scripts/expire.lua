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

-- Passes over the first `skip` that ran out. A lease with a key that is not
-- `allowed` is left to those who know the key: a script may touch no other. So
-- that such do not stand in front of the others for ever, it is for the caller
-- to turn the page. Gives how many were settled, how many the next page is to
-- pass over (nothing if this was the last one), and what was refused.
local function expire(leases, closed, now, shift, remembered_ms, allowed, skip)
  -- Read first: a key of the wrong type raises an error while nothing is written.
  local due = redis.call('ZRANGEBYSCORE', leases, '-inf', now - shift, 'LIMIT', skip, PAGE)
  redis.call('ZREMRANGEBYSCORE', closed, '-inf', now)
  local settled, left, refused = 0, skip, {}
  for _, member in ipairs(due) do
    local sound, lease, known = pcall(read_lease, member, allowed)
    if not sound then
      redis.call('ZREM', leases, member)
      refused[#refused + 1] = leases .. ' ' .. member .. ': not a lease'
    elseif known then
      redis.call('ZADD', closed, now + remembered_ms, lease.id)
      redis.call('ZREM', leases, member)
      settled = settled + 1
      for _, cell in ipairs(lease.count) do
        local value = redis.pcall('HINCRBY', cell[1], cell[2], 1)
        if type(value) == 'table' then
          refused[#refused + 1] = cell[1] .. ' ' .. cell[2] .. ': ' .. value.err
        end
      end
    else
      left = left + 1
    end
  end
  return settled, #due == PAGE and left, refused
end
