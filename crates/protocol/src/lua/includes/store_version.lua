-- Returns a text that changes whenever counts or registrations are removed by
-- command: by `wipe`, and by `series remove`.
local function store_version(state_key)
  local state = redis.call('HMGET', state_key, 'epoch', 'lost_version')
  return (state[1] or '') .. '/' .. (state[2] or '')
end
