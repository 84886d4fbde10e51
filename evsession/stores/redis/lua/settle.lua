-- settle.lua: bring the expiry index in line with a session's header, which is the authority.
--
-- KEYS[1]  {ns:NN}:s:<sid>  snapshot   KEYS[2]  {ns:NN}:exp
-- ARGV[1]  sid
--
-- Returns the new score, or 0 if the session is not there or no longer lives
-- Cost    O(log n)

local header = redis.call('GETRANGE', KEYS[1], 0, 124)
if #header < 125 or string.sub(header, 39, 39) == 'E' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return 0
end
local deadline = math.min(tonumber(string.sub(header, 76, 88)), tonumber(string.sub(header, 89, 101)))
redis.call('ZADD', KEYS[2], string.format('%.0f', deadline), ARGV[1])
return string.format('%.0f', deadline)
