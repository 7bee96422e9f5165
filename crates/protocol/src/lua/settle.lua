-- Settles leases that have expired: counts what each lease says, once. Called by
-- readers.
--
-- Keys:
--   KEYS[1]   state: hash
--   KEYS[2]   open leases: sorted set, lease -> lease time of its expiry
--   KEYS[3]   closed leases: sorted set, lease id -> lease time of its deletion; '!' and
--             an id for a lease that was removed without being counted
--   KEYS[4…]  the hashes that leases may count in
--
-- Arguments:
--   ARGV[1]   milliseconds for which the id of a closed lease is remembered
--   ARGV[2]   random epoch, for a store that has none
--   ARGV[3]   number of expired leases to skip
--   ARGV[4…]  keys that no lease may count in
--
-- Reply:
--   {epoch, number of leases settled, lease time in ms, skip, number of unknown
--    keys, number of dropped leases, number of refused counts, unknown key…,
--    dropped lease…, refused count…}
--   `skip` is ARGV[3] of the call that continues this one, or '' if all expired
--   leases have been looked at. The reply has at most MAX_TEXTS different texts about
--   dropped leases, and as many about refused counts.
--
-- A script may only touch keys that it was given. So a lease that counts in a key
-- that is neither in KEYS nor in ARGV stays open, and the reply names the key. The
-- reader decides on it, and calls again. A lease that counts in a key of ARGV is
-- settled, and that count refused: it would be in the way of the others for ever.
--
-- A script does not roll back. So it tries its commands first, and afterwards only two
-- things can fail: an increment, which the reply names, and the deletion of old ids, which
-- the next call repeats.

--- @include "includes/clock"
--- @include "includes/epoch"

local state_key, open_leases_key, closed_leases_key = KEYS[1], KEYS[2], KEYS[3]
local FIRST_METRIC_KEY = 4
local remembered_ms, new_epoch, skip = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local FIRST_FOREIGN_KEY = 4
-- Leases that one call looks at, so that Redis is not blocked for long.
local PAGE_SIZE = 100
-- Real leases have hundreds of bytes, and count in three cells.
local MAX_LEASE_BYTES = 16384
local MAX_CELLS = 16
local MAX_TEXTS = 100
local MAX_TEXT_BYTES = 500

local is_metric_key, is_foreign_key = {}, {}
for k = FIRST_METRIC_KEY, #KEYS do
  is_metric_key[KEYS[k]] = true
end
for i = FIRST_FOREIGN_KEY, #ARGV do
  is_foreign_key[ARGV[i]] = true
end

-- Returns the lease. Raises an error if the member is not one.
local function decode_lease(member)
  assert(#member <= MAX_LEASE_BYTES)
  local lease = cjson.decode(member)
  assert(type(lease.id) == 'string' and #lease.count <= MAX_CELLS)
  for i, cell in pairs(lease.count) do
    assert(type(i) == 'number' and type(cell[1]) == 'string' and type(cell[2]) == 'string')
  end
  return lease
end

local unknown, is_unknown = {}, {}
-- Returns whether the caller has decided on every key that a lease counts in.
local function is_decided(lease)
  local decided = true
  for _, cell in ipairs(lease.count) do
    local key = cell[1]
    if not is_metric_key[key] and not is_foreign_key[key] then
      decided = false
      if not is_unknown[key] then
        is_unknown[key] = true
        unknown[#unknown + 1] = key
      end
    end
  end
  return decided
end

local dropped, refused, refused_counts = {}, {}, 0
local function report(list, text)
  text = string.sub(text, 1, MAX_TEXT_BYTES)
  if #list < MAX_TEXTS and not list[text] then
    list[#list + 1] = text
    list[text] = true
  end
end
local function refuse(key, field, reason)
  refused_counts = refused_counts + 1
  report(refused, key .. ' ' .. field .. ' +1: ' .. reason)
end

local now, shift, last, further = read_clock(state_key, 'forgotten_ms')
local forgotten = further[1]
local lease_time = now - shift
local expired =
  redis.call('ZRANGEBYSCORE', open_leases_key, '-inf', lease_time, 'WITHSCORES', 'LIMIT', skip, PAGE_SIZE)
-- These change nothing, and raise an error for a key of the wrong type or a missing
-- right. ZREM first: if the memory of Redis is full, it refuses a script whose first
-- write may take memory. ZREM takes none, and later writes are accepted.
redis.call('ZCARD', closed_leases_key)
redis.call('ZSCORE', closed_leases_key, '')
redis.call('ZREM', open_leases_key, '')
redis.call('ZREMRANGEBYSCORE', closed_leases_key, '+inf', '-inf')
if #expired > 0 then
  redis.call('ZADD', closed_leases_key, 'XX', 0, '')
end
begin_epoch(state_key, new_epoch, now)
local epoch = redis.call('HGET', state_key, 'epoch')
save_clock(state_key, now, shift, last)
local settled = 0
for i = 1, #expired, 2 do
  local member, due = expired[i], tonumber(expired[i + 1])
  local is_lease, lease = pcall(decode_lease, member)
  if not is_lease then
    redis.call('ZREM', open_leases_key, member)
    report(dropped, open_leases_key .. ' ' .. member .. ': not a lease')
  elseif redis.call('ZSCORE', closed_leases_key, lease.id) then
    -- It arrived after its execution was counted.
    redis.call('ZREM', open_leases_key, member)
  elseif is_decided(lease) and forgotten and due + remembered_ms <= forgotten then
    -- If its execution was counted before it arrived, its id may be deleted. A lease is
    -- sent once, so no reader has settled this one: the note tells apply.lua that a
    -- result which arrives later is not late.
    redis.call('ZREM', open_leases_key, member)
    redis.call('ZADD', closed_leases_key, lease_time + remembered_ms, '!' .. lease.id)
    report(dropped, open_leases_key .. ' ' .. member
      .. ': it arrived too late to know whether its execution is counted')
  elseif is_decided(lease) then
    redis.call('ZREM', open_leases_key, member)
    redis.call('ZADD', closed_leases_key, lease_time + remembered_ms, lease.id)
    settled = settled + 1
    for _, cell in ipairs(lease.count) do
      local key, field = cell[1], cell[2]
      if is_foreign_key[key] then
        refuse(key, field, 'not a key that a lease may count in')
      else
        local value = redis.pcall('HINCRBY', key, field, 1)
        if type(value) == 'table' then
          refuse(key, field, value.err)
        end
      end
    end
  else
    skip = skip + 1
  end
end
if #expired < 2 * PAGE_SIZE then
  -- No expired lease is left that needs an id to be recognised, but those that arrive
  -- later.
  local old = redis.call('ZRANGEBYSCORE', closed_leases_key, '-inf', lease_time, 'LIMIT', 0, 1)
  -- This HSET may be the first of the call, and fail. Ids are deleted only if it succeeds.
  if #old > 0 and type(redis.pcall('HSET', state_key, 'forgotten_ms', lease_time)) == 'number' then
    redis.call('ZREMRANGEBYSCORE', closed_leases_key, '-inf', lease_time)
  end
end

local reply = {
  epoch,
  tostring(settled),
  tostring(lease_time),
  #expired == 2 * PAGE_SIZE and tostring(skip) or '',
  tostring(#unknown),
  tostring(#dropped),
  tostring(refused_counts),
}
for _, texts in ipairs({unknown, dropped, refused}) do
  for _, text in ipairs(texts) do
    reply[#reply + 1] = text
  end
end
return reply
