-- Calls a command on a key. An error does not end the script: it is appended to
-- `refused`, as "key command: error". For commands after the first write, because a
-- script does not roll back.
local function attempt(refused, command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) == 'table' and reply.err then
    refused[#refused + 1] = key .. ' ' .. command .. ': ' .. reply.err
    return nil
  end
  return reply
end
