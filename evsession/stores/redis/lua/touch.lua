-- touch.lua: move the idle deadline of a living session forward. Not an event: publishes nothing.
--
-- KEYS[1]  {ns:NN}:s:<sid>  snapshot   KEYS[2]  {ns:NN}:exp
-- ARGV[1]  sid   ARGV[2]  idle ms from now
--
-- Returns {sid, now, idle deadline, absolute deadline} | {sid, now}
-- Cost    O(log n)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local header = redis.call('GETRANGE', KEYS[1], 0, 124)
if #header < 125 or string.sub(header, 39, 39) == 'E' then return {ARGV[1], now} end
local idle_at, absolute_at = tonumber(string.sub(header, 76, 88)), tonumber(string.sub(header, 89, 101))
if now >= idle_at or now >= absolute_at then return {ARGV[1], now} end
if now + ARGV[2] > idle_at then
  idle_at = now + ARGV[2]
  redis.call('SETRANGE', KEYS[1], 75, string.format('%013.0f', idle_at))
  redis.call('ZADD', KEYS[2], string.format('%.0f', math.min(idle_at, absolute_at)), ARGV[1])
end
return {ARGV[1], now, string.format('%.0f', idle_at), string.format('%.0f', absolute_at)}
