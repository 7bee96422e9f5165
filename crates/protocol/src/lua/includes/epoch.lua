-- Begins an epoch if the store has none, and keeps the time at which it began.
local function begin_epoch(state_key, new_epoch, now)
  if redis.call('HSETNX', state_key, 'epoch', new_epoch) == 1 then
    redis.call('HSET', state_key, 'epoch_ms', now)
  end
end
