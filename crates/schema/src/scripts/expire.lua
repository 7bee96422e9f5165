-- Settles leases that have run out: counts what each says, once. Part of the
-- scripts that do so.

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

-- At most 100 a call, so that no script takes long. A lease with a key that is
-- not `allowed` is left to those who know the key: a script may touch no other.
local function expire(leases, closed, now, shift, remembered_ms, allowed)
  -- Read first: a key of the wrong type raises an error while nothing is written.
  local due = redis.call('ZRANGEBYSCORE', leases, '-inf', now - shift, 'LIMIT', 0, 100)
  redis.call('ZREMRANGEBYSCORE', closed, '-inf', now)
  local settled, refused = 0, {}
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
    end
  end
  return settled, refused
end
