-- A series is counted by one of its fields: its value, or the sum of a histogram.
local function is_counted_by(field)
  return field == '' or string.sub(field, -1) == '"' or string.sub(field, -4) == '|sum'
end

-- The field of the state that counts the series of a hash.
local function series_field(key)
  return 'series:' .. key
end
