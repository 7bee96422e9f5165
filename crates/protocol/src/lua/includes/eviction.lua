-- Returns the policy by which Redis deletes keys when its memory is full, '' if the
-- user has no right to ask. An error must not end a script that writes.
local function eviction_policy()
  local info = redis.pcall('INFO', 'memory')
  return type(info) == 'string' and string.match(info, 'maxmemory_policy:([%w-]+)') or ''
end
